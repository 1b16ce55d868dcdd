import assert from 'node:assert/strict'
import { cpSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { it } from 'mocha'
import { FormatError } from '../../lib/errors.js'
import { eachWeight, parseConfig, readConfig } from '../../lib/models/index.js'
import {
  disposeWeights,
  initializeWeights,
  loadWeights,
  unfreezeWeights,
} from '../../lib/models/load.js'
import { Parameter } from '../../lib/parameter.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { goldenJson, goldenPath, goldenTensors } from '../golden-files.js'
import { safetensorsBytes } from '../safetensors-bytes.js'
import { temporaryFolder } from '../temporary-folder.js'

interface Index {
  metadata: unknown
  weight_map: Record<string, unknown>
}

forEachDevice('loadWeights', (context) => {
  const temporary = temporaryFolder()
  let copies = 0

  /** A copy of a golden model's folder. */
  function copyOf(name: string): string {
    const folder = temporary(`model-${String(copies++)}`)
    cpSync(goldenPath(`models/${name}/model`), folder, { recursive: true })
    return folder
  }

  async function load(folder: string) {
    return loadWeights(context.device, folder, await readConfig(folder))
  }

  async function refused(folder: string, ...parts: string[]): Promise<void> {
    await assert.rejects(load(folder), (error: Error) => {
      assert.ok(error instanceof FormatError, String(error))
      for (const part of parts) assert.ok(error.message.includes(part), error.message)
      return true
    })
  }

  function changeIndex(folder: string, change: (index: Index) => void): void {
    const file = join(folder, 'model.safetensors.index.json')
    const index = JSON.parse(readFileSync(file, 'utf8')) as Index
    change(index)
    writeFileSync(file, JSON.stringify(index))
  }

  /** Replaces tensors of a single-file model (of F32 and BF16); null leaves one out. */
  function changeTensors(
    folder: string,
    name: string,
    change: Record<string, { dtype: string; shape: number[]; bytes: ArrayBufferView } | null>,
  ): void {
    const tensors: Record<
      string,
      { dtype: string; shape: readonly number[]; bytes: ArrayBufferView }
    > = {}
    for (const [key, tensor] of goldenTensors(`models/${name}/model/model.safetensors`)) {
      const values = Float32Array.from(tensor.values)
      tensors[key] = { dtype: 'F32', shape: tensor.shape, bytes: values }
    }
    for (const [key, tensor] of Object.entries(change)) {
      delete tensors[key] // eslint-disable-line @typescript-eslint/no-dynamic-delete
      if (tensor) tensors[key] = tensor
    }
    writeFileSync(join(folder, 'model.safetensors'), safetensorsBytes(tensors))
  }

  it('reads every tensor of a file exactly', async () => {
    for (const name of ['llama-grouped', 'llama-3-scaling', 'qwen3']) {
      const folder = goldenPath(`models/${name}/model`)
      const weights = await load(folder)
      const expected = goldenTensors(`models/${name}/model/model.safetensors`)
      let count = 0
      for (const one of eachWeight(weights)) {
        const { values } = await evaluate(() => ({
          values: one instanceof Parameter ? one.value : one.weight.read(),
        }))
        assert.deepEqual(values, expected.get(one.name)!.values, `${name}: ${one.name}`)
        count++
      }
      assert.equal(count, expected.size, name)
      disposeWeights(weights)
    }
  })

  it('reads through symbolic links, as the Hub keeps its snapshots', async () => {
    const blobs = copyOf('llama-bias')
    const snapshot = temporary('snapshot')
    mkdirSync(snapshot)
    for (const file of readdirSync(blobs)) symlinkSync(join(blobs, file), join(snapshot, file))
    disposeWeights(await load(snapshot))
  })

  it('tells how much it has read', async () => {
    const folder = goldenPath('models/mistral/model')
    const progress: [number, number][] = []
    const weights = await loadWeights(context.device, folder, await readConfig(folder), {
      onProgress: (read, total) => progress.push([read, total]),
    })
    disposeWeights(weights)
    assert.ok(progress.length > 10)
    const [read, total] = progress.at(-1)!
    assert.ok(read <= total && read > 0.9 * total)
    progress.forEach(([read], i) => assert.ok(i === 0 || read > progress[i - 1][0]))
  })

  it('stops when it is told to, and frees what it had', async () => {
    const folder = goldenPath('models/mistral/model')
    const controller = new AbortController()
    await assert.rejects(
      loadWeights(context.device, folder, await readConfig(folder), {
        signal: controller.signal,
        onProgress: () => {
          controller.abort()
        },
      }),
      { name: 'AbortError' },
    )
  })

  it('refuses shards whose names lead out of the folder', async () => {
    for (const name of [
      '../model-00001-of-00003.safetensors',
      '/etc/passwd',
      'sub/model.safetensors',
      '..',
      '.',
      '',
      7,
      null,
      ['model-00001-of-00003.safetensors'],
      'model\0.safetensors',
    ]) {
      const folder = copyOf('llama-bias')
      changeIndex(folder, ({ weight_map }) => (weight_map['model.norm.weight'] = name))
      await refused(folder, folder)
    }
  })

  it('refuses an index that is none', async () => {
    const folder = copyOf('llama-bias')
    const file = join(folder, 'model.safetensors.index.json')
    for (const text of ['', 'null', '{}', '{"weight_map": 7}', '{"weight_map": {}}', '[]', '{']) {
      writeFileSync(file, text)
      await refused(folder, folder)
    }
  })

  it('refuses a shard that is missing, empty, or not what it says', async () => {
    const shard = 'model-00002-of-00003.safetensors'
    const folder = copyOf('llama-bias')
    changeIndex(
      folder,
      ({ weight_map }) => (weight_map['model.norm.weight'] = 'absent.safetensors'),
    )
    await refused(folder, 'absent.safetensors')
    for (const bytes of [0, 7, 9, 5000]) {
      const damaged = copyOf('llama-bias')
      const whole = readFileSync(join(damaged, shard))
      writeFileSync(join(damaged, shard), whole.subarray(0, bytes))
      await refused(damaged, shard)
    }
  })

  it('refuses a tensor that is in two files', async () => {
    const folder = copyOf('llama-bias')
    const first = 'model-00001-of-00003.safetensors'
    writeFileSync(join(folder, 'twin.safetensors'), readFileSync(join(folder, first)))
    changeIndex(folder, ({ weight_map }) => (weight_map.extra = 'twin.safetensors'))
    await refused(folder, 'two files')
  })

  it('refuses a tensor that is missing, by name', async () => {
    for (const key of [
      'model.embed_tokens.weight',
      'model.layers.1.mlp.down_proj.weight',
      'model.norm.weight',
      'lm_head.weight',
    ]) {
      const folder = copyOf('llama-grouped')
      changeTensors(folder, 'llama-grouped', { [key]: null })
      await refused(folder, key)
    }
    const biased = copyOf('qwen2')
    const key = 'model.layers.0.self_attn.k_proj.bias'
    changeTensors(biased, 'qwen2', { [key]: null })
    await refused(biased, key)
  })

  it('refuses a shape or a dtype that does not fit, by name', async () => {
    const norm = 'model.norm.weight'
    const gate = 'model.layers.0.mlp.gate_proj.weight'
    for (const [key, tensor, part] of [
      [norm, { dtype: 'F32', shape: [47], bytes: new Float32Array(47) }, '[48]'],
      [norm, { dtype: 'F32', shape: [1, 48], bytes: new Float32Array(48) }, '[48]'],
      [gate, { dtype: 'F32', shape: [48, 80], bytes: new Float32Array(3840) }, '[80, 48]'],
      [gate, { dtype: 'F32', shape: [3840], bytes: new Float32Array(3840) }, '[80, 48]'],
      [gate, { dtype: 'I8', shape: [80, 48], bytes: new Int8Array(3840) }, 'I8'],
      [gate, { dtype: 'F64', shape: [80, 48], bytes: new Float64Array(3840) }, 'F64'],
      [norm, { dtype: 'I32', shape: [48], bytes: new Int32Array(48) }, 'I32'],
    ] as const) {
      const folder = copyOf('llama-grouped')
      changeTensors(folder, 'llama-grouped', { [key]: { ...tensor, shape: [...tensor.shape] } })
      await refused(folder, key, part)
    }
  })

  it('passes over tensors that the model does not use', async () => {
    const folder = copyOf('llama-grouped')
    const bytes = new Int32Array(3)
    changeTensors(folder, 'llama-grouped', { position_ids: { dtype: 'I32', shape: [3], bytes } })
    disposeWeights(await load(folder))
  })

  it('refuses a config that asks for more memory than there is, before reading', async () => {
    const folder = copyOf('llama-grouped')
    const config = goldenJson<object>('models/llama-grouped/model/config.json')
    const huge = parseConfig({ ...config, vocab_size: 1 << 24, hidden_size: 1 << 24, head_dim: 8 })
    await assert.rejects(loadWeights(context.device, folder, huge), FormatError)
  })
})

forEachDevice('initializeWeights', (context) => {
  const config = (name: string) =>
    parseConfig({
      ...goldenJson<object>(`models/${name}/model/config.json`),
      initializer_range: 0.05,
    })

  const valuesOf = async (name: string, seed: number) => {
    const weights = await initializeWeights(context.device, config(name), seed)
    const values = new Map<string, Float32Array>()
    for (const one of eachWeight(weights)) {
      const read = await evaluate(() => ({
        value: one instanceof Parameter ? one.value : one.weight.read(),
      }))
      values.set(one.name, read.value)
    }
    disposeWeights(weights)
    return values
  }

  it('draws matrices from N(0, initializer_range); norms are 1, biases 0', async () => {
    for (const name of ['llama-bias', 'qwen3', 'qwen2-tied'])
      for (const [key, values] of await valuesOf(name, 5)) {
        if (key.endsWith('norm.weight'))
          assert.ok(
            values.every((value) => value === 1),
            key,
          )
        else if (key.endsWith('bias'))
          assert.ok(
            values.every((value) => value === 0),
            key,
          )
        else {
          const n = values.length
          const mean = values.reduce((sum, value) => sum + value, 0) / n
          const deviation = Math.sqrt(values.reduce((sum, value) => sum + value * value, 0) / n)
          // Five standard errors.
          assert.ok(Math.abs(mean) < (5 * 0.05) / Math.sqrt(n), `mean of ${key}`)
          assert.ok(Math.abs(deviation / 0.05 - 1) < 5 / Math.sqrt(2 * n), `deviation of ${key}`)
        }
      }
  })

  it('depends on the seed alone, and no two matrices are alike', async () => {
    const first = await valuesOf('qwen2', 5)
    const again = await valuesOf('qwen2', 5)
    const other = await valuesOf('qwen2', 6)
    assert.deepEqual(again, first)
    const beginnings = new Set<number>()
    let matrices = 0
    for (const [key, values] of first) {
      if (!key.endsWith('proj.weight')) continue
      matrices++
      beginnings.add(values[0])
      assert.notDeepEqual(other.get(key), values)
    }
    assert.equal(beginnings.size, matrices)
  })
})

forEachDevice('unfreezeWeights', (context) => {
  it('makes a float32 value and a gradient of zeros of every weight once', async () => {
    for (const name of ['qwen2-tied', 'llama-bias']) {
      const folder = goldenPath(`models/${name}/model`)
      const weights = await loadWeights(context.device, folder, await readConfig(folder))
      const parameters = unfreezeWeights(context.device, weights)
      assert.deepEqual(unfreezeWeights(context.device, weights), parameters, 'idempotent')
      assert.equal(parameters.length, [...eachWeight(weights)].length)
      assert.equal(weights.head === weights.embedTokens, name === 'qwen2-tied')
      for (const { value, gradient } of parameters) {
        assert.equal(value.dtype, 'f32')
        assert.deepEqual(gradient!.shape, value.shape)
        assert.ok((await gradient!.readFloats()).every((g) => g === 0))
      }
      disposeWeights(weights)
    }
  })

  it('keeps the products in float32 where the file is bf16, so that small updates count', async () => {
    const folder = goldenPath('models/qwen2-tied/model')
    const weights = await loadWeights(context.device, folder, await readConfig(folder))
    unfreezeWeights(context.device, weights)
    const { weight, master } = weights.layers[0].gate.matrix
    master!.value.fill(1 + 2 ** -20)
    master!.packed!.update(master!.value)
    const { values } = await evaluate(() => ({ values: weight.read() }))
    assert.equal(values[0], 1 + 2 ** -20)
    assert.equal(master!.packed, weight)
    disposeWeights(weights)
  })
})
