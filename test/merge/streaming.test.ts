import assert from 'node:assert/strict'
import {
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { fork } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { Device } from '../../lib/device.js'
import { ConfigError, FormatError } from '../../lib/errors.js'
import { mergeRecipe, type MergeRecipeOptions, parseRecipe } from '../../lib/merge/index.js'
import { readTensors } from '../decoder-logits.js'
import { goldenPath } from '../golden-files.js'
import { temporaryFolder } from '../temporary-folder.js'
import { randomAdapter } from './adapter-folders.js'

const golden = (name: string) => join(goldenPath('merging'), 'models', name)

describe('merge of a recipe', function () {
  this.timeout(120_000)
  const at = temporaryFolder()
  let device: Device
  before(() => {
    device = Device.open('cpu', { threads: 1 })
  })
  after(() => device.close())

  const merge = (recipe: unknown, output: string, options: Partial<MergeRecipeOptions> = {}) =>
    mergeRecipe({ device: 'cpu', threads: 1, ...options, recipe: parseRecipe(recipe), output })
  const ties = (models: string[], base = golden('base')) => ({
    merge_method: 'ties',
    base_model: base,
    models: models.map((model) => ({ model })),
    parameters: { weight: 1, density: 0.5 },
  })

  it('in shards is the same as in one file, with an index', async () => {
    const recipe = ties([golden('chemistry'), golden('geography')])
    await merge(recipe, at('one'))
    await merge(recipe, at('shards'), { maxShardBytes: 3000 })
    const names = readdirSync(at('shards')).filter((name) => name.endsWith('.safetensors'))
    assert.ok(names.length > 3)
    assert.match(names[0], /^model-00001-of-000\d\d\.safetensors$/)
    const index = JSON.parse(
      readFileSync(join(at('shards'), 'model.safetensors.index.json'), 'utf8'),
    ) as { metadata: { total_size: number }; weight_map: Record<string, string> }
    const whole = await readTensors(device, join(at('one'), 'model.safetensors'))
    let bytes = 0
    for (const name of names)
      for (const [key, { values }] of await readTensors(device, join(at('shards'), name))) {
        assert.deepEqual(values, whole.get(key)!.values)
        assert.equal(index.weight_map[key], name)
        bytes += 4 * values.length
        whole.delete(key)
      }
    assert.equal(whole.size, 0)
    assert.equal(index.metadata.total_size, bytes)
    // What was written in shards is a model again.
    await merge(
      { merge_method: 'passthrough', models: [{ model: at('shards') }] },
      at('from-shards'),
    )
    assert.deepEqual(
      await readTensors(device, join(at('from-shards'), 'model.safetensors')),
      await readTensors(device, join(at('one'), 'model.safetensors')),
    )
  })

  for (const [name, dtype, bits] of [
    ['bfloat16', 'BF16', 8],
    ['float16', 'F16', 11],
  ] as const)
    it(`as ${name} rounds once, to nearest`, async () => {
      const recipe = ties([golden('chemistry')])
      await merge({ ...recipe, dtype: name }, at(name))
      await merge(recipe, at(`${name}-exact`))
      const exact = await readTensors(device, join(at(`${name}-exact`), 'model.safetensors'))
      const rounded = await readTensors(device, join(at(name), 'model.safetensors'))
      for (const [key, one] of rounded) {
        assert.equal(one.dtype, dtype)
        one.values.forEach((value, i) => {
          const other = exact.get(key)!.values[i]
          const step = Math.max(2 ** (Math.floor(Math.log2(Math.abs(other))) - bits + 1), 2 ** -24)
          assert.ok(Math.abs(value - other) <= step / 2, `${key}: ${value} for ${other}`)
          assert.ok(Number.isInteger(value / step))
        })
      }
      const config = JSON.parse(readFileSync(join(at(name), 'config.json'), 'utf8')) as object
      assert.ok(Object.values(config).includes(name))
    })

  const refusals: [string, () => Promise<unknown>, RegExp][] = [
    [
      'a folder that is not there',
      () => Promise.resolve(ties(['nowhere'])),
      /nowhere.config\.json/,
    ],
    [
      'an output inside an input',
      () => Promise.resolve({ ...ties([at('copy')]), output: join(at('copy'), 'merged') }),
      /lies inside/,
    ],
    [
      'a value that is not finite',
      () => {
        const path = join(at('copy'), 'model.safetensors')
        const bytes = readFileSync(path)
        bytes.writeFloatLE(NaN, bytes.length - 4)
        writeFileSync(path, bytes)
        return Promise.resolve(ties([at('copy')]))
      },
      /copy.model\.safetensors: element \d+ of tensor \S+ is NaN/,
    ],
    [
      'another shape',
      () => {
        const path = join(at('copy'), 'config.json')
        const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
        writeFileSync(path, JSON.stringify({ ...config, vocab_size: 24 }))
        return Promise.resolve(ties([at('copy')]))
      },
      /vocabSize 24.*has 23/,
    ],
    [
      'a tensor that is missing',
      () => {
        const path = join(at('copy'), 'model.safetensors')
        const text = readFileSync(path).toString('latin1')
        const renamed = text.replace('layers.1.mlp.up_proj.weight', 'layers.1.mlp.uq_proj.weight')
        writeFileSync(path, Buffer.from(renamed, 'latin1'))
        return Promise.resolve(ties([at('copy')]))
      },
      /copy: no safetensors file has the tensor model\.layers\.1\.mlp\.up_proj\.weight/,
    ],
    [
      'layers that are not there',
      () =>
        Promise.resolve({
          merge_method: 'passthrough',
          slices: [{ sources: [{ model: golden('base'), layer_range: [1, 4] }] }],
        }),
      /layer_range \[1, 4\].*3 layers/,
    ],
    [
      'adapters of different bases',
      async () => {
        await randomAdapter(device, golden('base'), at('x'), 1, { rank: 2 }, 'org/llama')
        await randomAdapter(device, golden('base'), at('y'), 2, { rank: 2 }, 'models/qwen')
        return ties([at('x'), at('y')])
      },
      /adapter of models\/qwen and .* of org\/llama/,
    ],
    [
      'an adapter without a base',
      async () => {
        await randomAdapter(device, golden('base'), at('x'), 1, { rank: 2 })
        return {
          merge_method: 'linear',
          models: [{ model: at('x') }],
          parameters: { weight: 1 },
        }
      },
      /base_model must be given/,
    ],
    [
      'an adapter with a value that is not finite',
      async () => {
        await randomAdapter(device, golden('base'), at('x'), 1, { rank: 2 })
        const path = join(at('x'), 'adapter_model.safetensors')
        const bytes = readFileSync(path)
        bytes.writeFloatLE(NaN, bytes.length - 4)
        writeFileSync(path, bytes)
        return ties([at('x')])
      },
      /x.adapter_model\.safetensors: element \d+ of tensor \S+lora_[AB]\.weight is NaN/,
    ],
    [
      'an adapter that lacks a module it names',
      async () => {
        await randomAdapter(device, golden('base'), at('x'), 1, { rank: 2 })
        const path = join(at('x'), 'adapter_model.safetensors')
        const text = readFileSync(path).toString('latin1')
        const renamed = text.replaceAll('layers.1.mlp.up_proj.lora', 'layers.1.mlp.uq_proj.lora')
        writeFileSync(path, Buffer.from(renamed, 'latin1'))
        return ties([at('x')])
      },
      /x.adapter_model\.safetensors: tensor \S+uq_proj\S+ cannot be used/,
    ],
    [
      'an adapter of another shape',
      async () => {
        const qwen = goldenPath('models/qwen2/model')
        await randomAdapter(device, qwen, at('x'), 1, { rank: 2 })
        return ties([at('x')])
      },
      /adapter_model\.safetensors/,
    ],
    [
      'a whole model where only adapters can be merged',
      () =>
        Promise.resolve({
          merge_method: 'cat',
          base_model: golden('base'),
          models: [{ model: golden('chemistry') }],
          parameters: { weight: 1 },
        }),
      /cat merges adapters here, and .*chemistry/,
    ],
    [
      'a base that mergekit would merge as well',
      () =>
        Promise.resolve({
          merge_method: 'linear',
          base_model: golden('base'),
          models: [{ model: golden('chemistry') }],
          parameters: { weight: 1 },
        }),
      /not among them/,
    ],
  ]
  for (const [what, make, message] of refusals)
    it(`refuses ${what} and writes nothing`, async () => {
      for (const name of ['x', 'y', 'copy']) rmSync(at(name), { recursive: true, force: true })
      cpSync(golden('geography'), at('copy'), { recursive: true })
      const { output = at('never'), ...recipe } = (await make()) as { output?: string }
      await assert.rejects(merge(recipe, output), (error: unknown) => {
        assert.ok(error instanceof ConfigError || error instanceof FormatError, String(error))
        assert.match(error.message, message)
        return true
      })
      assert.ok(!existsSync(output))
      assert.deepEqual(
        readdirSync(at('.')).filter((name) => name.startsWith('.')),
        [],
      )
    })

  it('stops when it is asked to, and writes nothing', async () => {
    const controller = new AbortController()
    const recipe = ties([golden('chemistry')])
    await assert.rejects(
      merge(recipe, at('never'), {
        signal: controller.signal,
        onProgress: (done) => {
          if (done === 3) controller.abort(new Error('enough'))
        },
      }),
      /enough/,
    )
    assert.ok(!existsSync(at('never')))
  })

  it('of 330 MB in bf16 takes at most the share that 4 GiB are of a 7B model', async () => {
    const model = at('large')
    mkdirSync(model)
    writeLargeModel(model)
    // bf16 weights of 7.6e9 parameters, as Qwen2.5-7B has.
    const share = 2 ** 32 / (2 * 7.6e9)
    const bytes = readFileSync(join(model, 'model.safetensors')).length
    await randomAdapter(device, model, at('first'), 1, { rank: 4, targets: ['up_proj'] })
    await randomAdapter(device, model, at('second'), 2, { rank: 4, targets: ['up_proj'] })
    const child = fork(new URL('merge-process.ts', import.meta.url).pathname, {
      execArgv: ['--import', 'tsx'],
    })
    const recipe = {
      merge_method: 'ties',
      base_model: model,
      models: [{ model: at('first') }, { model: at('second') }],
      parameters: { weight: 1, density: 0.3 },
    }
    child.send({ recipe, output: at('large-merged') })
    const [{ before, peak }] = (await once(child, 'message')) as [{ before: number; peak: number }]
    const used = peak - before
    const what = `${(used / 1e6).toFixed()} MB for a model of ${(bytes / 1e6).toFixed()} MB`
    assert.ok(used <= share * bytes, what)
  })
})

/** A model whose embedding is most of it, as bf16. */
function writeLargeModel(folder: string): void {
  const config = {
    model_type: 'qwen2',
    architectures: ['Qwen2ForCausalLM'],
    vocab_size: 30_000,
    hidden_size: 512,
    intermediate_size: 2048,
    num_hidden_layers: 40,
    num_attention_heads: 8,
    num_key_value_heads: 2,
    rms_norm_eps: 1e-6,
    tie_word_embeddings: true,
    max_position_embeddings: 128,
    torch_dtype: 'bfloat16',
  }
  writeFileSync(join(folder, 'config.json'), JSON.stringify(config))
  const shapes: [string, number[]][] = [['model.embed_tokens.weight', [30_000, 512]]]
  for (let layer = 0; layer < 40; layer++) {
    const add = (name: string, ...shape: number[]) =>
      shapes.push([`model.layers.${layer}.${name}`, shape])
    add('input_layernorm.weight', 512)
    add('post_attention_layernorm.weight', 512)
    for (const [name, rows] of [
      ['q', 512],
      ['k', 128],
      ['v', 128],
    ] as const) {
      add(`self_attn.${name}_proj.weight`, rows, 512)
      add(`self_attn.${name}_proj.bias`, rows)
    }
    add('self_attn.o_proj.weight', 512, 512)
    add('mlp.gate_proj.weight', 2048, 512)
    add('mlp.up_proj.weight', 2048, 512)
    add('mlp.down_proj.weight', 512, 2048)
  }
  shapes.push(['model.norm.weight', [512]])
  let offset = 0
  const entries = shapes.map(([name, shape]) => {
    const begin = offset
    offset += 2 * shape.reduce((a, b) => a * b, 1)
    return [name, { dtype: 'BF16', shape, data_offsets: [begin, offset] }]
  })
  const header = Buffer.from(JSON.stringify(Object.fromEntries(entries)))
  const bytes = Buffer.alloc(8 + header.length + offset, 0x3c)
  bytes.writeBigUInt64LE(BigInt(header.length))
  header.copy(bytes, 8)
  writeFileSync(join(folder, 'model.safetensors'), bytes)
}
