import assert from 'node:assert/strict'
import { it } from 'mocha'
import type { Adapter } from '../../lib/adapters/adapter.js'
import { loadAdapter } from '../../lib/adapters/peft.js'
import { type Example, packBatch, type StepPlan } from '../../lib/data/packed-batch.js'
import type { Device } from '../../lib/device.js'
import type { Decoder } from '../../lib/models/index.js'
import { eachWeight } from '../../lib/models/index.js'
import { Parameter } from '../../lib/parameter.js'
import { Tensor } from '../../lib/tensor.js'
import type { AdamWOptions } from '../../lib/train/optimizer.js'
import { type Schedule, scheduleFactor } from '../../lib/train/schedule.js'
import { trainMicroBatch } from '../../lib/train/step.js'
import { Trainer } from '../../lib/train/trainer.js'
import { relativeError } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { goldenJson, goldenPath, goldenTensors } from '../golden-files.js'
import { loadGoldenModel } from '../models/golden-model.js'

interface GoldenStep {
  step: number
  loss: number
  microBatchLossSums: number[]
  gradNorm: number
  tokens: number
  factor: number
  learningRate: number
}

interface GoldenRun {
  base: string
  optimizer: AdamWOptions
  schedule: Schedule
  loraPlusRatio?: number
  steps: GoldenStep[]
  lossAfterOnFirstBatch: number
}

interface GoldenSequence {
  tokens: number[]
  labels: number[]
}

const batches = goldenJson<{ ignored: number; steps: GoldenSequence[][][] }>(
  'training/batches.json',
)

let sampleIndex = 0
const plans = batches.steps.map((microBatches): StepPlan => {
  const packed = microBatches.map((sequences) =>
    packBatch(
      sequences.map(({ tokens, labels }) => {
        const example: Example = {
          inputIds: Int32Array.from(tokens),
          labelMask: Uint8Array.from(labels, (label) => (label === batches.ignored ? 0 : 1)),
          discipline: 0,
        }
        return { example, sampleIndex: sampleIndex++ }
      }),
      ['all'],
    ),
  )
  return {
    batches: packed,
    trainedTokens: packed.reduce((sum, { labels }) => sum + labels.length, 0),
  }
})

interface Opened extends Disposable {
  readonly run: GoldenRun
  readonly decoder: Decoder
  readonly adapter: Adapter | null
}

async function open(device: Device, name: string): Promise<Opened> {
  const run = goldenJson<GoldenRun>(`training/${name}/run.json`)
  const decoder = await loadGoldenModel(device, run.base)
  const adapter = name.startsWith('full')
    ? null
    : await loadAdapter(device, decoder.config, goldenPath(`training/${name}/start`), {
        loraPlusRatio: run.loraPlusRatio,
      })
  return {
    run,
    decoder,
    adapter,
    [Symbol.dispose]() {
      adapter?.dispose()
      decoder[Symbol.dispose]()
    },
  }
}

/** Values or gradients of all that is trained, by the names of the golden files. */
async function trainedValues(
  { decoder, adapter }: Opened,
  which: 'value' | 'gradient',
): Promise<Map<string, Float32Array>> {
  return new Map(
    Object.entries(
      await evaluate<string>(() => {
        const tensors: Record<string, Tensor> = {}
        if (adapter)
          for (const { path, group, part } of adapter.modules) {
            const prefix = `base_model.model.${path}.lora_`
            tensors[`${prefix}A.weight`] = group.a[which]!.slice(0, part.begin, part.end)
            tensors[`${prefix}B.weight`] = part.b[which]!
          }
        else
          for (const one of eachWeight(decoder.weights))
            tensors[one.name] = (one instanceof Parameter ? one : one.master!)[which]!
        return tensors
      }),
    ),
  )
}

/** Compares name by name, nothing left over. */
function assertTensors(
  actual: ReadonlyMap<string, Float32Array>,
  file: string,
  tolerance: number,
): void {
  const expected = goldenTensors(file)
  assert.deepEqual([...actual.keys()].sort(), [...expected.keys()].sort())
  for (const [name, values] of actual) {
    const error = relativeError(values, expected.get(name)!.values)
    assert.ok(error <= tolerance, `${name}: ${error} of the largest`)
  }
}

const runs = {
  'lora-qwen2': 'LoRA on all linear layers, 20 steps',
  'lora-llama': 'LoRA on five modules, 20 steps',
  'lora-patterns': 'rsLoRA with rank and alpha patterns',
  'lora-plus': 'LoRA+',
  'lora-qwen3-bfloat16': 'LoRA over a base that is stored as bf16',
  'full-llama': 'full fine-tuning',
  'full-qwen2-tied': 'full fine-tuning of a tied model that is stored as bf16',
}

forEachDevice('training', (context) => {
  for (const [name, what] of Object.entries(runs)) {
    it(`has the gradients of transformers and PEFT: ${what}`, async () => {
      const { device } = context
      using opened = await open(device, name)
      const { decoder, adapter, run } = opened
      // The trainer makes the gradient buffers.
      const trainer = new Trainer(decoder, adapter, run.optimizer)
      const [plan] = plans
      const losses: Float32Array[] = []
      for (const batch of plan.batches) {
        const { loss } = await evaluate(() => {
          const loss = Tensor.empty(device, [batch.labels.length])
          const step = Tensor.from(device, Int32Array.of(1))
          const lossScale = Tensor.from(device, [1 / plan.trainedTokens])
          trainMicroBatch(decoder, adapter, batch, { step, lossScale }, loss)
          return { loss }
        })
        losses.push(loss)
      }
      losses.forEach((loss, i) => {
        const sum = loss.reduce((total, value) => total + value, 0)
        const expected = run.steps[0].microBatchLossSums[i]
        assert.ok(Math.abs(sum / expected - 1) < 1e-5, `loss of micro-batch ${i}: ${sum}`)
      })
      // The reference's noise is 2e-6 of the norm; single gradients are up to ten times as noisy as the whole.
      assertTensors(
        await trainedValues(opened, 'gradient'),
        `training/${name}/gradients.safetensors`,
        2e-5,
      )
      trainer.dispose()
    })

    it(`follows the losses and gradient norms of transformers and PEFT: ${what}`, async () => {
      using opened = await open(context.device, name)
      const { decoder, adapter, run } = opened
      const trainer = new Trainer(decoder, adapter, run.optimizer)
      for (const expected of run.steps) {
        const factor = scheduleFactor(run.schedule, expected.step, run.steps.length)
        const report = await trainer.step(plans[expected.step - 1], expected.step, factor)
        const label = `step ${expected.step}`
        assert.equal(report.applied, true)
        assert.equal(report.trainedTokens, expected.tokens, label)
        assert.ok(Math.abs(report.learningRate - expected.learningRate) < 1e-12, label)
        assert.ok(
          Math.abs(report.loss - expected.loss) < 1e-4,
          `${label}: loss ${report.loss}, not ${expected.loss}`,
        )
        assert.ok(
          Math.abs(report.gradNorm / expected.gradNorm - 1) < 1e-4,
          `${label}: norm ${report.gradNorm}, not ${expected.gradNorm}`,
        )
      }
      const file = name.startsWith('full') ? 'model' : 'adapter_model'
      // AdamW divides each gradient by its own size: where it is hardly above its noise, so is the update.
      assertTensors(
        await trainedValues(opened, 'value'),
        `training/${name}/final/${file}.safetensors`,
        1e-3,
      )
      // A learning rate of 0 changes nothing, but tells the loss.
      const { loss } = await trainer.step(plans[0], run.steps.length + 1, 0)
      assert.ok(Math.abs(loss - run.lossAfterOnFirstBatch) < 1e-4, `${loss} in the end`)
      trainer.dispose()
    })
  }
})
