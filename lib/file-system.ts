import { createReadStream } from 'node:fs'
import {
  cp,
  link,
  lstat,
  mkdir,
  open,
  readdir,
  readFile,
  realpath,
  rename,
  rm,
  stat,
  statfs,
  writeFile,
} from 'node:fs/promises'
import { dirname } from 'node:path'
import { loadNative } from './native.js'

/** What an entry of a folder is; symbolic links are `other`. */
export interface FileInfo {
  readonly kind: 'file' | 'folder' | 'other'
  readonly size: number
}

/** A file that grows at its end. */
export interface AppendFile {
  append(bytes: Uint8Array): Promise<void>
  sync(): Promise<void>
  truncate(size: number): Promise<void>
  close(): Promise<void>
}

/**
 * The calls that everything durable is made of (run folders, checkpoints, adapters, models), as one object, so that a
 * test can make each of them fail. Errors are Node's own, with `code`.
 */
export interface FileSystem {
  /** Makes a folder and its parents, durably; one that exists already is left as it is. */
  makeFolder(path: string): Promise<void>
  /** Null if there is nothing at `path`. Links are not followed. */
  inspect(path: string): Promise<FileInfo | null>
  /** Names in a folder, sorted. */
  list(folder: string): Promise<string[]>
  /** Refuses files above `cap` bytes. */
  readText(path: string, cap: number): Promise<string>
  readChunks(path: string): AsyncIterable<Uint8Array>
  /** Creates or overwrites a file; not durable before `sync`. */
  writeFile(path: string, content: string | Uint8Array): Promise<void>
  /** Opens for appending, creating the file if need be. */
  openAppend(path: string): Promise<AppendFile>
  /** Makes the content of a file, or the names in a folder, durable. */
  sync(path: string): Promise<void>
  rename(from: string, to: string): Promise<void>
  /** Swaps what two names stand for, in one step; false if the file system cannot do that. */
  exchange(a: string, b: string): Promise<boolean>
  /** Gives what `from` names, which is no folder, a second name; it is copied where that is not possible. */
  link(from: string, to: string): Promise<void>
  /** Removes a file, or a folder with everything in it; nothing there is no error. */
  remove(path: string): Promise<void>
  realPath(path: string): Promise<string>
  /** Bytes that may still be written where `path` lies. */
  available(path: string): Promise<number>
  /**
   * Takes an advisory lock until the returned function is called or the process ends; null if another holds it. `path` is
   * a folder, or else a file, which is created if need be.
   */
  lock(path: string): (() => void) | null
}

// What file systems without hard links say, and what is said about more links than they have.
const cannotLink = ['EPERM', 'ENOSYS', 'EOPNOTSUPP', 'ENOTSUP', 'EMLINK', 'EXDEV']

/** The real one. */
export const nodeFileSystem: FileSystem = {
  async makeFolder(path) {
    // Not with `recursive`, which says that the folder does not exist whatever the reason is that it was not made.
    try {
      await mkdir(path)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === 'EEXIST' && (await stat(path)).isDirectory()) return
      if (code !== 'ENOENT' || dirname(path) === path) throw error
      await nodeFileSystem.makeFolder(dirname(path))
      await mkdir(path).catch((again: NodeJS.ErrnoException) => {
        // Somebody else was faster.
        if (again.code !== 'EEXIST') throw again
      })
    }
    await nodeFileSystem.sync(dirname(path))
  },
  async inspect(path) {
    try {
      const info = await lstat(path)
      const kind = info.isFile() ? 'file' : info.isDirectory() ? 'folder' : 'other'
      return { kind, size: info.size }
    } catch (error) {
      if (isMissing(error)) return null
      throw error
    }
  },
  async list(folder) {
    return (await readdir(folder)).sort()
  },
  async readText(path, cap) {
    const { size } = await lstat(path)
    if (size > cap)
      throw new Error(`${path}: has ${size} bytes, at most ${cap} are allowed for this file`)
    return readFile(path, 'utf8')
  },
  readChunks(path) {
    return createReadStream(path, { highWaterMark: 1 << 18 })
  },
  writeFile,
  async openAppend(path) {
    const file = await open(path, 'a')
    return {
      async append(bytes) {
        await file.writeFile(bytes)
      },
      sync: () => file.sync(),
      truncate: (size) => file.truncate(size),
      close: () => file.close(),
    }
  },
  async sync(path) {
    const file = await open(path, 'r')
    try {
      await file.sync()
    } finally {
      await file.close()
    }
  },
  rename,
  exchange: (a, b) => loadNative().exchangePaths(a, b),
  async link(from, to) {
    try {
      await link(from, to)
    } catch (error) {
      const { code } = error as NodeJS.ErrnoException
      if (code === undefined || !cannotLink.includes(code)) throw error
      await cp(from, to, { verbatimSymlinks: true })
    }
  },
  async remove(path) {
    await rm(path, { recursive: true, force: true })
  },
  realPath: realpath,
  async available(path) {
    const { bavail, bsize } = await statfs(path)
    return bavail * bsize
  },
  lock(path) {
    const native = loadNative()
    const lock = native.lockFile(path)
    return lock && (() => native.unlockFile(lock))
  },
}

/** The errno name of a failure of Node's file system or of the addon's; null if it has none. */
export function systemError(error: unknown): unknown {
  const { code, details } = (error ?? {}) as { code?: unknown; details?: { error?: unknown } }
  return details?.error ?? code ?? null
}

/** What a user can do about an error of the file system with this code, as an imperative. */
export function whatToDo(code: unknown): string {
  switch (code) {
    case 'ENOSPC':
      return 'free some space there'
    case 'EDQUOT':
      return 'free some of the quota there, or have it raised'
    case 'EACCES':
    case 'EPERM':
      return 'check the permissions of the folder'
    case 'EROFS':
      return 'it is mounted read-only: mount it for writing, or choose another folder'
    case 'EIO':
      return 'check the disk and its connection'
    case 'EMFILE':
    case 'ENFILE':
      return 'raise the limit on open files (ulimit -n)'
    default:
      return 'check the folder and what else is using it'
  }
}

/** Whether an error says that nothing is there. */
export function isMissing(error: unknown): boolean {
  const code = (error as NodeJS.ErrnoException | null)?.code
  return code === 'ENOENT' || code === 'ENOTDIR'
}
