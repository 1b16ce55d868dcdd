import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { ArgumentError, FormatError } from '../lib/errors.js'
import { loadNative, type NativeLock } from '../lib/native.js'
import { temporaryFolder } from './temporary-folder.js'

const root = fileURLToPath(new URL('..', import.meta.url))

describe('loading the addon', () => {
  const inFolder = temporaryFolder()
  // What the loader says where the addon is looked for in `folder` alone.
  const load = (folder: string) => {
    const code = `import { loadNative } from './lib/native.ts'
      try { loadNative() } catch (error) {
        console.log(JSON.stringify([error.name, error.code, error.message, error.details]))
      }`
    const { stdout } = spawnSync(
      process.execPath,
      ['--import', 'tsx', '--input-type=module', '-e', code],
      { cwd: root, encoding: 'utf8', env: { ...process.env, POLYLORA_PREBUILD: folder } },
    )
    return JSON.parse(stdout) as [string, string, string, { file: string | null; reason: string }]
  }

  it('happens once', () => {
    assert.equal(loadNative(), loadNative())
  })

  it('fails with a typed error where there is none', () => {
    const [name, code, message, details] = load(inFolder('nothing'))
    assert.deepEqual([name, code], ['DeviceError', 'ERR_POLYLORA_DEVICE'])
    assert.match(message, /no native addon was found for this platform/)
    assert.equal(details.file, null)
    assert.match(details.reason, /No native build was found/)
  })

  it('fails with a typed error that names a file which cannot be loaded', () => {
    mkdirSync(inFolder('damaged/build/Release'), { recursive: true })
    const file = inFolder('damaged/build/Release/polylora.node')
    writeFileSync(file, 'not an addon')
    const [name, , message, details] = load(inFolder('damaged'))
    assert.equal(name, 'DeviceError')
    assert.ok(message.includes(file))
    assert.equal(details.file, file)
    assert.match(details.reason, /too short|invalid ELF/)
  })
})

describe('locks', () => {
  const inFolder = temporaryFolder()
  const native = loadNative()
  // Whether another process can lock the file.
  const canBeLockedElsewhere = (path: string): boolean => {
    const file = native.backends().find(({ kind }) => kind === 'cpu')!.file!
    const code = `console.log(require(${JSON.stringify(file)}).lockFile(${JSON.stringify(path)}) !== null)`
    return spawnSync(process.execPath, ['-e', code], { encoding: 'utf8' }).stdout === 'true\n'
  }

  it('are held by one at a time', () => {
    const path = inFolder('run.lock')
    const lock = native.lockFile(path)
    assert.ok(lock)
    assert.equal(native.lockFile(path), null)
    assert.equal(canBeLockedElsewhere(path), false)
    native.unlockFile(lock)
    native.unlockFile(lock)
    assert.equal(canBeLockedElsewhere(path), true)
    const again = native.lockFile(path)
    assert.ok(again)
    native.unlockFile(again)
  })

  it('are not held by a call that fails for want of stack', () => {
    const atEdgeOfStack = (call: () => NativeLock | null): NativeLock | null => {
      try {
        return atEdgeOfStack(call)
      } catch (error) {
        if (error instanceof RangeError) return call()
        throw error
      }
    }
    for (let i = 0; i < 40; i++) {
      const path = inFolder(`${i}.lock`)
      const lock = atEdgeOfStack(() => native.lockFile(path))
      assert.ok(lock, `call ${i}: an earlier one, which failed, holds the lock`)
      native.unlockFile(lock)
    }
  })

  it('are not given up by a forgotten handle', async () => {
    const path = inFolder('kept.lock')
    assert.ok(native.lockFile(path))
    for (let i = 0; i < 5; ++i) {
      ;(globalThis as { gc?: () => void }).gc?.()
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    assert.equal(native.lockFile(path), null)
  })

  it('say why a file cannot be locked', () => {
    assert.throws(
      () => native.lockFile(inFolder('no/where')),
      (error) => error instanceof FormatError && /No such file/.test(error.message),
    )
    assert.throws(() => native.lockFile('a\0'), ArgumentError)
  })
})
