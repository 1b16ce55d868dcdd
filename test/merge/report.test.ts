import assert from 'node:assert/strict'
import { join } from 'node:path'
import { Device } from '../../lib/device.js'
import { ConfigError } from '../../lib/errors.js'
import {
  mergeAdapters,
  mergeRecipe,
  mergeReport,
  parseRecipe,
  sideBySideAdapter,
} from '../../lib/merge/index.js'
import { assertClose } from '../compare.js'
import { goldenModel, readTensors } from '../decoder-logits.js'
import { goldenPath } from '../golden-files.js'
import { temporaryFolder } from '../temporary-folder.js'
import { product, randomAdapter } from './adapter-folders.js'

const instruct = goldenModel('qwen2-text')
const tiny = goldenPath('merging/models/base')

describe('merged adapters', function () {
  this.timeout(60_000)
  const at = temporaryFolder()
  let device: Device
  before(() => {
    device = Device.open('cpu', { threads: 1 })
  })
  after(() => device.close())

  const recipe = (method: string, base: string, names: string[], parameters: object = {}) =>
    parseRecipe({
      merge_method: method,
      base_model: base,
      models: names.map((name, i) => ({ model: at(name), parameters: { weight: 1 + i } })),
      parameters,
    })

  it('in a model give the logits of the adapters side by side, and TIES does not', async () => {
    for (const [i, name] of ['a', 'b'].entries())
      await randomAdapter(device, instruct, at(name), i, { rank: 3, alpha: 0.2, rsLora: i === 1 })
    const prompts = ['What is the capital of Kenya?', 'H2O']
    const rowsOf = async (method: string, parameters: object) => {
      const one = recipe(method, instruct, ['a', 'b'], parameters)
      await mergeRecipe({ recipe: { ...one, dtype: 'f32' }, output: at(method), threads: 1 })
      return mergeReport({
        model: instruct,
        adapter: (device, config) => sideBySideAdapter(one, device, config),
        merged: at(method),
        prompts,
        device: 'cpu',
        threads: 1,
      })
    }
    const exact = await rowsOf('task_arithmetic', { lambda: 0.5 })
    assert.deepEqual(
      exact.map(({ prompt }) => prompt),
      prompts,
    )
    for (const row of exact) {
      assert.ok(row.largestDifference < 1e-4 * row.largestLogit, JSON.stringify(row))
      assert.ok(Math.abs(row.divergence) < 1e-6)
      assert.equal(row.agreement, row.tokens)
    }
    const changed = await rowsOf('ties', { density: 0.2 })
    for (const row of changed) assert.ok(row.divergence > 1e-4, JSON.stringify(row))
  })

  it('in an adapter are exact by cat, and by svd lose what is said', async () => {
    const options = [
      { rank: 2, targets: ['q_proj', 'up_proj'] },
      { rank: 3, alpha: 2, rsLora: true, targets: ['up_proj', 'down_proj'] },
    ]
    const first = await randomAdapter(device, tiny, at('c'), 3, options[0])
    const second = await randomAdapter(device, tiny, at('d'), 4, options[1])
    const updates = async (name: string) => {
      const tensors = await readTensors(device, join(at(name), 'adapter_model.safetensors'))
      const all = new Map<string, Float64Array>()
      for (const [key, { values, shape }] of tensors) {
        const path = /^base_model\.model\.(.*)\.lora_A\.weight$/.exec(key)?.[1]
        if (path === undefined) continue
        const b = tensors.get(key.replace('lora_A', 'lora_B'))!
        all.set(path, product(b.values, values, b.shape[0], shape[0], shape[1]))
      }
      return all
    }
    const output = at('cat-adapter')
    const cat = await mergeAdapters({ recipe: recipe('cat', tiny, ['c', 'd']), output, threads: 1 })
    assert.equal(cat.lostEnergy, 0)
    const merged = await updates('cat-adapter')
    assert.deepEqual(
      [...merged.keys()].sort(),
      [...new Set([...first.keys(), ...second.keys()])].sort(),
    )
    for (const [path, values] of merged) {
      const expected = values.map(
        (_, i) => (first.get(path)?.[i] ?? 0) + 2 * (second.get(path)?.[i] ?? 0),
      )
      assertClose(values, expected, 1e-6, path)
    }
    // alpha / rank is 1 for every module: what is in the file is the update.
    const { lostEnergy } = await mergeAdapters({
      recipe: recipe('svd', tiny, ['c', 'd'], { rank: 2 }),
      output: at('svd-adapter'),
      threads: 1,
    })
    let [lost, whole] = [0, 0]
    for (const [path, values] of await updates('svd-adapter'))
      values.forEach((value, i) => {
        lost += (value - merged.get(path)![i]) ** 2
        whole += merged.get(path)![i] ** 2
      })
    assertClose([lostEnergy!], [lost / whole], 1e-5)
    assert.ok(lost > 0.01 * whole)
  })

  it('are no adapter where the result has full rank', async () => {
    await randomAdapter(device, tiny, at('c'), 3, { rank: 2 })
    await assert.rejects(
      mergeAdapters({
        recipe: recipe('ties', tiny, ['c'], { density: 0.5 }),
        output: at('never'),
        threads: 1,
      }),
      (error: unknown) => error instanceof ConfigError && /full rank/.test(error.message),
    )
  })
})
