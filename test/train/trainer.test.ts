import assert from 'node:assert/strict'
import { it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/declaration.js'
import { type Example, packBatch, type PackedBatch } from '../../lib/data/packed-batch.js'
import type { Device } from '../../lib/device.js'
import { Decoder, parseConfig } from '../../lib/models/index.js'
import {
  type ComputeDType,
  disposeWeights,
  initializeWeights,
  unfreezeWeights,
} from '../../lib/models/load.js'
import { Parameter } from '../../lib/parameter.js'
import { scope } from '../../lib/scope.js'
import { Tensor } from '../../lib/tensor.js'
import { trainMicroBatch } from '../../lib/train/step.js'
import { Trainer, type TrainerOptions } from '../../lib/train/trainer.js'
import { assertClose, assertSameBits } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { assertSameAtAnyThreads } from '../threads.js'

// Odd sizes, larger than the tiles of the kernels where that is cheap.
const config = parseConfig({
  model_type: 'qwen3',
  hidden_size: 70,
  intermediate_size: 131,
  num_hidden_layers: 2,
  num_attention_heads: 6,
  num_key_value_heads: 2,
  head_dim: 10,
  vocab_size: 421,
  max_position_embeddings: 300,
  initializer_range: 0.1,
  attention_bias: true,
})

const options: TrainerOptions = {
  learningRate: 1e-3,
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0.01,
  gradientClipping: 1,
}

interface Sample {
  readonly example: Example
  readonly sampleIndex: number
}

/** Samples of very different lengths, of which very different parts are trained. */
function makeSamples(count: number, seed: number): Sample[] {
  const random = new Random(seed)
  return Array.from({ length: count }, (_, sampleIndex) => {
    const length = 2 + random.integer(sampleIndex % 3 === 0 ? 60 : 12)
    const share = random.next()
    const labelMask = Uint8Array.from({ length }, () => (random.next() < share ? 1 : 0))
    labelMask[0] = 0
    labelMask[length - 1] = 1
    const inputIds = random.integers(length, config.vocabSize)
    return { example: { inputIds, labelMask, discipline: 0 }, sampleIndex }
  })
}

/** Packs samples into micro-batches of `size`. */
function packs(samples: readonly Sample[], size: number): PackedBatch[] {
  return Array.from({ length: Math.ceil(samples.length / size) }, (_, i) =>
    packBatch(samples.slice(i * size, (i + 1) * size), ['all']),
  )
}

const trainedTokens = (samples: readonly Sample[]) =>
  samples.reduce((sum, { example }) => sum + example.labelMask.reduce((a, b) => a + b, 0), 0)

class Setup {
  readonly decoder: Decoder
  readonly adapter: Adapter | null
  readonly trainer: Trainer

  private constructor(decoder: Decoder, adapter: Adapter | null, options: TrainerOptions) {
    this.decoder = decoder
    this.adapter = adapter
    this.trainer = new Trainer(decoder, adapter, options)
  }

  static async create(
    device: Device,
    method: 'lora' | 'full',
    more: { compute?: ComputeDType; checkpointing?: boolean; dropout?: number } = {},
  ): Promise<Setup> {
    const weights = await initializeWeights(device, config, 11, { compute: more.compute })
    const decoder = new Decoder(device, config, weights)
    let adapter: Adapter | null = null
    if (method === 'lora') {
      const { dropout = 0.1 } = more
      adapter = Adapter.create(device, config, lora({ rank: 5, dropout, seed: 12 }))
      // B is zero at the start, and A would get no gradient.
      const random = new Random(13)
      for (const { part } of adapter.modules)
        part.b.value.write(random.normal(part.b.value.size, 0.1))
    }
    return new Setup(decoder, adapter, { ...options, checkpointing: more.checkpointing })
  }

  /** All that is trained. */
  parameters(): Parameter[] {
    const { adapter, decoder } = this
    return adapter
      ? Array.from(adapter.parameters(), ({ parameter }) => parameter)
      : unfreezeWeights(decoder.device, decoder.weights)
  }

  dispose(): void {
    this.trainer.dispose()
    this.adapter?.dispose()
    disposeWeights(this.decoder.weights)
    this.decoder.dispose()
  }
}

/** Every bit that three steps lead to: losses, norms, values, moments. */
async function train(
  device: Device,
  method: 'lora' | 'full',
  more: Parameters<typeof Setup.create>[2] & { microBatch?: number } = {},
) {
  const setup = await Setup.create(device, method, more)
  const reports: number[] = []
  for (let step = 1; step <= 3; step++) {
    const samples = makeSamples(16, 20 + step)
    const batches = packs(samples, more.microBatch ?? 7)
    const plan = { batches, trainedTokens: trainedTokens(samples) }
    const { loss, gradNorm, applied } = await setup.trainer.step(plan, step, 1 / step)
    assert.ok(applied)
    reports.push(loss, gradNorm)
  }
  const result = await stateOf(setup.trainer)
  result.set('reports', Float32Array.from(reports))
  setup.dispose()
  return result
}

async function stateOf(trainer: Trainer): Promise<Map<string, Float32Array>> {
  const state = new Map<string, Float32Array>()
  for (const { name, value, moment, variance } of trainer.optimizer.state())
    for (const [key, tensor] of Object.entries({ value, moment, variance }))
      state.set(`${name} ${key}`, await tensor.readFloats())
  return state
}

function assertSameRuns(
  actual: Map<string, Float32Array>,
  expected: Map<string, Float32Array>,
): void {
  assert.deepEqual([...actual.keys()], [...expected.keys()])
  for (const [name, values] of expected) assertSameBits(actual.get(name)!, values, name)
}

forEachDevice('Trainer', (context) => {
  for (const method of ['lora', 'full'] as const)
    for (const compute of ['f32', 'bf16'] as const)
      it(`ends with the same bits at any number of threads: ${method}, ${compute}`, () =>
        assertSameAtAnyThreads(context, async (device) =>
          Object.fromEntries(await train(device, method, { compute })),
        ))

  for (const method of ['lora', 'full'] as const)
    it(`ends with the same bits when activations are computed again: ${method}`, async () => {
      const plain = await train(context.device, method)
      assertSameRuns(await train(context.device, method, { checkpointing: true }), plain)
    })

  for (const method of ['lora', 'full'] as const)
    it(`has the gradients of one batch of 16 in 2 of 8 and 16 of 1, with unequal masks: ${method}`, async () => {
      const samples = makeSamples(16, 30)
      const total = trainedTokens(samples)
      const masks = new Set(packs(samples, 1).map(({ labels }) => labels.length))
      assert.ok(masks.size > 5, 'the masks are unequal')
      const gradientsOf = async (microBatch: number) => {
        const { device } = context
        const setup = await Setup.create(device, method)
        const { decoder, adapter } = setup
        const losses: Float32Array[] = []
        for (const batch of packs(samples, microBatch)) {
          const { loss } = await evaluate(() => {
            const loss = Tensor.empty(device, [batch.labels.length])
            const inputs = {
              step: Tensor.from(device, Int32Array.of(3)),
              lossScale: Tensor.from(device, [1 / total]),
            }
            trainMicroBatch(decoder, adapter, batch, inputs, loss)
            return { loss }
          })
          losses.push(loss)
        }
        const gradients = new Map<string, Float32Array>()
        for (const { name, gradient } of setup.parameters())
          gradients.set(name, await gradient!.readFloats())
        setup.dispose()
        return { losses: Float32Array.from(losses.flatMap((loss) => [...loss])), gradients }
      }
      const whole = await gradientsOf(16)
      for (const microBatch of [8, 1]) {
        const parts = await gradientsOf(microBatch)
        // A row's loss depends on no other row: not 1e-6 but the same bits.
        assertSameBits(parts.losses, whole.losses)
        let [difference, size] = [0, 0]
        for (const [name, gradient] of whole.gradients) {
          const part = parts.gradients.get(name)!
          // Each is a sum over all rows whose terms cancel in part, to a tenth or less of their size.
          assertClose(part, gradient, 4e-6, name)
          gradient.forEach((value, i) => {
            difference += (value - part[i]) ** 2
            size += value ** 2
          })
        }
        const error = Math.sqrt(difference / size)
        assert.ok(error < 1e-6, `the gradient moves by ${error} of its norm`)
      }
    })

  for (const method of ['lora', 'full'] as const)
    it(`takes the same steps to 1e-6 however they are accumulated: ${method}`, async () => {
      const whole = await train(context.device, method, { microBatch: 16 })
      for (const microBatch of [8, 1]) {
        const parts = await train(context.device, method, { microBatch })
        const [expected, actual] = [whole, parts].map((run) => run.get('reports')!)
        actual.forEach((value, i) => {
          // Loss and norm in turn. AdamW moves a weight by its learning rate however small the gradient is, so that
          // rounding shows tenfold in the norms after the first step.
          const tolerance = i % 2 === 1 && i > 1 ? 1e-5 : 1e-6
          const error = Math.abs(value / expected[i] - 1)
          assert.ok(error < tolerance, `report ${i}: ${value}, not ${expected[i]}`)
        })
      }
    })

  it('sends the same bits back to the embeddings of a sequence, alone and packed', async () => {
    const { device } = context
    const setup = await Setup.create(device, 'lora')
    const { decoder, adapter } = setup
    const table = decoder.weights.embedTokens
    const { rows, columns } = table.weight
    // Every row has a token of its own: the table's gradient is that of the rows.
    const samples = makeSamples(7, 40)
    const tokens = new Random(41).permutation(config.vocabSize)
    let next = 0
    for (const { example } of samples)
      for (let i = 0; i < example.inputIds.length; ++i) example.inputIds[i] = tokens[next++]
    const total = trainedTokens(samples)
    const gradientOf = (batch: PackedBatch) =>
      evaluate(() => {
        table.master = new Parameter(table.name, Tensor.empty(device, [1]))
        const gradient = (table.master.gradient = Tensor.zeros(device, [rows, columns]))
        const inputs = {
          step: Tensor.from(device, Int32Array.of(3)),
          lossScale: Tensor.from(device, [1 / total]),
        }
        const loss = Tensor.empty(device, [batch.labels.length])
        trainMicroBatch(decoder, adapter, batch, inputs, loss)
        table.master = null
        return { gradient, loss }
      })
    const [batch] = packs(samples, samples.length)
    const whole = await gradientOf(batch)
    let label = 0
    for (const alone of packs(samples, 1)) {
      const part = await gradientOf(alone)
      const end = label + alone.labels.length
      assertSameBits(part.loss, whole.loss.slice(label, end), 'loss')
      label = end
      for (const token of alone.inputIds) {
        const row = (values: Float32Array) => values.slice(token * columns, (token + 1) * columns)
        assert.ok(row(part.gradient).some((value) => value !== 0))
        assertSameBits(row(part.gradient), row(whole.gradient), `embedding of token ${token}`)
      }
    }
    setup.dispose()
  })

  it('changes nothing in a step whose loss or gradient is not finite, and goes on after it', async () => {
    for (const poison of ['loss', 'gradient'] as const) {
      const setup = await Setup.create(context.device, 'lora')
      const samples = makeSamples(5, 50)
      const plan = { batches: packs(samples, 5), trainedTokens: trainedTokens(samples) }
      const { trainer, adapter } = setup
      await trainer.step(plan, 1, 1)
      const before = await stateOf(trainer)
      const [{ parameter }] = adapter!.parameters()
      if (poison === 'gradient') {
        scope(() => {
          parameter.gradient!.slice(0, 0, 1).fill(NaN)
        })
        const { applied } = await trainer.step(plan, 2, 1)
        assert.equal(applied, false)
      } else {
        const { norm } = setup.decoder.weights
        const values = await norm.value.readFloats()
        norm.value.fill(Infinity)
        const { applied, loss } = await trainer.step(plan, 2, 1)
        norm.value.write(values)
        assert.equal(applied, false)
        assert.ok(!Number.isFinite(loss))
      }
      assertSameRuns(await stateOf(trainer), before)
      const { applied, loss } = await trainer.step(plan, 2, 1)
      assert.equal(applied, true)
      assert.ok(Number.isFinite(loss))
      setup.dispose()
    }
  })

  it('frees what a step makes', async () => {
    const setup = await Setup.create(context.device, 'lora')
    const samples = makeSamples(9, 60)
    const plan = { batches: packs(samples, 4), trainedTokens: trainedTokens(samples) }
    await setup.trainer.step(plan, 1, 1)
    await context.device.synchronize()
    const { memoryUsed } = context.device.info
    for (let step = 2; step < 5; step++) await setup.trainer.step(plan, step, 1)
    await context.device.synchronize()
    assert.equal(context.device.info.memoryUsed, memoryUsed)
    setup.dispose()
  })
})
