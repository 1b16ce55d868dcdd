import assert from 'node:assert/strict'
import { existsSync, readdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/declaration.js'
import { saveAdapter } from '../../lib/adapters/peft.js'
import { Corpus, packBatch } from '../../lib/data/index.js'
import { ConfigError } from '../../lib/errors.js'
import { collectFisher, collectGram, mergeRecipe, parseRecipe } from '../../lib/merge/index.js'
import { AdapterDeltas } from '../../lib/merge/adapter-deltas.js'
import { regMean } from '../../lib/merge/regmean.js'
import { Model } from '../../lib/model.js'
import { layerName, linearGroups, linearNames } from '../../lib/models/index.js'
import { unfreezeWeights } from '../../lib/models/load.js'
import { scope } from '../../lib/scope.js'
import { Tensor } from '../../lib/tensor.js'
import { decoderInput, trainMicroBatch } from '../../lib/train/step.js'
import { assertClose } from '../compare.js'
import { goldenModel, readTensors } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'

const model = goldenModel('qwen2-text')

forEachDevice('information from a corpus', (context) => {
  const at = temporaryFolder()

  const names = ['biology', 'law']
  const data = (name: string) => at(`${name}.jsonl`)
  before(async () => {
    const { device } = context
    for (const [i, name] of names.entries()) {
      const records = Array.from({ length: 4 + i }, (_, n) => ({
        prompt: `${name}, what comes after ${n}?`,
        completion: ` It is ${n + 1}${'!'.repeat(n)}`,
      }))
      writeFileSync(data(name), records.map((one) => `${JSON.stringify(one)}\n`).join(''))
      await using opened = await Model.load(model, { device })
      using adapter = Adapter.create(
        device,
        opened.config,
        lora({ rank: 2 + i, targets: ['q_proj', 'k_proj', 'down_proj'], seed: i }),
      )
      const random = new Random(i)
      for (const { part } of adapter.modules)
        part.b.value.write(random.normal(part.b.value.size, 0.2))
      await saveAdapter(adapter, at(name), { baseModel: model })
    }
  })

  const deviceOptions = () => {
    const { kind, options } = context.variant
    return { ...options, device: kind }
  }

  /** The samples of a corpus, one in each batch. */
  async function batchesOf(opened: Model, name: string) {
    await using corpus = await Corpus.open([{ discipline: 'd', path: data(name), weight: 1 }], {
      tokenizer: opened.tokenizer,
      maxLength: opened.config.maxPositions,
      onTooLong: 'truncate',
      onBadRecord: 'error',
      chatTemplate: false,
      labels: 'all',
    })
    const [{ store }] = corpus.groups
    return await Promise.all(
      Array.from({ length: store.size }, async (_, i) =>
        packBatch(
          [{ example: { ...(await store.read(i)), discipline: 0 }, sampleIndex: i }],
          ['d'],
        ),
      ),
    )
  }

  it('collectGram writes XᵀX / T of what every layer reads', async () => {
    const { device } = context
    await collectGram({
      ...deviceOptions(),
      model,
      adapter: at('law'),
      data: data('law'),
      output: at('gram'),
    })
    const grams = await readTensors(device, join(at('gram'), 'gram.safetensors'))
    await using opened = await Model.load(model, { device })
    const adapter = await opened.attachFrom(at('law'))
    const expected = new Map<string, Float64Array>()
    let tokens = 0
    for (const batch of await batchesOf(opened, 'law')) {
      const inputs: { key: string; size: number; read: Promise<Float32Array> }[] = []
      scope(() => {
        const pass = { device, tape: null, dropout: null }
        opened.decoder.forward(pass, decoderInput(opened.decoder, batch), adapter, {
          onInput: (layer, name, x) => {
            const key = `${layerName(layer)}.${linearNames[linearGroups[name][0]]}`
            inputs.push({ key, size: x.shape[1], read: x.readFloats() })
          },
        })
      })
      tokens += batch.inputIds.length
      for (const { key, size, read } of inputs) {
        const x = await read
        const gram = expected.get(key) ?? new Float64Array(size * size)
        for (let t = 0; t < x.length; t += size)
          for (let i = 0; i < size; i++)
            for (let j = 0; j < size; j++) gram[i * size + j] += x[t + i] * x[t + j]
        expected.set(key, gram)
      }
    }
    assert.deepEqual([...grams.keys()].sort(), [...expected.keys()].sort())
    for (const [key, gram] of expected)
      assertClose(
        grams.get(key)!.values,
        gram.map((value) => value / tokens),
        1e-5,
        key,
      )
  })

  it('collectFisher writes the mean of the squared gradients of single samples', async () => {
    const { device } = context
    const { samples } = await collectFisher({
      ...deviceOptions(),
      model,
      adapter: at('biology'),
      data: data('biology'),
      samples: 3,
      output: at('fisher'),
    })
    assert.equal(samples, 3)
    const fisher = await readTensors(device, join(at('fisher'), 'model.safetensors'))
    await using opened = await Model.load(model, { device })
    const adapter = await opened.attachFrom(at('biology'))
    const parameters = unfreezeWeights(device, opened.decoder.weights)
    const expected = new Map<string, Float64Array>()
    for (const batch of (await batchesOf(opened, 'biology')).slice(0, 3)) {
      scope(() => {
        const step = Tensor.from(device, Int32Array.of(1))
        const loss = Tensor.empty(device, [batch.labels.length])
        const lossScale = Tensor.from(device, [1])
        trainMicroBatch(opened.decoder, adapter, batch, { step, lossScale }, loss)
      })
      for (const { name, gradient } of parameters) {
        const values = await gradient!.readFloats()
        const sum = expected.get(name) ?? new Float64Array(values.length)
        for (let i = 0; i < sum.length; i++) sum[i] += values[i] ** 2 / 3
        expected.set(name, sum)
        gradient!.fill(0)
      }
    }
    for (const { gradient } of parameters) gradient!.release()
    assert.deepEqual([...fisher.keys()].sort(), [...expected.keys()].sort())
    for (const [name, values] of expected) assertClose(fisher.get(name)!.values, values, 1e-5, name)
  })

  const recipe = (method: string, more: (name: string) => object) =>
    parseRecipe({
      merge_method: method,
      base_model: model,
      models: names.map((name) => ({ model: at(name), ...more(name) })),
      dtype: 'float32',
    })

  it('a recipe gathers it from the corpora that it names, and leaves nothing behind', async () => {
    const { device } = context
    for (const [method, key, collect] of [
      ['regmean', 'gram', collectGram],
      ['fisher', 'fisher', collectFisher],
    ] as const) {
      for (const name of names)
        await collect({
          ...deviceOptions(),
          model,
          adapter: at(name),
          data: data(name),
          output: at(`${method}-${name}`),
        })
      const by = { [`${method}-folders`]: key, [`${method}-data`]: 'data' }
      for (const [output, given] of Object.entries(by))
        await mergeRecipe({
          ...deviceOptions(),
          recipe: recipe(method, (name) => ({
            [given]: given === 'data' ? data(name) : at(`${method}-${name}`),
          })),
          output: at(output),
        })
      const [folders, gathered] = await Promise.all(
        Object.keys(by).map((output) => readTensors(device, join(at(output), 'model.safetensors'))),
      )
      assert.deepEqual(gathered, folders)
    }
    const path = 'model.layers.1.self_attn.k_proj'
    await using opened = await Model.load(model, { device })
    const factors = []
    for (const name of names) {
      const deltas = await AdapterDeltas.open(device, opened.config, at(name))
      factors.push((await deltas.factors(path))!)
      deltas.dispose()
    }
    const grams = []
    for (const name of names) {
      const file = await readTensors(device, join(at(`regmean-${name}`), 'gram.safetensors'))
      grams.push(
        Float64Array.from(file.get('model.layers.1.self_attn.q_proj')!.values as Float32Array),
      )
    }
    const { a, b, rank } = regMean(factors, grams, 0.9)
    const merged = await readTensors(device, join(at('regmean-folders'), 'model.safetensors'))
    const base = await readTensors(device, join(model, 'model.safetensors'))
    const columns = a.length / rank
    const expected = Array.from(base.get(`${path}.weight`)!.values, (value, i) => {
      let sum = value
      for (let k = 0; k < rank; k++)
        sum += b[Math.floor(i / columns) * rank + k] * a[k * columns + (i % columns)]
      return sum
    })
    assertClose(merged.get(`${path}.weight`)!.values, expected, 1e-5)
  })

  it('refuses what is missing or too much, and writes nothing', async () => {
    const attempts: [() => unknown, RegExp][] = [
      [() => recipe('regmean', () => ({})), /regmean needs gram for .*, or data/],
      [() => recipe('regmean', () => ({ fisher: 'f' })), /regmean does not take fisher/],
      [() => recipe('ties', () => ({ data: 'd' })), /ties does not take data/],
      [() => recipe('fisher', () => ({ fisher: 'f', data: 'd' })), /fisher needs fisher/],
    ]
    for (const [attempt, expected] of attempts)
      assert.throws(
        attempt,
        (error: Error) => error instanceof ConfigError && expected.test(error.message),
      )
    const merge = (one: (name: string) => object) =>
      mergeRecipe({ ...deviceOptions(), recipe: recipe('regmean', one), output: at('refused') })
    await assert.rejects(
      merge(() => ({ data: at('nowhere.jsonl') })),
      /nowhere\.jsonl/,
    )
    await assert.rejects(
      merge(() => ({ gram: at('law') })),
      /gram\.safetensors/,
    )
    assert.ok(!existsSync(at('refused')))
    assert.ok(!readdirSync(at('.')).includes('.refused.partial'))
  })
})
