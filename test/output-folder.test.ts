import assert from 'node:assert/strict'
import {
  existsSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { CheckpointError, type PolyloraError } from '../lib/errors.js'
import { type FileSystem, nodeFileSystem } from '../lib/file-system.js'
import { loadNative } from '../lib/native.js'
import { publishFolder, type PublishOptions } from '../lib/output-folder.js'
import { faultyFileSystem } from './faulty-file-system.js'
import { memoryFolder, temporaryFolder } from './temporary-folder.js'

/** As on file systems that cannot swap names. */
const withoutExchange: FileSystem = {
  ...nodeFileSystem,
  exchange: () => Promise.resolve(false),
}

/** Two files that must never be seen apart. */
async function publish(path: string, value: string, options: Partial<PublishOptions> = {}) {
  await publishFolder(path, { what: 'adapter', ...options }, async (folder) => {
    await writeFile(join(folder, 'config.json'), value)
    await writeFile(join(folder, 'weights'), value.repeat(1000))
  })
}

const read = (path: string, name = 'config.json') => readFileSync(join(path, name), 'utf8')

describe('published folders', () => {
  const at = temporaryFolder(memoryFolder())

  it('have one writer at a time', async () => {
    const path = at('busy')
    let go: () => void = () => undefined
    const paused = new Promise<void>((resolve) => (go = resolve))
    const first = publishFolder(path, { what: 'adapter' }, async (folder) => {
      await writeFile(join(folder, 'config.json'), 'first')
      await paused
    })
    while (!existsSync(at('.busy.partial/config.json')))
      await new Promise((resolve) => setTimeout(resolve, 1))
    await assert.rejects(publish(path, 'second'), (error: PolyloraError) => {
      assert.ok(error instanceof CheckpointError)
      assert.match(error.message, /busy: the adapter is being written by somebody else; wait/)
      return true
    })
    go()
    await first
    assert.equal(read(path), 'first')
    await publish(path, 'third', { existing: 'replace' })
    assert.equal(read(path), 'third')
    assert.ok(!readdirSync(at('.')).some((name) => name.startsWith('.busy')))
  })

  it('many writers at once leave one of theirs, whole', async () => {
    const path = at('crowd')
    await publish(path, 'old')
    const values = Array.from({ length: 12 }, (_, i) => `writer ${i}`)
    const results = await Promise.allSettled(
      values.map((value) => publish(path, value, { existing: 'replace' })),
    )
    const done = values.filter((_, i) => results[i].status === 'fulfilled')
    assert.ok(done.length > 0)
    for (const result of results)
      if (result.status === 'rejected')
        assert.match(String(result.reason), /being written by somebody else/)
    assert.ok(done.includes(read(path)), read(path))
    assert.equal(read(path, 'weights'), read(path).repeat(1000))
    assert.ok(!readdirSync(at('.')).some((name) => name.startsWith('.crowd')))
  })

  it('are never missing while they are replaced', async () => {
    const path = at('always')
    await publish(path, 'x0')
    let replacing = true
    let seen = 0
    const looking = (async () => {
      while (replacing) {
        assert.ok(existsSync(join(path, 'config.json')), 'the folder is gone')
        seen++
        await new Promise((resolve) => setImmediate(resolve))
      }
    })()
    for (let i = 1; i <= 20; i++) await publish(path, `x${i}`, { existing: 'replace' })
    replacing = false
    await looking
    assert.ok(seen > 20, `looked ${seen} times`)
    assert.equal(read(path), 'x20')
  })

  for (const [name, fileSystem] of [
    ['names can be swapped', nodeFileSystem],
    ['names cannot be swapped', withoutExchange],
  ] as const)
    it(`keep what others put there, where ${name}`, async () => {
      const path = at(`others-${name.length}`)
      await publish(path, 'old')
      writeFileSync(join(path, 'README.md'), 'mine')
      mkdirSync(join(path, 'notes/deep'), { recursive: true })
      writeFileSync(join(path, 'notes/deep/a.txt'), 'mine too')
      symlinkSync('../nowhere', join(path, 'notes/link'))
      await publish(path, 'new', { existing: 'replace-files', fileSystem })
      assert.equal(read(path), 'new')
      assert.equal(read(path, 'README.md'), 'mine')
      assert.equal(read(path, 'notes/deep/a.txt'), 'mine too')
      assert.ok(lstatSync(join(path, 'notes/link')).isSymbolicLink())
      assert.equal(readlinkSync(join(path, 'notes/link')), '../nowhere')
      assert.ok(!readdirSync(at('.')).some((one) => one.startsWith(`.others-${name.length}`)))
    })

  it('are as before or wholly new whichever call fails, and when the process is killed there', async () => {
    for (const existing of ['replace', 'replace-files'] as const)
      for (const exchange of [true, false])
        for (const killed of [true, false])
          for (let nth = 0; ; nth++) {
            const path = at(`${existing}-${exchange}-${killed}-${nth}`)
            await publish(path, 'old')
            if (existing === 'replace-files') writeFileSync(join(path, 'mine'), 'mine')
            const faulty = faultyFileSystem({ nth, code: 'EIO', killed })
            const fileSystem = exchange ? faulty : { ...faulty, exchange: withoutExchange.exchange }
            const error: unknown = await publish(path, 'new', { existing, fileSystem }).catch(
              (reason: unknown) => reason,
            )
            const what = `${path}, ${faulty.calls[nth]}: ${String(error)}`
            // A killed process leaves it to the next writer to put back what it had set aside: one that fails, say.
            if (killed && !exchange && !existsSync(path))
              await assert.rejects(
                publish(path, 'bad', { what: '', seal: () => Promise.reject(new Error()) }),
              )
            assert.equal(read(path, 'weights'), read(path).repeat(1000), what)
            assert.ok(['old', 'new'].includes(read(path)), what)
            if (error === undefined) assert.equal(read(path), 'new', what)
            else assert.ok(error instanceof CheckpointError, what)
            if (existing === 'replace-files') assert.equal(read(path, 'mine'), 'mine', what)
            if (!killed && faulty.calls[nth] !== 'remove')
              assert.deepEqual(
                readdirSync(at('.')).filter((name) => name.startsWith(`.${existing}`)),
                [],
                what,
              )
            await publish(path, 'again', { existing })
            assert.equal(read(path), 'again')
            assert.deepEqual(
              readdirSync(at('.')).filter((name) => name.startsWith(`.${existing}`)),
              [],
              what,
            )
            if (nth >= faulty.calls.length) break
          }
  })

  it('are locked and swapped by the addon', async () => {
    const native = loadNative()
    const [a, b] = [at('a'), at('b')]
    mkdirSync(a)
    writeFileSync(b, 'b')
    const lock = native.lockFile(a)
    assert.ok(lock)
    assert.equal(native.lockFile(a), null)
    assert.equal(await native.exchangePaths(a, b), true)
    assert.equal(readFileSync(a, 'utf8'), 'b')
    // The lock went with the folder.
    assert.equal(native.lockFile(b), null)
    native.unlockFile(lock)
    const again = native.lockFile(b)
    assert.ok(again)
    native.unlockFile(again)
    await assert.rejects(
      native.exchangePaths(a, at('nothing')),
      /nothing could not be put in place/,
    )
  })
})
