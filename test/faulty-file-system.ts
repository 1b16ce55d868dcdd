import { type FileSystem, nodeFileSystem } from '../lib/file-system.js'

export interface Fault {
  /** Counted from 0 over all calls that change something; Infinity: none fails. */
  nth: number
  code: string
  /** Everything after the failing call fails too, as if the process had been killed there: no tidying up. */
  killed?: boolean
}

const held = new Set<string>()

/** The real file system with locks of this process alone, and one call that fails. `calls` lists those made. */
export function faultyFileSystem(fault: Fault): FileSystem & { readonly calls: string[] } {
  const calls: string[] = []
  function call<T>(name: string, run: () => Promise<T>): Promise<T> {
    const index = calls.push(name) - 1
    if (index === fault.nth || (fault.killed === true && index > fault.nth))
      return Promise.reject(
        Object.assign(new Error(`${fault.code}: injected, ${name}`), { code: fault.code }),
      )
    return run()
  }
  const real = nodeFileSystem
  return {
    ...real,
    calls,
    makeFolder: (path) => call('makeFolder', () => real.makeFolder(path)),
    writeFile: (path, content) =>
      call('writeFile', () => real.writeFile(path, content)).catch(async (error: unknown) => {
        // A write that fails half-way has written half.
        if (calls.length - 1 === fault.nth)
          await real.writeFile(path, content.slice(0, content.length >> 1))
        throw error
      }),
    async openAppend(path) {
      const file = await call('openAppend', () => real.openAppend(path))
      return {
        append: (bytes) =>
          call('append', () => file.append(bytes)).catch(async (error: unknown) => {
            if (calls.length - 1 === fault.nth)
              await file.append(bytes.subarray(0, bytes.length >> 1))
            throw error
          }),
        sync: () => call('sync', () => file.sync()),
        truncate: (size) => call('truncate', () => file.truncate(size)),
        close: () => file.close(),
      }
    },
    sync: (path) => call('sync', () => real.sync(path)),
    rename: (from, to) => call('rename', () => real.rename(from, to)),
    exchange: (a, b) => call('exchange', () => real.exchange(a, b)),
    link: (from, to) => call('link', () => real.link(from, to)),
    remove: (path) => call('remove', () => real.remove(path)),
    lock(path) {
      if (held.has(path)) return null
      held.add(path)
      return () => held.delete(path)
    },
  }
}

/** The real file system, with locks of this process alone. */
export function localFileSystem(): FileSystem {
  return faultyFileSystem({ nth: Infinity, code: '' })
}
