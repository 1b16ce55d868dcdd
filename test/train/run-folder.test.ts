import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join, relative } from 'node:path'
import { CheckpointError, ConfigError, type PolyloraError } from '../../lib/errors.js'
import { compareRun, RunFolder, type RunDescription } from '../../lib/train/run-folder.js'
import { faultyFileSystem, localFileSystem } from '../faulty-file-system.js'
import { temporaryFolder } from '../temporary-folder.js'

const fileSystem = localFileSystem()
const open = (path: string, options: Partial<Parameters<typeof RunFolder.open>[1]> = {}) =>
  RunFolder.open(path, { resume: false, fileSystem, ...options })

describe('run folder', () => {
  const at = temporaryFolder()

  it('is made with its parents, held by one at a time, and written down', async () => {
    const path = at('deep/er/run')
    {
      using run = await open(path)
      assert.equal(run.saved, null)
      await assert.rejects(open(path, { resume: true }), (error: PolyloraError) => {
        assert.ok(error instanceof CheckpointError)
        assert.match(error.message, /run is in use by another process/)
        assert.doesNotMatch(error.message, /\n/)
        return true
      })
      await run.begin({ model: 'm', steps: 3 })
    }
    using again = await open(path, { resume: true })
    assert.deepEqual(again.saved, { model: 'm', steps: 3 })
    await again.begin({ model: 'm', steps: 9 })
    assert.deepEqual(JSON.parse(readFileSync(again.file('run.json'), 'utf8')), {
      model: 'm',
      steps: 9,
    })
  })

  it('is refused without resume when it holds a run, and left as it is', async () => {
    for (const name of ['run.json', 'metrics.jsonl', 'step-7', 'adapter']) {
      const path = at(`held-${name}`)
      mkdirSync(path)
      writeFileSync(join(path, name), 'mine')
      await assert.rejects(open(path, { outputs: ['adapter'] }), (error: PolyloraError) => {
        assert.ok(error instanceof ConfigError)
        assert.match(error.message, new RegExp(`already holds a run \\(${name}\\)`))
        return true
      })
      assert.equal(readFileSync(join(path, name), 'utf8'), 'mine')
    }
  })

  it('accepts a folder with other files, and leaves them alone', async () => {
    const path = at('others')
    mkdirSync(path)
    for (const name of ['config.yaml', '.notes.partial', 'step-1.bak', 'step-01'])
      writeFileSync(join(path, name), '')
    using run = await open(path)
    assert.deepEqual(await run.checkpoints(), [])
    assert.deepEqual(readdirSync(path).sort(), [
      '.notes.partial',
      'config.yaml',
      'step-01',
      'step-1.bak',
    ])
  })

  it('clears away what a killed writer left', async () => {
    const path = at('leftovers')
    mkdirSync(join(path, '.step-12.partial/inner'), { recursive: true })
    mkdirSync(join(path, '.step-4.removed'))
    writeFileSync(join(path, '.run.json.partial'), '{')
    using run = await open(path, { resume: true })
    assert.equal(run.saved, null)
    assert.deepEqual(readdirSync(path), [])
  })

  it('puts back what was set aside for something that never came', async () => {
    const path = at('set-aside')
    for (const name of ['.adapter.replaced', '.model.replaced', 'model', '.other.replaced'])
      mkdirSync(join(path, name), { recursive: true })
    writeFileSync(join(path, '.adapter.replaced/weights'), 'older')
    using run = await open(path, { resume: true, outputs: ['adapter', 'model'] })
    assert.equal(readFileSync(run.file('adapter/weights'), 'utf8'), 'older')
    assert.deepEqual(readdirSync(path).sort(), ['.other.replaced', 'adapter', 'model'])
  })

  it('refuses a folder that is an input or lies inside one, through links too', async () => {
    const model = at('model')
    mkdirSync(model)
    symlinkSync(model, at('link'))
    symlinkSync(at('nowhere'), at('dangling'))
    const cases: [string, RegExp][] = [
      [model, /is the input folder/],
      [`${model}/`, /is the input folder/],
      [relative(process.cwd(), model), /is the input folder/],
      [join(model, '../model/runs/a'), /lies inside the input folder/],
      [at('link'), /is the input folder/],
      [join(at('link'), 'runs/b'), /lies inside the input folder/],
      [at('dangling'), /link to nothing/],
    ]
    for (const [path, expected] of cases)
      await assert.rejects(
        open(path, { inputs: [at('missing'), model] }),
        (error: PolyloraError) => {
          assert.ok(error instanceof ConfigError)
          assert.match(error.message, expected)
          return true
        },
        path,
      )
    assert.deepEqual(readdirSync(model), [])
    assert.ok(!existsSync(at('nowhere')))
    using beside = await open(at('model-2'), { inputs: [model] })
    assert.equal(beside.saved, null)
    using around = await open(at('.'), { inputs: [model] })
    assert.equal(around.saved, null)
  })

  it('refuses what is no folder, and checkpoints without a description', async () => {
    writeFileSync(at('file'), '')
    await assert.rejects(open(at('file')), ConfigError)
    await assert.rejects(open(at('file/below')), (error: PolyloraError) => {
      assert.match(error.message, /cannot be used/)
      return error instanceof ConfigError || error instanceof CheckpointError
    })
    await assert.rejects(open('a\0b'), ConfigError)
    mkdirSync(at('orphan/step-3'), { recursive: true })
    await assert.rejects(open(at('orphan'), { resume: true }), /no run\.json/)
    mkdirSync(at('torn'))
    writeFileSync(at('torn/run.json'), '{"model": ')
    await assert.rejects(open(at('torn'), { resume: true }), (error: PolyloraError) => {
      assert.ok(error instanceof CheckpointError)
      assert.match(error.message, /run\.json cannot be read/)
      return true
    })
    // A refusal gives the lock back.
    await assert.rejects(open(at('torn'), { resume: true }), /run\.json cannot be read/)
  })

  it('keeps the old description when the new one cannot be written', async () => {
    for (let nth = 0; ; nth++) {
      const path = at(`description-${nth}`)
      {
        using run = await open(path)
        await run.begin({ steps: 1 })
      }
      const faulty = faultyFileSystem({ nth: nth + 1, code: 'ENOSPC' })
      using run = await open(path, { resume: true, fileSystem: faulty })
      const error: unknown = await run.begin({ steps: 2 }).catch((reason: unknown) => reason)
      const { steps } = JSON.parse(readFileSync(join(path, 'run.json'), 'utf8')) as RunDescription
      assert.ok(!existsSync(join(path, '.run.json.partial')))
      if (error === undefined) {
        assert.equal(steps, 2)
        assert.equal(nth, 4)
        break
      }
      assert.ok(error instanceof CheckpointError)
      assert.equal(error.details.error, 'ENOSPC')
      assert.equal(steps, nth < 3 ? 1 : 2)
    }
  })
})

describe('compareRun', () => {
  const saved: RunDescription = {
    model: 'm',
    steps: 10,
    threads: null,
    optimizer: { learningRate: 1e-3, betas: [0.9, 0.99] },
    data: { train: [{ path: 'a.jsonl', weight: 1 }] },
    checkpoint: { every: 5 },
  }

  it('accepts the same values, whatever the order of keys, and changes that only say how long', () => {
    compareRun(saved, saved)
    compareRun(saved, {
      data: { train: [{ weight: 1, path: 'a.jsonl' }] },
      checkpoint: { every: 7, keep: 1 },
      threads: 2,
      output: 'elsewhere',
      epochs: 4,
      optimizer: { betas: [0.9, 0.99], learningRate: 1e-3 },
      model: 'm',
    })
  })

  it('names the key, the saved value and the new one', () => {
    const cases: [RunDescription, string, unknown, unknown][] = [
      [{ ...saved, model: 'n' }, 'model', 'm', 'n'],
      [
        { ...saved, optimizer: { learningRate: 2e-3, betas: [0.9, 0.99] } },
        'optimizer.learningRate',
        1e-3,
        2e-3,
      ],
      [
        { ...saved, optimizer: { learningRate: 1e-3, betas: [0.9, 0.95] } },
        'optimizer.betas.1',
        0.99,
        0.95,
      ],
      [
        { ...saved, data: { train: [{ path: 'b.jsonl', weight: 1 }] } },
        'data.train.0.path',
        'a.jsonl',
        'b.jsonl',
      ],
      [{ ...saved, seed: 1 }, 'seed', null, 1],
      [{ ...saved, data: { train: [] } }, 'data.train.0', { path: 'a.jsonl', weight: 1 }, null],
      [{ ...saved, data: { train: {} } }, 'data.train', [{ path: 'a.jsonl', weight: 1 }], {}],
    ]
    for (const [current, key, before, after] of cases)
      assert.throws(
        () => compareRun(saved, current),
        (error: PolyloraError) => {
          assert.ok(error instanceof ConfigError)
          assert.deepEqual(error.details, { key, saved: before, received: after })
          assert.ok(error.message.startsWith(`${key} was `), error.message)
          return true
        },
      )
    const without = Object.fromEntries(Object.entries(saved).filter(([key]) => key !== 'model'))
    assert.throws(() => compareRun(saved, without), /model was "m" .* is now not given/)
  })
})
