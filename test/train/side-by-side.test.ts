import assert from 'node:assert/strict'
import { it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraDeclaration } from '../../lib/adapters/declaration.js'
import { hydraLora } from '../../lib/adapters/kinds.js'
import { type Example, packBatch } from '../../lib/data/packed-batch.js'
import { joinBatches } from '../../lib/data/side-by-side-batch.js'
import type { Device } from '../../lib/device.js'
import { ArgumentError } from '../../lib/errors.js'
import type { AdamW } from '../../lib/train/optimizer.js'
import { scheduleFactor } from '../../lib/train/schedule.js'
import { SideBySideTrainer } from '../../lib/train/side-by-side.js'
import type { StepReport } from '../../lib/train/step-report.js'
import { Trainer } from '../../lib/train/trainer.js'
import { assertSameBits } from '../compare.js'
import { goldenModel, openDecoder } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'

const names = ['mathematics', 'chemistry', 'biology', 'medicine', 'geography']

// As different as adapters can be: ranks, targets, dropout, seeds, kinds.
const declarations: Record<string, LoraDeclaration> = {
  mathematics: lora({ rank: 4, dropout: 0.1, seed: 1 }),
  chemistry: lora({ rank: 7, targets: ['q_proj', 'v_proj', 'down_proj'], seed: 2, rsLora: true }),
  biology: lora({ rank: 4, dropout: 0.3, seed: 3, loraPlusRatio: 16 }),
  medicine: hydraLora({
    rank: 2,
    experts: 3,
    seed: 4,
    dropout: 0.1,
    balanceLoss: 0.1,
    zLoss: 0.01,
  }),
  geography: lora({ rank: 1, alpha: 9, seed: 5 }),
}

const options = {
  learningRate: 3e-3,
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0.01,
  // Small enough that steps are clipped, each by its own norm.
  gradientClipping: 0.5,
} as const

// Every adapter has a length of its own: the later steps have fewer of them.
const totalSteps: Record<string, number> = {
  mathematics: 4,
  chemistry: 2,
  biology: 3,
  medicine: 3,
  geography: 1,
}

/** Step `step` of one adapter's own run: one to three micro-batches, the longest beyond a block of rows. */
function plan(name: string, step: number) {
  const random = new Random(100 * names.indexOf(name) + step)
  const batches = Array.from({ length: 1 + ((names.indexOf(name) + step) % 3) }, (_, b) => {
    const samples = Array.from({ length: 2 + random.integer(4) }, (_, s) => {
      const length = 3 + random.integer(name === 'mathematics' ? 120 : 30)
      const example: Example = {
        inputIds: random.integers(length, 60),
        labelMask: Uint8Array.from({ length }, (_, t) => (t > 0 && (t + s) % 3 > 0 ? 1 : 0)),
        discipline: 0,
      }
      return { example, sampleIndex: 1000 * step + 10 * b + s }
    })
    return packBatch(samples, [name])
  })
  return { batches, trainedTokens: batches.reduce((sum, { labels }) => sum + labels.length, 0) }
}

const factor = (name: string, step: number) =>
  scheduleFactor({ kind: 'cosine', warmupSteps: 1 }, step, totalSteps[name])

async function stateOf(optimizer: AdamW): Promise<Map<string, Float32Array>> {
  const state = new Map<string, Float32Array>()
  for (const { name, value, moment, variance } of optimizer.state())
    for (const [key, tensor] of Object.entries({ value, moment, variance }))
      state.set(`${name} ${key}`, await tensor.readFloats())
  return state
}

const figures = ({ loss, gradNorm, learningRate, tokens, applied, routing }: StepReport) => ({
  loss,
  gradNorm,
  learningRate,
  tokens,
  applied,
  routing,
})

interface Ending {
  readonly state: Map<string, Float32Array>
  readonly reports: readonly unknown[]
}

/** How each adapter ends in a run of its own. */
async function runAlone(
  device: Device,
  { decoder, config }: Awaited<ReturnType<typeof openDecoder>>,
): Promise<Map<string, Ending>> {
  const alone = new Map<string, Ending>()
  for (const name of names) {
    const adapter = Adapter.create(device, config, declarations[name])
    const trainer = new Trainer(decoder, adapter, options)
    const reports: unknown[] = []
    for (let step = 1; step <= totalSteps[name]; step++)
      reports.push(figures(await trainer.step(plan(name, step), step, factor(name, step))))
    alone.set(name, { state: await stateOf(trainer.optimizer), reports })
    trainer.dispose()
    adapter.dispose()
  }
  return alone
}

forEachDevice('adapters side by side', (context) => {
  let alone: Map<string, Ending> | undefined

  for (const checkpointing of [false, true])
    it(`end with the bits of five runs${checkpointing ? ', computing activations again' : ''}`, async function () {
      this.timeout(120_000)
      const { device } = context
      using model = await openDecoder(device, goldenModel('qwen3-sharded'))
      const { decoder, config } = model
      const create = (name: string) => Adapter.create(device, config, declarations[name])
      const runs = (alone ??= await runAlone(device, model))

      const adapters = new Map(names.map((name) => [name, create(name)]))
      const trainer = new SideBySideTrainer(decoder, adapters, { ...options, checkpointing })
      const reports = new Map<string, unknown[]>(names.map((name) => [name, []]))
      for (let step = 1; step <= totalSteps.mathematics; step++) {
        const plans = new Map(
          names
            .filter((name) => step <= totalSteps[name])
            .map((name) => [name, { plan: plan(name, step), factor: factor(name, step) }]),
        )
        for (const [name, report] of await trainer.step(plans, step))
          reports.get(name)!.push(figures(report))
      }
      for (const name of names) {
        const { state, reports: expected }: Ending = runs.get(name)!
        assert.deepEqual(reports.get(name), expected, name)
        const actual = await stateOf(trainer.optimizer(name))
        assert.deepEqual([...actual.keys()], [...state.keys()])
        for (const [key, values] of state)
          assertSameBits(actual.get(key)!, values, `${name} ${key}`)
      }
      trainer.dispose()
      for (const adapter of adapters.values()) adapter.dispose()
    })

  it('skip a step of one adapter alone when its gradient is not finite', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { decoder, config } = model
    const adapters = new Map(
      ['mathematics', 'biology'].map((name) => [
        name,
        Adapter.create(device, config, declarations[name]),
      ]),
    )
    const trainer = new SideBySideTrainer(decoder, adapters, options)
    const [{ parameter }] = adapters.get('biology')!.parameters()
    parameter.gradient!.fill(NaN)
    const plans = new Map(
      [...adapters.keys()].map((name) => [name, { plan: plan(name, 1), factor: 1 }]),
    )
    const reports = await trainer.step(plans, 1)
    assert.equal(reports.get('mathematics')!.applied, true)
    assert.equal(reports.get('biology')!.applied, false)
    await assert.rejects(
      trainer.step(new Map([['law', { plan: plan('biology', 1), factor: 1 }]]), 2),
      (error: Error) => error instanceof ArgumentError && /no adapter "law"/.test(error.message),
    )
    trainer.dispose()
    for (const adapter of adapters.values()) adapter.dispose()
  })
})

describe('joined batches', () => {
  it('keep each row as it is alone', () => {
    const batches = ['chemistry', 'biology'].map((name) => plan(name, 2).batches[0])
    const { batch, parts } = joinBatches(batches)
    parts.forEach(({ rowBegin, rowEnd, labelBegin, labelEnd }, i) => {
      const own = batches[i]
      for (const key of ['inputIds', 'positions', 'rowSample'] as const)
        assert.deepEqual(batch[key].slice(rowBegin, rowEnd), own[key])
      assert.deepEqual(batch.labels.slice(labelBegin, labelEnd), own.labels)
      assert.deepEqual(
        batch.labelRows.slice(labelBegin, labelEnd).map((row) => row - rowBegin),
        own.labelRows,
      )
      for (let row = rowBegin; row < rowEnd; row++)
        assert.equal(batch.disciplineNames[batch.rowDiscipline[row]], own.disciplineNames[0])
    })
    assert.deepEqual(
      batch.cuSeqlens,
      Int32Array.of(
        ...batches[0].cuSeqlens,
        ...Array.from(batches[1].cuSeqlens.subarray(1), (end) => end + parts[1].rowBegin),
      ),
    )
  })
})
