import assert from 'node:assert/strict'
import { type ChildProcess, spawn } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { isPolyloraError } from '../../lib/errors.js'
import { parseTrainConfig, type TrainConfigInput } from '../../lib/train/options.js'
import { runTraining } from '../../lib/train/run.js'

const model = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))
const child = fileURLToPath(new URL('./run-child.mjs', import.meta.url))

describe('training runs', function () {
  this.timeout(180_000)
  let folder: string

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-run-'))
    const records = Array.from({ length: 60 }, (_, i) => ({
      prompt: `What comes after ${i}?`,
      completion: ` It is ${i + 1}${'!'.repeat(i % 7)}`,
    }))
    const lines = (from: number, to: number) =>
      records
        .slice(from, to)
        .map((record) => `${JSON.stringify(record)}\n`)
        .join('')
    writeFileSync(join(folder, 'numbers.jsonl'), lines(0, 45))
    writeFileSync(join(folder, 'rare.jsonl'), lines(45, 55))
    writeFileSync(join(folder, 'validation.jsonl'), lines(55, 60))
  })

  afterEach(() => {
    rmSync(folder, { recursive: true, force: true })
  })

  function configuration(
    output: string,
    changes: Partial<TrainConfigInput> = {},
  ): TrainConfigInput {
    return {
      model,
      output: join(folder, output),
      method: { kind: 'lora', rank: 4, dropout: 0.1 },
      data: {
        train: [
          { discipline: 'numbers', path: join(folder, 'numbers.jsonl') },
          { discipline: 'rare', path: join(folder, 'rare.jsonl'), weight: 3 },
        ],
        validation: [{ discipline: 'numbers', path: join(folder, 'validation.jsonl') }],
      },
      optimizer: { learningRate: 5e-3 },
      schedule: { kind: 'cosine', warmupSteps: 5 },
      batch: { size: 4, accumulation: 2 },
      steps: 120,
      checkpoint: { every: 4, keep: 2 },
      evaluation: { every: 30 },
      seed: 3,
      ...changes,
    }
  }

  const run = (input: TrainConfigInput, options: Parameters<typeof runTraining>[1] = {}) =>
    runTraining(parseTrainConfig(input), options)

  /** What must not depend on interruptions: every metric but the speed, and every byte of the adapter. */
  function results(output: string): { metrics: unknown[]; adapter: Buffer } {
    const metrics = readFileSync(join(folder, output, 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => {
        const { tokensPerSecond, ...rest } = JSON.parse(line) as Record<string, unknown>
        assert.ok(tokensPerSecond === undefined || Number(tokensPerSecond) > 0)
        return rest
      })
    return {
      metrics,
      adapter: readFileSync(join(folder, output, 'adapter', 'adapter_model.safetensors')),
    }
  }

  it('ends with the same bits when it is killed twenty times and resumed', async () => {
    const finished = await run(configuration('whole'))
    assert.equal(finished.steps, 120)
    const input = configuration('killed')
    // Seeded: which steps are hit still depends on the machine, as it should.
    let seed = 12345
    const random = () => (seed = (Math.imul(seed, 1103515245) + 12345) >>> 0) / 2 ** 32
    let killedWhileTraining = 0
    for (let kill = 0; kill < 20; kill++) {
      const steps = await runAndKill(input, Math.floor(random() * 7), Math.floor(random() * 12))
      if (steps === 'done') break
      killedWhileTraining++
    }
    assert.ok(killedWhileTraining >= 15, `only ${killedWhileTraining} kills hit the run`)
    await run(input, { resume: true })
    const [whole, killed] = [results('whole'), results('killed')]
    assert.deepEqual(killed.metrics, whole.metrics)
    assert.ok(killed.adapter.equals(whole.adapter), 'the adapters differ')
    const names = readdirSync(join(folder, 'killed')).filter((name) => name.startsWith('.step'))
    assert.deepEqual(names, [], 'no unfinished checkpoint is left')
  })

  it('goes on after a signal where it was, and refuses a folder that holds a run', async () => {
    await run(configuration('whole', { steps: 20 }))
    const input = configuration('stopped', { steps: 20 })
    const stop = new AbortController()
    const stopped = run(input, {
      signal: stop.signal,
      onStep: ({ step }) => {
        if (step === 7) stop.abort()
      },
    })
    await assert.rejects(stopped, { code: 'ERR_POLYLORA_ABORTED' })
    assert.ok(existsSync(join(folder, 'stopped', 'step-7')), 'the step of the signal is saved')
    await assert.rejects(run(input), { code: 'ERR_POLYLORA_CONFIG' })
    const changed = configuration('stopped', { steps: 20, optimizer: { learningRate: 1e-3 } })
    await assert.rejects(
      run(changed, { resume: true }),
      (error) => isPolyloraError(error) && /optimizer\.learningRate/.test(error.message),
    )
    await run(input, { resume: true })
    assert.deepEqual(results('stopped').metrics, results('whole').metrics)
    assert.ok(results('stopped').adapter.equals(results('whole').adapter))
  })

  it('writes nothing where a model, an adapter or a corpus is refused', async () => {
    writeFileSync(join(folder, 'bad.jsonl'), '{"prompt": 7}\n')
    const refused: Partial<TrainConfigInput>[] = [
      { model: join(folder, 'no-model') },
      { method: { kind: 'lora', init: join(folder, 'no-adapter') } },
      { data: { train: [{ path: join(folder, 'no.jsonl') }] } },
      { data: { train: [{ path: join(folder, 'bad.jsonl') }] } },
    ]
    for (const changes of refused) {
      await assert.rejects(run(configuration('refused', changes)), isPolyloraError)
      assert.ok(!existsSync(join(folder, 'refused')), JSON.stringify(changes))
    }
    // A folder that was there stays.
    mkdirSync(join(folder, 'mine'))
    await assert.rejects(run(configuration('mine', refused[0])), isPolyloraError)
    assert.ok(existsSync(join(folder, 'mine')))
  })

  it('skips a step that is not finite, and stops after three in a row naming the batch', async () => {
    const messages: string[] = []
    const failing = run(
      configuration('wild', { optimizer: { learningRate: 1e12, gradientClipping: 0 } }),
      {
        onMessage: (message) => messages.push(message),
      },
    )
    await assert.rejects(failing, (error) => {
      assert.ok(isPolyloraError(error))
      assert.match(error.message, /3 steps in a row.*(numbers|rare)\.jsonl:\d+/s)
      return true
    })
    assert.equal(messages.filter((message) => /was skipped/.test(message)).length, 3)
  })

  it('learns: the validation loss falls, and early stopping keeps the best', async () => {
    const losses: number[] = []
    await run(
      configuration('early', {
        optimizer: { learningRate: 2e-2 },
        evaluation: { every: 5, patience: 2 },
        steps: 200,
      }),
      { onEvaluation: ({ loss }) => losses.push(loss) },
    )
    assert.ok(Math.min(...losses) < 0.9 * losses[0], `losses ${losses.join(', ')}`)
    assert.ok(existsSync(join(folder, 'early', 'adapter', 'adapter_config.json')))
  })

  it('trains all weights, and starts from random ones', async () => {
    const { output } = await run(
      configuration('full', { method: { kind: 'full', initialize: true }, steps: 6 }),
    )
    assert.equal(output, join(folder, 'full', 'model'))
    assert.ok(existsSync(join(output, 'model.safetensors')))
    assert.ok(existsSync(join(output, 'tokenizer.json')))
  })

  /** Kills the run some steps after its first one; 'done' if it was finished before. */
  function runAndKill(
    input: TrainConfigInput,
    afterSteps: number,
    afterMs: number,
  ): Promise<'killed' | 'done'> {
    return new Promise((resolve, reject) => {
      const process_: ChildProcess = spawn(process.execPath, [child, JSON.stringify(input)], {
        stdio: ['ignore', 'pipe', 'pipe'],
      })
      let output = ''
      let steps = 0
      process_.stdout!.on('data', (chunk: Buffer) => {
        output += chunk.toString()
        steps += chunk.toString().split('step ').length - 1
        if (steps > afterSteps) setTimeout(() => process_.kill('SIGKILL'), afterMs)
      })
      process_.stderr!.on('data', (chunk: Buffer) => (output += chunk.toString()))
      process_.on('error', reject)
      process_.on('close', (code, signal) => {
        if (signal === 'SIGKILL') resolve('killed')
        else if (code === 0) resolve('done')
        else reject(new Error(`the run failed: ${output}`))
      })
    })
  }
})
