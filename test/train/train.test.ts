import assert from 'node:assert/strict'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { lora } from '../../lib/adapters/declaration.js'
import { isPolyloraError } from '../../lib/errors.js'
import { Model } from '../../lib/model.js'
import { parseTrainConfig } from '../../lib/train/options.js'
import { runTraining } from '../../lib/train/run.js'
import { train, type TrainOptions } from '../../lib/train/train.js'

const modelFolder = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))

describe('training in memory', function () {
  this.timeout(60_000)
  let folder: string
  let data: string

  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-train-'))
    data = join(folder, 'numbers.jsonl')
    const records = Array.from({ length: 21 }, (_, i) => ({
      prompt: `What comes after ${i}?`,
      completion: ` It is ${i + 1}${'!'.repeat(i % 7)}`,
    }))
    writeFileSync(data, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  })

  afterEach(() => {
    rmSync(folder, { recursive: true, force: true })
  })

  /** The bytes of the adapter after training. */
  async function trained(options: Omit<TrainOptions, 'data'>): Promise<Buffer> {
    await using model = await Model.load(modelFolder)
    model.attach(lora({ rank: 4, dropout: 0.1, seed: 3 }))
    await train(model, { data, ...options })
    await model.saveAdapter(join(folder, 'adapter'))
    return readFileSync(join(folder, 'adapter', 'adapter_model.safetensors'))
  }

  it('ends with the bits of a run in a folder, whether anyone listens or not', async () => {
    // The last step of the two epochs holds two samples.
    const options = {
      epochs: 2,
      batch: { size: 4, accumulation: 2 },
      optimizer: { learningRate: 5e-3 },
      seed: 3,
    }
    await runTraining(
      parseTrainConfig({
        ...options,
        model: modelFolder,
        output: join(folder, 'run'),
        method: { kind: 'lora', rank: 4, dropout: 0.1 },
        data: { train: [{ path: data }] },
      }),
    )
    const expected = readFileSync(join(folder, 'run', 'adapter', 'adapter_model.safetensors'))
    const steps: number[] = []
    const heard = await trained({ ...options, onStep: ({ step }) => steps.push(step) })
    assert.deepEqual(steps, [1, 2, 3, 4, 5, 6])
    assert.ok(heard.equals(expected), 'the adapters differ')
    assert.ok((await trained(options)).equals(expected), 'the adapters differ without a listener')
  })

  it('stops after three steps in a row that are not finite, naming the batch', async () => {
    const messages: string[] = []
    const failing = trained({
      optimizer: { learningRate: 1e12, gradientClipping: 0 },
      steps: 20,
      onMessage: (message) => messages.push(message),
    })
    await assert.rejects(
      failing,
      (error) =>
        isPolyloraError(error) && /3 steps in a row.*numbers\.jsonl:\d+/s.test(error.message),
    )
    assert.equal(messages.length, 3)
  })

  it('stops at a signal between steps', async () => {
    const stop = new AbortController()
    const stopped = trained({
      steps: 20,
      signal: stop.signal,
      onStep: ({ step }) => {
        if (step === 2) stop.abort()
      },
    })
    await assert.rejects(stopped, { code: 'ERR_POLYLORA_ABORTED' })
  })
})
