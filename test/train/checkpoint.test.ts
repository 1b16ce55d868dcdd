import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import {
  appendFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { CheckpointError, FormatError, type PolyloraError } from '../../lib/errors.js'
import type { FileSystem } from '../../lib/file-system.js'
import { findCheckpoint, saveCheckpoint } from '../../lib/train/checkpoint.js'
import { RunFolder } from '../../lib/train/run-folder.js'
import { faultyFileSystem, localFileSystem } from '../faulty-file-system.js'
import { temporaryFolder } from '../temporary-folder.js'

const local = localFileSystem()

/** The content of the files at a step: any function of the step will do. */
const content = (step: number) => `weights of step ${step} `.repeat(step + 37)

/** Writes as a trainer does: through the file system that a fault may sit in, and one file in a folder. */
function save(run: RunFolder, step: number, keep = 2) {
  return saveCheckpoint(
    run,
    step,
    async (folder) => {
      await run.fileSystem.writeFile(join(folder, 'adapter.bin'), content(step))
      await run.fileSystem.makeFolder(join(folder, 'moments/first'))
      await run.fileSystem.writeFile(join(folder, 'moments/first/a.bin'), `${step}`)
    },
    { step, position: step * 8 },
    { keep },
  )
}

async function newRun(path: string, fileSystem: FileSystem = local): Promise<RunFolder> {
  const run = await RunFolder.open(path, { resume: existsSync(path), fileSystem })
  try {
    if (run.saved === null) await run.begin({ seed: 1 })
    return run
  } catch (error) {
    run.close()
    throw error
  }
}

const names = (path: string) => readdirSync(path).sort()

describe('checkpoint', () => {
  const at = temporaryFolder()

  it('comes back with its state; older ones are pruned', async () => {
    using run = await newRun(at('plain'))
    assert.equal(await findCheckpoint(run), null)
    for (const step of [5, 10, 15, 100]) assert.deepEqual((await save(run, step)).notRemoved, [])
    assert.deepEqual(names(run.path), ['run.json', 'step-100', 'step-15'])
    const found = await findCheckpoint(run)
    assert.deepEqual(found, {
      step: 100,
      folder: join(run.path, 'step-100'),
      state: { step: 100, position: 800 },
      skipped: [],
    })
    assert.equal(readFileSync(join(run.path, 'step-100/adapter.bin'), 'utf8'), content(100))
    await save(run, 101, 1)
    assert.deepEqual(names(run.path), ['run.json', 'step-101'])
  })

  it('may be saved again at the same step', async () => {
    using run = await newRun(at('again'))
    await save(run, 3)
    await saveCheckpoint(run, 3, () => Promise.resolve(), 'second', { keep: 1 })
    assert.equal((await findCheckpoint(run))?.state, 'second')
    assert.deepEqual(names(run.path), ['run.json', 'step-3'])
  })

  it('is skipped when damaged in any way, with the reason', async () => {
    const damage: [string, (folder: string) => void, RegExp][] = [
      [
        'flip',
        (f) => writeFileSync(join(f, 'adapter.bin'), content(9).replace('w', 'v')),
        /checksum of adapter\.bin/,
      ],
      ['cut', (f) => truncateSync(join(f, 'adapter.bin'), 11), /adapter\.bin has 11 bytes/],
      ['grown', (f) => appendFileSync(join(f, 'moments/first/a.bin'), '!'), /a\.bin has 2 bytes/],
      ['lost', (f) => rmSync(join(f, 'moments'), { recursive: true }), /first\/a\.bin is missing/],
      [
        'state',
        (f) => writeFileSync(join(f, 'state.json'), '{"step":8,"position":72}'),
        /checksum of state/,
      ],
      ['no-manifest', (f) => rmSync(join(f, 'manifest.json')), /manifest\.json is missing/],
      [
        'torn-manifest',
        (f) => truncateSync(join(f, 'manifest.json'), 40),
        /manifest\.json cannot be read/,
      ],
      ['null-manifest', (f) => writeFileSync(join(f, 'manifest.json'), 'null'), /not a manifest/],
      [
        'odd-manifest',
        (f) => writeFileSync(join(f, 'manifest.json'), '{"version":1,"step":9,"files":{"a":3}}'),
        /not a manifest/,
      ],
      [
        'empty-manifest',
        (f) => writeFileSync(join(f, 'manifest.json'), '{"version":1,"step":9,"files":{}}'),
        /state\.json is missing/,
      ],
      [
        'other-step',
        (f) =>
          writeFileSync(join(f, 'manifest.json'), readFileSync(join(f, '../step-6/manifest.json'))),
        /manifest is of step 6/,
      ],
      [
        'outside',
        (f) =>
          writeFileSync(
            join(f, 'manifest.json'),
            '{"version":1,"step":9,"files":{"../run.json":{"size":1,"sha256":""}}}',
          ),
        /run\.json is missing/,
      ],
      [
        'link',
        (f) => {
          rmSync(join(f, 'adapter.bin'))
          symlinkSync('../step-6/adapter.bin', join(f, 'adapter.bin'))
        },
        /neither a file nor a folder/,
      ],
      [
        'emptied',
        (f) => {
          rmSync(f, { recursive: true })
          mkdirSync(f)
        },
        /manifest\.json is missing/,
      ],
      [
        'file',
        (f) => {
          rmSync(f, { recursive: true })
          writeFileSync(f, '')
        },
        /manifest\.json is missing/,
      ],
    ]
    for (const [name, break_, expected] of damage) {
      const path = at(`damaged-${name}`)
      {
        using run = await newRun(path)
        await save(run, 6)
        await save(run, 9)
      }
      break_(join(path, 'step-9'))
      using run = await newRun(path)
      const found = await findCheckpoint(run)
      assert.equal(found?.step, 6, name)
      assert.equal(found.skipped.length, 1)
      assert.equal(found.skipped[0].folder, join(path, 'step-9'))
      assert.match(found.skipped[0].reason, expected, name)
      // The run goes on: what was damaged does not push good checkpoints out, and goes itself.
      await save(run, 7)
      assert.deepEqual(names(path), ['run.json', 'step-6', 'step-7'], name)
      await save(run, 9)
      assert.deepEqual(names(path), ['run.json', 'step-7', 'step-9'], name)
      assert.equal((await findCheckpoint(run))?.step, 9)
    }
  })

  it('fails when all are damaged, naming each', async () => {
    const path = at('all-damaged')
    {
      using run = await newRun(path)
      await save(run, 1)
      await save(run, 2)
    }
    truncateSync(join(path, 'step-1/adapter.bin'), 0)
    rmSync(join(path, 'step-2/manifest.json'))
    using run = await newRun(path)
    await assert.rejects(findCheckpoint(run), (error: PolyloraError) => {
      assert.ok(error instanceof CheckpointError)
      assert.match(
        error.message,
        /step-2 \(manifest\.json is missing\); step-1 \(adapter\.bin has 0/,
      )
      return true
    })
    assert.deepEqual(names(path), ['run.json', 'step-1', 'step-2'])
  })

  it('keeps the older checkpoint whichever call fails, and says what is needed', async () => {
    const counter = faultyFileSystem({ nth: Infinity, code: '' })
    {
      using run = await newRun(at('count'), counter)
      await save(run, 4)
      await save(run, 8, 1)
    }
    const calls = counter.calls.length
    assert.ok(calls > 30, `${calls} calls`)
    for (let nth = 0; nth < calls; nth++) {
      const path = at(`fault-${nth}`)
      const faulty = faultyFileSystem({ nth, code: 'ENOSPC' })
      let saved = 0
      // In a function: esbuild's `using` in a loop throws the last round's error again.
      const failure: unknown = await (async () => {
        using run = await newRun(path, faulty)
        await save(run, 4)
        saved = 4
        await save(run, 8, 1)
        saved = 8
      })().catch((error: unknown) => error)
      const what = `call ${nth}, ${faulty.calls[nth]}`
      if (failure !== undefined) {
        assert.ok(failure instanceof CheckpointError, `${what}: ${String(failure)}`)
        assert.match(failure.message, /ENOSPC/)
        assert.equal(failure.details.error, 'ENOSPC')
        assert.ok((failure.cause as Error).message.includes('injected'))
        assert.ok(failure.message.includes(path), `${what}: ${failure.message}`)
      }
      using run = await newRun(path)
      for (const name of names(path)) assert.match(name, /^(run\.json|step-\d)$/, what)
      const found = await findCheckpoint(run)
      assert.deepEqual(found?.skipped ?? [], [], what)
      assert.ok((found?.step ?? 0) >= saved, what)
      if (found) assert.deepEqual(found.state, { step: found.step, position: found.step * 8 })
    }
  })

  it('survives being killed at every call', async () => {
    const counter = faultyFileSystem({ nth: Infinity, code: '' })
    {
      using run = await newRun(at('count-kills'), counter)
      for (const step of [1, 2, 3]) await save(run, step, 1)
    }
    for (let nth = 0; nth < counter.calls.length; nth++) {
      const path = at(`kill-${nth}`)
      const faulty = faultyFileSystem({ nth, code: 'EIO', killed: true })
      let saved = 0
      await (async () => {
        using run = await newRun(path, faulty)
        for (const step of [1, 2, 3]) {
          await save(run, step, 1)
          saved = step
        }
      })().catch(() => undefined)
      using run = await newRun(path)
      const found = await findCheckpoint(run)
      assert.deepEqual(found?.skipped ?? [], [])
      assert.ok((found?.step ?? 0) >= saved, `call ${nth}, ${faulty.calls[nth]}`)
      for (const name of names(path)) assert.match(name, /^(run\.json|step-\d)$/)
      await save(run, 4, 1)
      assert.equal((await findCheckpoint(run))?.step, 4)
    }
  })

  it('reports a failure of the writer with its cause and the space', async () => {
    using run = await newRun(at('writer'))
    await save(run, 1)
    const cause = new FormatError('no space left on device', {
      details: { error: 'ENOSPC', bytesNeeded: 5000 },
    })
    const failing = saveCheckpoint(
      run,
      2,
      async (folder) => {
        await writeFile(join(folder, 'a'), 'x'.repeat(123))
        throw cause
      },
      null,
      { keep: 1 },
    )
    await assert.rejects(failing, (error: PolyloraError) => {
      assert.ok(error instanceof CheckpointError)
      assert.equal(error.cause, cause)
      assert.equal(error.details.bytesNeeded, 5123)
      assert.equal(typeof error.details.bytesAvailable, 'number')
      assert.equal(error.details.error, 'ENOSPC')
      assert.match(
        error.message,
        /step-2: the checkpoint could not be written: no space left .* 5123 bytes are needed, \d+ bytes are available/,
      )
      return true
    })
    assert.deepEqual(names(run.path), ['run.json', 'step-1'])
    const asked = saveCheckpoint(run, 2, () => Promise.reject(new Error('x')), null, {
      keep: 1,
      bytesNeeded: 77,
    })
    await assert.rejects(asked, /77 bytes are needed/)
  })

  it('says what could not be pruned, and lives on', async () => {
    const path = at('unpruned')
    let refuse = false
    const stubborn: FileSystem = {
      ...local,
      rename: (from, to) =>
        refuse && to.endsWith('.removed')
          ? Promise.reject(new Error('busy'))
          : local.rename(from, to),
    }
    using run = await newRun(path, stubborn)
    await save(run, 1)
    refuse = true
    const { notRemoved } = await save(run, 2, 1)
    assert.deepEqual(notRemoved, [{ folder: join(path, 'step-1'), reason: 'busy' }])
    refuse = false
    await save(run, 3, 1)
    assert.deepEqual(names(path), ['run.json', 'step-3'])
  })

  it('leaves the event loop free while it hashes', async () => {
    using run = await newRun(at('large'))
    const large = Buffer.alloc(192 << 20, 7)
    const write = (folder: string) => writeFile(join(folder, 'a'), large)
    const delay = monitorEventLoopDelay({ resolution: 1 })
    delay.enable()
    await saveCheckpoint(run, 1, write, null, { keep: 1 })
    assert.ok(await findCheckpoint(run))
    delay.disable()
    const begin = performance.now()
    createHash('sha256').update(large).digest()
    const inOnePiece = performance.now() - begin
    assert.ok(
      delay.max / 1e6 < inOnePiece / 2,
      `the event loop stood for ${delay.max / 1e6} ms, hashing takes ${inOnePiece} ms`,
    )
  })

  it('stops looking when it is told to', async () => {
    using run = await newRun(at('aborted'))
    await save(run, 1)
    const reason = new Error('enough')
    await assert.rejects(findCheckpoint(run, { signal: AbortSignal.abort(reason) }), reason)
  })
})
