import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraDeclaration } from '../../lib/adapters/declaration.js'
import { dora, hydraLora, loraMoe, mtlLora, olora, pissa } from '../../lib/adapters/kinds.js'
import { loadAdapter, saveAdapter } from '../../lib/adapters/peft.js'
import { type Example, packBatch } from '../../lib/data/packed-batch.js'
import { ArgumentError, ConfigError } from '../../lib/errors.js'
import { Trainer } from '../../lib/train/trainer.js'
import { assertClose, assertSameBits } from '../compare.js'
import { goldenModel, logitsOf, openDecoder } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'

const disciplines = ['biology', 'chemistry', 'geography']
const common = { rank: 3, alpha: 7, seed: 5, dropout: 0.1 }
const balanced = { balanceLoss: 0.02, varianceLoss: 0.01, zLoss: 0.001 }

const declarations: Record<string, LoraDeclaration> = {
  lora: lora(common),
  dora: dora({ ...common, targets: ['q_proj', 'up_proj', 'down_proj'] }),
  pissa: pissa(common),
  'pissa, rsLoRA and ranks by pattern': pissa({
    ...common,
    rsLora: true,
    rankPattern: { v_proj: 2 },
  }),
  olora: olora(common),
  'lora-moe': loraMoe({ ...common, experts: 3, ...balanced }),
  'lora-moe, top 2': loraMoe({ ...common, gate: 'top-k', biasRate: 0.01, ...balanced }),
  'lora-moe, uniform': loraMoe({ ...common, gate: 'uniform' }),
  'lora-moe, shared B': loraMoe({ ...common, shares: 'b', rankPattern: { v_proj: 2 } }),
  'hydra-lora': hydraLora({ ...common, targets: ['q_proj', 'k_proj', 'down_proj'] }),
  'hydra-lora, supervised': hydraLora({ ...common, experts: 3, supervisedLoss: 0.1, disciplines }),
  'mtl-lora': mtlLora({ ...common, disciplines, rankPattern: { v_proj: 2 } }),
}

const options = {
  learningRate: 5e-3,
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0.01,
  gradientClipping: 1,
} as const

const sequences = {
  tokens: new Random(3).integers(23, 60),
  cuSeqlens: Int32Array.of(0, 9, 10, 23),
}

function plan(seed: number, vocabSize: number) {
  const random = new Random(seed)
  const samples = Array.from({ length: 9 }, (_, sampleIndex) => {
    const length = 4 + random.integer(14)
    const example: Example = {
      inputIds: random.integers(length, Math.min(60, vocabSize)),
      labelMask: Uint8Array.from({ length }, (_, t) => (t > 1 ? 1 : 0)),
      discipline: sampleIndex % 3,
    }
    return { example, sampleIndex }
  })
  const batches = [samples.slice(0, 5), samples.slice(5)].map((some) =>
    packBatch(some, disciplines),
  )
  return { batches, trainedTokens: batches.reduce((sum, { labels }) => sum + labels.length, 0) }
}

forEachDevice('adapter kinds', (context) => {
  const at = temporaryFolder()

  for (const [title, declaration] of Object.entries(declarations))
    it(`starts at the base, learns, and is saved whole: ${title}`, async function () {
      this.timeout(60_000)
      const { device } = context
      using model = await openDecoder(device, goldenModel('qwen3-sharded'))
      const { decoder, config, weights } = model
      const before = await logitsOf(decoder, null, sequences)
      const adapter = Adapter.create(device, config, declaration)
      try {
        await adapter.bind(weights)
        const start = await logitsOf(decoder, adapter, sequences)
        // What PiSSA adds and takes away again cancels to rounding.
        assertClose(start, before, 1e-4, 'logits at the start')
        const trainer = new Trainer(decoder, adapter, options)
        const same = plan(8, config.vocabSize)
        const losses: number[] = []
        try {
          const numSteps = device.kind === 'cuda-emulated' ? 3 : 8
          for (let step = 1; step <= numSteps; step++) {
            const report = await trainer.step(same, step, 1)
            assert.ok(report.applied)
            losses.push(report.loss)
            const routed = declaration.form.gate?.kind === 'router'
            assert.equal(report.routing !== undefined, routed)
            if (!report.routing) continue
            const { load, entropy, byDiscipline } = report.routing
            assert.ok(Math.abs(load.reduce((a, b) => a + b, 0) - 1) < 1e-5, `load ${load.join()}`)
            assert.ok(entropy >= 0 && entropy <= 1 + 1e-6, `entropy ${entropy}`)
            assert.deepEqual(Object.keys(byDiscipline), disciplines)
          }
        } finally {
          trainer.dispose()
        }
        assert.ok(losses.at(-1)! < losses[0] - 0.01, `losses ${losses.join(', ')}`)
        if (declaration.form.disciplines.length > 0) adapter.useDiscipline('geography')
        const after = await logitsOf(decoder, adapter, sequences)
        await saveAdapter(adapter, at(title), { baseModel: 'base' })
        const again = await loadAdapter(device, config, at(title))
        try {
          await again.bind(weights, { loaded: true })
          if (declaration.form.disciplines.length > 0) again.useDiscipline('geography')
          const loaded = await logitsOf(decoder, again, sequences)
          // PiSSA and OLoRA come back as LoRA of twice the rank, whose products are added in one go.
          if (declaration.form.initialization === 'zero') assertSameBits(loaded, after, 'logits')
          else assertClose(loaded, after, 1e-4, 'logits')
          const isMixture = declaration.form.gate !== null
          assert.equal(existsSync(join(at(title), 'mixture_config.json')), isMixture)
          assert.equal(existsSync(join(at(title), 'adapter_config.json')), !isMixture)
          if (isMixture) {
            const { kind, form, rank, alpha } = again.declaration
            assert.deepEqual(
              { kind, form, rank, alpha },
              {
                kind: declaration.kind,
                form: declaration.form,
                rank: declaration.rank,
                alpha: declaration.alpha,
              },
            )
          }
        } finally {
          again.dispose()
        }
      } finally {
        adapter.dispose()
      }
    })

  it('counts the parameters that law 4 compares', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { config } = model
    const [experts, rank] = [4, 3]
    const count = (declaration: LoraDeclaration) => {
      const adapter = Adapter.create(device, config, declaration)
      const { numParameters, modules } = adapter
      adapter.dispose()
      return { numParameters, modules }
    }
    const sum = (
      modules: Adapter['modules'],
      of: (inFeatures: number, outFeatures: number) => number,
    ) => modules.reduce((total, one) => total + of(one.inFeatures, one.outFeatures), 0)
    const asymmetric = count(hydraLora({ rank, experts }))
    assert.equal(
      asymmetric.numParameters,
      sum(asymmetric.modules, (i, o) => rank * i + experts * rank * o + experts * i),
    )
    const symmetric = count(loraMoe({ rank, experts }))
    assert.equal(
      symmetric.numParameters,
      sum(symmetric.modules, (i, o) => experts * rank * (i + o) + experts * i),
    )
  })

  it('lets experts that share A diverge, since routers start apart', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { decoder, config } = model
    const adapter = Adapter.create(device, config, hydraLora({ rank: 2, experts: 3, seed: 4 }))
    const trainer = new Trainer(decoder, adapter, options)
    try {
      for (let step = 1; step <= 4; step++)
        await trainer.step(plan(step, config.vocabSize), step, 1)
      for (const { path, part, rank, outFeatures } of adapter.modules) {
        const b = await part.b.value.readFloats()
        const expert = (e: number) =>
          Float64Array.from(
            { length: outFeatures * rank },
            (_, i) => b[Math.floor(i / rank) * 3 * rank + e * rank + (i % rank)],
          )
        const norm = (x: Float64Array) => Math.sqrt(x.reduce((sum, value) => sum + value ** 2, 0))
        const [one, other] = [expert(0), expert(1)]
        const apart = norm(one.map((value, i) => value - other[i])) / norm(one)
        // With equal gates the experts would be the same to the bit.
        assert.ok(apart > 1e-3, `${path}: experts 0 and 1 are ${apart} of their size apart`)
      }
    } finally {
      trainer.dispose()
      adapter.dispose()
    }
  })

  it('moves the loss-free bias towards the experts that are chosen too rarely', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { decoder, config } = model
    const declaration = loraMoe({
      rank: 2,
      experts: 4,
      gate: 'top-k',
      topK: 1,
      biasRate: 0.05,
      seed: 9,
    })
    const adapter = Adapter.create(device, config, declaration)
    const trainer = new Trainer(decoder, adapter, { ...options, learningRate: 1e-6 })
    try {
      const uneven = (routing: { routers: readonly { choices: readonly number[] }[] }) =>
        routing.routers.reduce((sum, { choices }) => sum + Math.max(...choices), 0) /
        routing.routers.length
      const shares: number[] = []
      for (let step = 1; step <= 12; step++) {
        const { routing } = await trainer.step(plan(1, config.vocabSize), step, 1)
        shares.push(uneven(routing!))
      }
      assert.ok(shares[11] < shares[0], `largest share from ${shares[0]} to ${shares[11]}`)
      assert.equal([...adapter.buffers()].length, 4 * config.numLayers)
    } finally {
      trainer.dispose()
      adapter.dispose()
    }
  })

  it('refuses a discipline that it does not know, and weights that it was not given', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen3-sharded'))
    const { decoder, config } = model
    const mtl = Adapter.create(device, config, mtlLora({ disciplines: ['biology'] }))
    const trainer = new Trainer(decoder, mtl, options)
    await assert.rejects(trainer.step(plan(1, config.vocabSize), 1, 1), /no discipline "chemistry"/)
    assert.throws(() => {
      mtl.useDiscipline('law')
    }, /no discipline "law", only "biology"/)
    trainer.dispose()
    mtl.dispose()
    const unbound = Adapter.create(device, config, dora())
    assert.throws(() => unbound.group(0, 'mlpInput'), ArgumentError)
    unbound.dispose()
  })
})

describe('declarations of adapter kinds', () => {
  it('refuse options that exclude each other, by name', () => {
    const wrong: [() => unknown, RegExp][] = [
      [() => loraMoe({ experts: 0 }), /experts must be a whole number from 1 to 256, not 0/],
      [() => loraMoe({ topK: 2 }), /topK must be absent unless gate is "top-k"/],
      [
        () => loraMoe({ gate: 'top-k', topK: 5 }),
        /topK must be .* at most|topK must be a whole number from 1/,
      ],
      [() => loraMoe({ biasRate: 0.1 }), /biasRate must be 0 unless gate is "top-k"/],
      [() => loraMoe({ supervisedLoss: 1 }), /disciplines must be the names/],
      [() => loraMoe({ gate: 'uniform', zLoss: 1 }), /gate must be "softmax" or "top-k"/],
      [() => loraMoe({ balanceLoss: -1 }), /balanceLoss must be a number from 0/],
      [() => loraMoe({ shares: 'c' as never }), /shares must be "nothing", "a" or "b"/],
      [() => mtlLora({ disciplines: [] }), /disciplines must be a list of 1 to 1024/],
      [() => mtlLora({ disciplines: ['a', 'a'] }), /different names/],
      [() => mtlLora({ disciplines: ['a'], temperature: 0 }), /temperature must be/],
    ]
    for (const [make, expected] of wrong)
      assert.throws(
        make,
        (error: Error) => error instanceof ConfigError && expected.test(error.message),
      )
  })
})
