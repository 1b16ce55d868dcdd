import assert from 'node:assert/strict'
import { it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import type { LoraOptions } from '../../lib/adapters/declaration.js'
import { olora, pissa } from '../../lib/adapters/kinds.js'
import { loadAdapter } from '../../lib/adapters/peft.js'
import { type Example, packBatch, type StepPlan } from '../../lib/data/packed-batch.js'
import type { Device } from '../../lib/device.js'
import type { Decoder } from '../../lib/models/index.js'
import { Tensor } from '../../lib/tensor.js'
import type { AdamWOptions } from '../../lib/train/optimizer.js'
import { type Schedule, scheduleFactor } from '../../lib/train/schedule.js'
import { trainMicroBatch } from '../../lib/train/step.js'
import { Trainer } from '../../lib/train/trainer.js'
import { assertClose, relativeError } from '../compare.js'
import { logitsOf } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { goldenJson, goldenPath, goldenTensors } from '../golden-files.js'
import { loadGoldenModel } from '../models/golden-model.js'

interface GoldenRun {
  base: string
  optimizer: AdamWOptions
  schedule: Schedule
  lora?: { r: number; lora_alpha: number; target_modules: string[] }
  steps: { step: number; loss: number; gradNorm: number; tokens: number }[]
}

const golden = goldenJson<{
  ignored: number
  steps: { tokens: number[]; labels: number[] }[][][]
}>('training/batches.json')

// Every second sequence belongs to the second discipline: only MTL-LoRA tells them apart.
const plans = golden.steps.map((microBatches): StepPlan => {
  const batches = microBatches.map((sequences) =>
    packBatch(
      sequences.map(({ tokens, labels }, i) => {
        const example: Example = {
          inputIds: Int32Array.from(tokens),
          labelMask: Uint8Array.from(labels, (label) => (label === golden.ignored ? 0 : 1)),
          discipline: i % 2,
        }
        return { example, sampleIndex: i }
      }),
      ['first', 'second'],
    ),
  )
  return { batches, trainedTokens: batches.reduce((sum, { labels }) => sum + labels.length, 0) }
})

const kinds = {
  dora: 'DoRA, as PEFT trains it',
  pissa: 'PiSSA, as PEFT trains it',
  olora: 'OLoRA, as PEFT trains it',
  'hydra-lora': "HydraLoRA, as its paper's formula in plain torch trains it",
  'mtl-lora': "MTL-LoRA, as its paper's formula in plain torch trains it",
}

async function open(device: Device, decoder: Decoder, name: string): Promise<Adapter> {
  const { lora } = goldenJson<GoldenRun>(`kinds/${name}/run.json`)
  const declare = { pissa, olora }[name]
  if (!declare || !lora) {
    const adapter = await loadAdapter(device, decoder.config, goldenPath(`kinds/${name}/start`))
    await adapter.bind(decoder.weights, { loaded: true })
    return adapter
  }
  const options: LoraOptions = {
    rank: lora.r,
    alpha: lora.lora_alpha,
    targets: lora.target_modules,
  }
  const adapter = Adapter.create(device, decoder.config, declare(options))
  await adapter.bind(decoder.weights)
  return adapter
}

forEachDevice('adapter kinds of other implementations', (context) => {
  for (const [name, what] of Object.entries(kinds))
    it(`have their losses and gradient norms: ${what}`, async () => {
      const { device } = context
      const run = goldenJson<GoldenRun>(`kinds/${name}/run.json`)
      using decoder = await loadGoldenModel(device, run.base)
      const adapter = await open(device, decoder, name)
      const trainer = new Trainer(decoder, adapter, run.optimizer)
      try {
        for (const expected of run.steps) {
          const factor = scheduleFactor(run.schedule, expected.step, run.steps.length)
          const report = await trainer.step(plans[expected.step - 1], expected.step, factor)
          const label = `step ${expected.step}`
          assert.equal(report.trainedTokens, expected.tokens, label)
          assert.ok(
            Math.abs(report.loss - expected.loss) < 2e-4,
            `${label}: loss ${report.loss}, not ${expected.loss}`,
          )
          assert.ok(
            Math.abs(report.gradNorm / expected.gradNorm - 1) < 5e-4,
            `${label}: norm ${report.gradNorm}, not ${expected.gradNorm}`,
          )
        }
      } finally {
        trainer.dispose()
        adapter.dispose()
      }
    })

  for (const [name, published] of Object.entries({
    'hydra-lora': "HydraLoRA's own layers",
    'mtl-lora': "MTL-LoRA's own layers",
  }))
    it(`have the logits of the published code: ${published}`, async () => {
      const { device } = context
      const { base } = goldenJson<GoldenRun>(`kinds/${name}/run.json`)
      using decoder = await loadGoldenModel(device, base)
      using adapter = await open(device, decoder, name)
      const expected = goldenTensors(`published/${name}.safetensors`)
      const ints = (key: string) => expected.get(key)!.values as Int32Array
      const sequences = { tokens: ints('tokens'), cuSeqlens: ints('cu_seqlens') }
      const runs = [...expected.keys()].filter((key) => key.startsWith('logits'))
      assert.equal(runs.length, name === 'mtl-lora' ? 2 : 1)
      for (const key of runs) {
        const discipline = key.slice('logits.'.length)
        if (discipline !== '') adapter.useDiscipline(discipline)
        assertClose(
          await logitsOf(decoder, adapter, sequences),
          expected.get(key)!.values,
          1e-5,
          key,
        )
      }
    })

  for (const name of ['pissa', 'olora'])
    it(`start from PEFT's factors, up to their signs: ${name}`, async () => {
      const { device } = context
      const run = goldenJson<GoldenRun>(`kinds/${name}/run.json`)
      using decoder = await loadGoldenModel(device, run.base)
      const adapter = await open(device, decoder, name)
      const products = goldenTensors(`kinds/${name}/products.safetensors`)
      const modules = adapter.modules.filter(({ layer }) => layer === 0)
      assert.deepEqual(modules.map(({ path }) => path).sort(), [...products.keys()].sort())
      for (const { path, part, group, outFeatures, inFeatures } of modules) {
        const { product } = await evaluate(() => {
          const product = Tensor.empty(device, [outFeatures, inFeatures])
          const a = group.a.value.slice(0, part.begin, part.end)
          device.run('matmul', {
            layout: 'nn',
            segments: [{ x: part.b.value.native, w: a.native }],
            y: product.native,
          })
          return { product }
        })
        // Singular vectors are as exact as the gaps between singular values let them be.
        assertClose(product, products.get(path)!.values, 1e-4, path)
      }
      adapter.dispose()
    })

  it("have PEFT's gradients: DoRA", async () => {
    const { device } = context
    const run = goldenJson<GoldenRun>('kinds/dora/run.json')
    using decoder = await loadGoldenModel(device, run.base)
    const adapter = await open(device, decoder, 'dora')
    const trainer = new Trainer(decoder, adapter, run.optimizer)
    const [plan] = plans
    for (const batch of plan.batches)
      await evaluate(() => {
        const loss = Tensor.empty(device, [batch.labels.length])
        const step = Tensor.from(device, Int32Array.of(1))
        const lossScale = Tensor.from(device, [1 / plan.trainedTokens])
        trainMicroBatch(decoder, adapter, batch, { step, lossScale }, loss)
        return { loss }
      })
    const expected = goldenTensors('kinds/dora/gradients.safetensors')
    const names = new Set<string>()
    for (const { path, group, part } of adapter.modules) {
      const values = await evaluate(() => ({
        'A.weight': group.a.gradient!.slice(0, part.begin, part.end),
        'B.weight': part.b.gradient!,
        magnitude_vector: part.magnitude!.value.gradient!,
      }))
      for (const [key, gradient] of Object.entries(values)) {
        const name = [...expected.keys()].find((one) =>
          one.startsWith(`base_model.model.${path}.lora_${key}`),
        )!
        names.add(name)
        const error = relativeError(gradient, expected.get(name)!.values)
        assert.ok(error < 1e-4, `${name}: ${error} of the largest`)
      }
    }
    assert.equal(names.size, expected.size)
    trainer.dispose()
    adapter.dispose()
  })
})
