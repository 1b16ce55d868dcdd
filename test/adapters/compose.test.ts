import assert from 'node:assert/strict'
import { it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { composeAdapters } from '../../lib/adapters/compose.js'
import { lora, type LoraOptions } from '../../lib/adapters/declaration.js'
import { hydraLora, type CompositionGate } from '../../lib/adapters/kinds.js'
import { loadAdapter, saveAdapter } from '../../lib/adapters/peft.js'
import { packBatch } from '../../lib/data/packed-batch.js'
import type { DecoderConfig } from '../../lib/models/index.js'
import { Trainer } from '../../lib/train/trainer.js'
import { assertClose, assertSameBits } from '../compare.js'
import { goldenModel, logitsOf, openDecoder } from '../decoder-logits.js'
import type { Device } from '../../lib/device.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'

const sequences = { tokens: new Random(4).integers(31, 60), cuSeqlens: Int32Array.of(0, 12, 31) }

// Different ranks, scalings and targets.
const trained: LoraOptions[] = [
  { rank: 3, alpha: 5, seed: 1 },
  { rank: 5, alpha: 4, rsLora: true, targets: ['q_proj', 'v_proj', 'up_proj'], seed: 2 },
  {
    rank: 2,
    alpha: 9,
    targets: ['q_proj', 'k_proj', 'down_proj'],
    rankPattern: { k_proj: 1 },
    seed: 3,
  },
]

const training = {
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0.01,
  gradientClipping: 1,
} as const

/** One batch of two disciplines. */
const batch = packBatch(
  [9, 14].map((length, discipline) => ({
    example: {
      inputIds: new Random(50 + discipline).integers(length, 60),
      labelMask: Uint8Array.from({ length }, (_, t) => Number(t > 0)),
      discipline,
    },
    sampleIndex: discipline,
  })),
  ['biology', 'law'],
)
const plan = { batches: [batch], trainedTokens: batch.labels.length }

/** A and B of every module. */
async function frozenValues(adapter: Adapter): Promise<Map<string, Float32Array>> {
  const values = new Map<string, Float32Array>()
  for (const { path, group, part } of adapter.modules) {
    values.set(`${path} A`, await group.a.value.readFloats())
    values.set(`${path} B`, await part.b.value.readFloats())
  }
  return values
}

function experts(device: Device, config: DecoderConfig): Adapter[] {
  return trained.map((options, i) => {
    const adapter = Adapter.create(device, config, lora(options))
    const random = new Random(20 + i)
    for (const { part } of adapter.modules)
      part.b.value.write(random.normal(part.b.value.size, 0.2))
    return adapter
  })
}

forEachDevice('compositions of adapters', (context) => {
  const at = temporaryFolder()

  async function composed(
    gate: CompositionGate,
    body: (
      mixture: Adapter,
      own: Adapter[],
      logits: (adapter: Adapter | null) => Promise<Float32Array>,
      config: DecoderConfig,
    ) => Promise<void>,
  ) {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const own = experts(device, model.config)
    const mixture = await composeAdapters(device, model.config, own, gate, { seed: 6 })
    try {
      await body(
        mixture,
        own,
        (adapter) => logitsOf(model.decoder, adapter, sequences),
        model.config,
      )
    } finally {
      for (const adapter of [mixture, ...own]) adapter.dispose()
    }
  }

  it('with one expert switched on give the logits of its adapter', async () => {
    for (const [e] of trained.entries())
      await composed(
        { kind: 'fixed', weights: trained.map((_, i) => (i === e ? 1 : 0)) },
        async (mixture, own, logits) => {
          assertClose(await logits(mixture), await logits(own[e]), 1e-5, `expert ${e}`)
        },
      )
  })

  it('with constant gates add the updates in proportion, and are saved whole', async () => {
    await composed(
      { kind: 'fixed', weights: [0.5, -0.25, 2] },
      async (mixture, own, logits, config) => {
        // cat of PEFT, from the same adapters: an update whose B are weighted.
        const cat = await composeAdapters(context.device, config, own, {
          kind: 'fixed',
          weights: [1, 1, 1],
        })
        for (const { part, rank } of cat.modules) {
          const b = await part.b.value.readFloats()
          const columns = 3 * rank
          part.b.value.write(
            b.map((value, i) => value * [0.5, -0.25, 2][Math.floor((i % columns) / rank)]),
          )
        }
        const expected = await logits(cat)
        cat.dispose()
        const actual = await logits(mixture)
        assertClose(actual, expected, 1e-5)
        await saveAdapter(mixture, at('fixed'), { baseModel: 'b' })
        const again = await loadAdapter(context.device, config, at('fixed'))
        assertSameBits(await logits(again), actual)
        again.dispose()
      },
    )
  })

  it('of Arrow route by the directions that move the adapters most', async () => {
    await composed(
      { kind: 'arrow', topK: 2, temperature: 0.7 },
      async (mixture, own, logits, config) => {
        assert.equal(mixture.numParameters, 0)
        for (const [index, module] of mixture.modules.entries()) {
          if (index % 5 > 0) continue
          const { gate } = module.group
          assert.ok(gate?.kind === 'router' && gate.absolute)
          const rows = await gate.weights.value.readFloats()
          const { inFeatures, outFeatures } = module
          for (const [e, adapter] of own.entries()) {
            const source = adapter.modules.find(({ path }) => path === module.path)
            const begin = (module.mixture * 3 + e) * inFeatures
            const v = rows.slice(begin, begin + inFeatures)
            if (!source) {
              assert.ok(v.every((value) => value === 0))
              continue
            }
            const whole = await source.group.a.value.readFloats()
            const a = whole.subarray(source.part.begin * inFeatures, source.part.end * inFeatures)
            const b = await source.part.b.value.readFloats()
            const image = (x: ArrayLike<number>) => {
              const inner = Array.from({ length: source.rank }, (_, i) => {
                let sum = 0
                for (let c = 0; c < inFeatures; c++) sum += a[i * inFeatures + c] * x[c]
                return sum
              })
              let square = 0
              for (let n = 0; n < outFeatures; n++)
                square +=
                  inner.reduce((sum, value, i) => sum + b[n * source.rank + i] * value, 0) ** 2
              return Math.sqrt(square)
            }
            const length = Math.sqrt(v.reduce((sum, value) => sum + value * value, 0))
            assert.ok(Math.abs(length - 1) < 1e-5, `${module.path}: length ${length}`)
            // No other direction is moved further: steps away from v, and rows of A, where the largest ones lie.
            const most = image(v)
            const random = new Random(e + index)
            for (let trial = 0; trial < 20; trial++) {
              const step = random.normal(inFeatures, 0.02 * (1 + trial))
              const other = v.map((value, i) => value + step[i])
              const norm = Math.sqrt(other.reduce((sum, value) => sum + value * value, 0))
              assert.ok(image(other.map((value) => value / norm)) <= most * (1 + 1e-5), module.path)
            }
          }
        }
        const actual = await logits(mixture)
        await saveAdapter(mixture, at('arrow'), { baseModel: 'b' })
        const again = await loadAdapter(context.device, config, at('arrow'))
        assertSameBits(await logits(again), actual)
        again.dispose()
      },
    )
  })

  it('of MoLE train the gate alone, say where it leads, and are saved whole', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { decoder, config } = model
    const own = experts(device, config)
    const gate: CompositionGate = { kind: 'mole', temperature: 2, balanceLoss: 0.01 }
    using mixture = await composeAdapters(device, config, own, gate, { seed: 6 })
    for (const adapter of own) adapter.dispose()
    const expertsBefore = await frozenValues(mixture)
    const trainer = new Trainer(decoder, mixture, { ...training, learningRate: 0.05 })
    const losses: number[] = []
    try {
      for (let step = 1; step <= 5; step++) {
        const { loss, routing } = await trainer.step(plan, step, 1)
        losses.push(loss)
        assert.ok(routing)
        assert.deepEqual(Object.keys(routing.byDiscipline), ['biology', 'law'])
        assert.deepEqual(Object.keys(routing.losses), ['balance'])
        for (const load of [routing.load, ...Object.values(routing.byDiscipline)])
          assert.ok(Math.abs(load.reduce((a, b) => a + b, 0) - 1) < 1e-5, load.join())
        // The load of all is that of the disciplines by their rows.
        const { biology, law } = routing.byDiscipline
        const share =
          batch.rowDiscipline.filter((one) => one === 1).length / batch.rowDiscipline.length
        assertClose(
          routing.load,
          biology.map((value, e) => (1 - share) * value + share * law[e]),
          1e-5,
        )
      }
    } finally {
      trainer.dispose()
    }
    assert.ok(losses[4] < losses[0] - 1e-3, losses.join())
    for (const [name, values] of await frozenValues(mixture))
      assertSameBits(values, expertsBefore.get(name)!, name)
    const names = Array.from(mixture.parameters(), ({ parameter }) => parameter.name)
    assert.ok(names.length > 0 && names.every((name) => name.endsWith('.lora_router.weight')))
    const actual = await logitsOf(decoder, mixture, sequences)
    await saveAdapter(mixture, at('mole'), { baseModel: 'b' })
    using again = await loadAdapter(device, config, at('mole'))
    assertSameBits(await logitsOf(decoder, again, sequences), actual)
  })

  it('refuse what is no plain LoRA, and weights of another number', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { config } = model
    const own = experts(device, config)
    const mixture = Adapter.create(device, config, hydraLora({ rank: 1 }))
    const attempts: [readonly Adapter[], CompositionGate, RegExp][] = [
      [[mixture], { kind: 'mole', temperature: 1 }, /kind hydra-lora cannot be an expert/],
      [[], { kind: 'mole', temperature: 1 }, /at least one adapter/],
      [own, { kind: 'fixed', weights: [1, 2] }, /weights must be 3 numbers/],
      [own, { kind: 'fixed', weights: [1, 2, NaN] }, /weights must be 3 numbers/],
      [own, { kind: 'arrow', topK: 4, temperature: 1 }, /topK must be a whole number from 1/],
      [own, { kind: 'mole', temperature: 0 }, /temperature must be/],
    ]
    try {
      for (const [adapters, gate, expected] of attempts)
        await assert.rejects(composeAdapters(device, config, adapters, gate), expected)
    } finally {
      for (const adapter of [mixture, ...own]) adapter.dispose()
    }
  })
})
