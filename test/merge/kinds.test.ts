import assert from 'node:assert/strict'
import { existsSync } from 'node:fs'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraDeclaration } from '../../lib/adapters/declaration.js'
import { dora, hydraLora, loraMoe, mtlLora, olora, pissa } from '../../lib/adapters/kinds.js'
import { loadAdapter, saveAdapter } from '../../lib/adapters/peft.js'
import { moduleTensors } from '../../lib/adapters/tensors.js'
import { ConfigError } from '../../lib/errors.js'
import { exportAdapter, mergeModel } from '../../lib/merge/index.js'
import { mergeAdapter } from '../../lib/merge/merge.js'
import { assertClose } from '../compare.js'
import { goldenModel, logitsOf, openDecoder } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'

const model = goldenModel('qwen2')
const sequences = { tokens: new Random(4).integers(29, 60), cuSeqlens: Int32Array.of(0, 11, 29) }
const disciplines = ['biology', 'law', 'music']
const options = {
  rank: 3,
  alpha: 5,
  targets: ['q_proj', 'v_proj', 'down_proj'],
  rankPattern: { v_proj: 2 },
  seed: 7,
}

/** Mixtures with an update that no token changes. */
const fixed: Record<string, { declaration: LoraDeclaration; discipline?: string }> = {
  'lora-moe with uniform gates': {
    declaration: loraMoe({ ...options, gate: 'uniform', experts: 3 }),
  },
  'hydra-lora with uniform gates': {
    declaration: hydraLora({ ...options, gate: 'uniform', experts: 3, rsLora: true }),
  },
  'a shared B with uniform gates': {
    declaration: loraMoe({ ...options, gate: 'uniform', experts: 2, shares: 'b' }),
  },
  'mtl-lora of one discipline': {
    declaration: mtlLora({ ...options, disciplines, temperature: 0.6 }),
    discipline: 'law',
  },
}

forEachDevice('merging of kinds', (context) => {
  const at = temporaryFolder()

  /** An adapter with random values everywhere, DoRA's magnitudes near their start. */
  async function trained(declaration: LoraDeclaration): Promise<{
    adapter: Adapter
    logits: Float32Array
  }> {
    const { device } = context
    using opened = await openDecoder(device, model)
    const adapter = Adapter.create(device, opened.config, declaration)
    await adapter.bind(opened.weights)
    const random = new Random(11)
    for (const { parameter } of adapter.parameters()) {
      const values = await parameter.value.readFloats()
      const noise = random.normal(values.length, parameter.name.includes('magnitude') ? 0.1 : 0.2)
      parameter.value.write(values.map((value, i) => value + noise[i]))
    }
    return { adapter, logits: await logitsOf(opened.decoder, adapter, sequences) }
  }

  async function logitsWith(folder: string | null, of = model): Promise<Float32Array> {
    const { device } = context
    using opened = await openDecoder(device, of)
    using adapter = folder === null ? null : await loadAdapter(device, opened.config, folder)
    await adapter?.bind(opened.weights, { loaded: true })
    return await logitsOf(opened.decoder, adapter, sequences)
  }

  const deviceOptions = () => {
    const { kind, options: device } = context.variant
    return { ...device, device: kind }
  }

  for (const [name, declaration] of Object.entries({
    dora: dora(options),
    pissa: pissa(options),
    olora: olora({ ...options, rsLora: true }),
  }))
    it(`of ${name} gives its logits, in memory and through the folder`, async () => {
      const { device } = context
      const { adapter, logits } = await trained(declaration)
      await saveAdapter(adapter, at(name), { baseModel: model })
      {
        using opened = await openDecoder(device, model)
        await mergeAdapter(opened.weights, adapter, { float32: true })
        adapter.dispose()
        assertClose(await logitsOf(opened.decoder, null, sequences), logits, 1e-4, 'in memory')
      }
      const output = at(`${name}-merged`)
      await mergeModel({ ...deviceOptions(), model, adapter: at(name), output, dtype: 'f32' })
      assertClose(await logitsWith(null, output), logits, 1e-4, 'merged folder')
    })

  for (const [name, { declaration, discipline }] of Object.entries(fixed))
    it(`of ${name}: a PEFT adapter and a merged model give its logits`, async () => {
      const { adapter } = await trained(declaration)
      if (discipline !== undefined) adapter.useDiscipline(discipline)
      const { device } = context
      using opened = await openDecoder(device, model)
      const logits = await logitsOf(opened.decoder, adapter, sequences)
      await saveAdapter(adapter, at(name), { baseModel: model })
      adapter.dispose()
      const from = { ...deviceOptions(), model, adapter: at(name), discipline }
      const { lostEnergy } = await exportAdapter({ ...from, output: at(`${name}-peft`) })
      assert.equal(lostEnergy, 0)
      assert.ok(existsSync(at(`${name}-peft/adapter_config.json`)))
      assertClose(await logitsWith(at(`${name}-peft`)), logits, 1e-4, 'adapter')
      await mergeModel({ ...from, output: at(`${name}-merged`), dtype: 'f32' })
      assertClose(await logitsWith(null, at(`${name}-merged`)), logits, 1e-4, 'model')
    })

  it('of a router is Σ g_e s B_e A_e of the gates that are given, and a lower rank says what it loses', async () => {
    const { device } = context
    const gates = [0.5, -0.25, 2]
    const { adapter } = await trained(loraMoe({ ...options, experts: 3 }))
    await saveAdapter(adapter, at('routed'), { baseModel: model })
    const from = { ...deviceOptions(), model, adapter: at('routed') }
    const deltas = async (folder: string, of: (expert: number) => number) => {
      using opened = await openDecoder(device, model)
      using one = await loadAdapter(device, opened.config, folder)
      const made = new Map<string, Float64Array>()
      for (const module of one.modules) {
        const tensors = moduleTensors(module)
        const [a, b] = await Promise.all(
          tensors.slice(0, 2).map(({ tensor }) => tensor.readFloats()),
        )
        for (const { tensor } of tensors) tensor.release()
        const { inFeatures, outFeatures, rank, scale } = module
        const columns = b.length / outFeatures
        const delta = new Float64Array(outFeatures * inFeatures)
        for (let n = 0; n < outFeatures; n++)
          for (let k = 0; k < columns; k++)
            for (let c = 0; c < inFeatures; c++)
              delta[n * inFeatures + c] +=
                of(Math.floor(k / rank)) * scale * b[n * columns + k] * a[k * inFeatures + c]
        made.set(module.path, delta)
      }
      return made
    }
    adapter.dispose()
    await exportAdapter({ ...from, gates, output: at('whole') })
    const expected = await deltas(at('routed'), (e) => gates[e])
    const whole = await deltas(at('whole'), () => 1)
    for (const [path, delta] of expected) assertClose(whole.get(path)!, delta, 1e-6, path)
    const { lostEnergy } = await exportAdapter({ ...from, gates, rank: 2, output: at('two') })
    const two = await deltas(at('two'), () => 1)
    let [lost, all] = [0, 0]
    for (const [path, delta] of expected)
      delta.forEach((value, i) => {
        lost += (value - two.get(path)![i]) ** 2
        all += value ** 2
      })
    assert.ok(lostEnergy > 0.01 && lostEnergy < 1)
    assert.ok(Math.abs(lostEnergy - lost / all) < 1e-5, `${lostEnergy}, not ${lost / all}`)
  })

  it('refuses what is no fixed update, in one sentence, and writes nothing', async () => {
    const folders: Record<string, LoraDeclaration> = {
      plain: lora(options),
      routed: hydraLora({ ...options, experts: 3 }),
      tasks: mtlLora({ ...options, disciplines }),
      magnitudes: dora(options),
    }
    for (const [name, declaration] of Object.entries(folders)) {
      const { adapter } = await trained(declaration)
      await saveAdapter(adapter, at(`refused-${name}`), { baseModel: model })
      adapter.dispose()
    }
    const attempts: [string, object, RegExp][] = [
      ['routed', {}, /hydra-lora depend on each token.*gates/],
      ['routed', { gates: [1, 2] }, /gates must be 3 numbers/],
      ['routed', { gates: [1, 2, NaN] }, /gates must be 3 numbers/],
      ['plain', { gates: [1] }, /has no router/],
      ['plain', { rank: 0 }, /rank must be a whole number/],
      ['tasks', {}, /say which of biology, law, music/],
      ['tasks', { discipline: 'physics' }, /no discipline "physics"/],
      ['magnitudes', {}, /kind dora scales the rows/],
    ]
    for (const [name, more, expected] of attempts) {
      const from = { ...deviceOptions(), model, adapter: at(`refused-${name}`), output: at('no') }
      const refusal = (error: Error) => {
        assert.match(error.message, expected)
        return true
      }
      await assert.rejects(exportAdapter({ ...from, ...more }), refusal)
      if (name !== 'magnitudes' && !('rank' in more))
        await assert.rejects(mergeModel({ ...from, ...more }), refusal)
      assert.ok(!existsSync(at('no')))
    }
    await assert.rejects(
      exportAdapter({ ...deviceOptions(), model, adapter: at('refused-plain'), output: model }),
      ConfigError,
    )
  })
})
