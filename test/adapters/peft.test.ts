import assert from 'node:assert/strict'
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraOptions } from '../../lib/adapters/declaration.js'
import { loadAdapter, saveAdapter } from '../../lib/adapters/peft.js'
import { CheckpointError, ConfigError, FormatError, type PolyloraError } from '../../lib/errors.js'
import { linearNames, readConfig } from '../../lib/models/index.js'
import { loadNative } from '../../lib/native.js'
import { writeSafetensors } from '../../lib/safetensors.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose } from '../compare.js'
import {
  goldenFolder,
  goldenModel,
  logitsOf,
  openDecoder,
  readExpected,
  readTensors,
} from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { temporaryFolder } from '../temporary-folder.js'

const goldenAdapter = (name: string) => join(goldenFolder, 'adapters', name)
const baseOf = (name: string) =>
  (JSON.parse(readFileSync(join(goldenAdapter(name), 'expected.json'), 'utf8')) as { base: string })
    .base
const supported = readdirSync(join(goldenFolder, 'adapters')).filter(
  (name) => name !== 'modules-to-save',
)
const names = (path: string) => readdirSync(path).sort()
const configOf = (path: string) =>
  JSON.parse(readFileSync(join(path, 'adapter_config.json'), 'utf8')) as Record<string, unknown>

/** Gives every value of an adapter something of its own: B is zero at the start. */
function fill(adapter: Adapter): void {
  let seed = 1
  for (const { parameter } of adapter.parameters()) {
    const { value } = parameter
    value.write(Float32Array.from({ length: value.size }, (_, i) => Math.sin(i * 0.37 + seed) / 8))
    seed++
  }
}

forEachDevice('PEFT adapter folder', (context) => {
  const at = temporaryFolder()

  for (const name of supported)
    it(`of PEFT, ${name}: gives PEFT's logits, before and after a round trip`, async () => {
      const { device } = context
      using model = await openDecoder(device, goldenModel(baseOf(name)))
      const expected = await readExpected(device, goldenAdapter(name))
      const adapter = await loadAdapter(device, model.config, join(goldenAdapter(name), 'adapter'))
      try {
        const logits = await logitsOf(model.decoder, adapter, expected.sequences)
        assertClose(logits, expected.logits, 1e-4, 'logits')
        await saveAdapter(adapter, at(name), { baseModel: baseOf(name) })
      } finally {
        adapter.dispose()
      }
      const [ours, theirs] = [at(name), join(goldenAdapter(name), 'adapter')]
      const tensors = await readTensors(device, join(ours, 'adapter_model.safetensors'))
      const original = await readTensors(device, join(theirs, 'adapter_model.safetensors'))
      assert.deepEqual([...tensors.keys()].sort(), [...original.keys()].sort())
      for (const [key, { shape, values, dtype }] of tensors) {
        assert.deepEqual(shape, original.get(key)!.shape)
        assert.deepEqual(values, original.get(key)!.values)
        assert.equal(dtype, 'F32')
      }
      const again = await loadAdapter(device, model.config, ours)
      try {
        const logits = await logitsOf(model.decoder, again, expected.sequences)
        assertClose(logits, expected.logits, 1e-4, 'logits after a round trip')
      } finally {
        again.dispose()
      }
    })
})

forEachDevice('PEFT adapter folder, written', (context) => {
  const at = temporaryFolder()
  const model = goldenModel('qwen3-sharded')

  async function withAdapter(
    options: LoraOptions,
    body: (adapter: Adapter) => Promise<void>,
  ): Promise<void> {
    const adapter = Adapter.create(context.device, await readConfig(model), lora(options))
    try {
      fill(adapter)
      await body(adapter)
    } finally {
      adapter.dispose()
    }
  }

  it('has the fields that loaders ask for, and nothing of the group that shares A', async () => {
    await withAdapter({ rank: 3, alpha: 5, dropout: 0.1 }, async (adapter) => {
      await saveAdapter(adapter, at('fields'), { baseModel: 'base/model' })
    })
    assert.deepEqual(configOf(at('fields')), {
      alpha_pattern: {},
      base_model_name_or_path: 'base/model',
      bias: 'none',
      fan_in_fan_out: false,
      inference_mode: true,
      init_lora_weights: true,
      lora_alpha: 5,
      lora_bias: false,
      lora_dropout: 0.1,
      modules_to_save: null,
      peft_type: 'LORA',
      peft_version: '0.21.2',
      r: 3,
      rank_pattern: {},
      revision: null,
      target_modules: ['q_proj', 'k_proj', 'v_proj', 'o_proj', 'gate_proj', 'up_proj', 'down_proj'],
      task_type: 'CAUSAL_LM',
      use_dora: false,
      use_rslora: false,
    })
    const bytes = readFileSync(join(at('fields'), 'adapter_model.safetensors'))
    const header = JSON.parse(
      bytes.toString('utf8', 8, 8 + Number(bytes.readBigUInt64LE())),
    ) as Record<string, { shape: number[] }>
    assert.deepEqual(header.__metadata__, { format: 'pt' })
    const { hiddenSize, intermediateSize } = await readConfig(model)
    const key = (name: string) => `base_model.model.model.layers.2.${name}.weight`
    assert.deepEqual(header[key('mlp.down_proj.lora_A')].shape, [3, intermediateSize])
    assert.deepEqual(header[key('mlp.down_proj.lora_B')].shape, [hiddenSize, 3])
    assert.equal(Object.keys(header).length, 1 + 3 * 7 * 2)
  })

  it('says targets, ranks and alphas in a way that leads back to the same modules', async () => {
    const declarations: LoraOptions[] = [
      { targets: { pattern: '.*\\.(0|2)\\.self_attn\\.[qk]_proj' } },
      { targets: ['self_attn.q_proj', 'layers.1.mlp.up_proj'] },
      {
        rankPattern: { 'layers\\.1\\..*': 2, q_proj: 7 },
        alphaPattern: { up_proj: 3.5, 'layers.0.mlp.gate_proj': 1 },
        rsLora: true,
      },
    ]
    for (const [index, options] of declarations.entries()) {
      const folder = at(`again-${index}`)
      await withAdapter({ rank: 4, alpha: 6, ...options }, async (adapter) => {
        await saveAdapter(adapter, folder, { baseModel: 'b' })
        const again = await loadAdapter(context.device, await readConfig(model), folder)
        try {
          const shown = ({ modules }: Adapter) =>
            modules.map(({ path, rank, alpha, scale }) => ({ path, rank, alpha, scale }))
          assert.deepEqual(shown(again), shown(adapter))
          for (const [i, { part, group }] of adapter.modules.entries()) {
            const other = again.modules[i]
            assert.deepEqual(await other.part.b.value.read(), await part.b.value.read())
            assert.deepEqual(await other.group.a.value.read(), await group.a.value.read())
          }
        } finally {
          again.dispose()
        }
      })
    }
    // The first pattern wins, so the queries of layer 1 have rank 2.
    assert.deepEqual(configOf(at('again-2')).rank_pattern, {
      'model.layers.0.self_attn.q_proj': 7,
      'model.layers.2.self_attn.q_proj': 7,
      ...Object.fromEntries(
        Object.values(linearNames).map((name) => [`model.layers.1.${name}`, 2]),
      ),
    })
  })

  it('refuses a target or a pattern that matches no layer, beside others that do', async () => {
    const wrong: [LoraOptions, RegExp][] = [
      [{ targets: ['q_proj', 'nothing'] }, /targets "nothing" matches no/],
      [{ rankPattern: { q_proj: 7, nothing: 2 } }, /rankPattern "nothing" matches no/],
      [{ targets: ['q_proj'], alphaPattern: { up_proj: 2 } }, /alphaPattern "up_proj" matches no/],
    ]
    for (const [options, message] of wrong)
      await assert.rejects(
        withAdapter({ rank: 2, ...options }, () => Promise.resolve()),
        (error: Error) => error instanceof ConfigError && message.test(error.message),
      )
  })

  it('leaves the older adapter whole when a file cannot be written', async () => {
    await withAdapter({ rank: 2, targets: ['q_proj'] }, async (adapter) => {
      const folder = at('faults')
      await saveAdapter(adapter, folder, { baseModel: 'older' })
      const native = loadNative()
      for (const call of ['open', 'write', 'sync', 'rename', 'syncFolder']) {
        native.injectFileFault({ call, nth: 1, error: 'ENOSPC' })
        try {
          await assert.rejects(
            saveAdapter(adapter, folder, { baseModel: 'newer' }),
            (error: PolyloraError) => {
              assert.ok(error instanceof CheckpointError, `${call}: ${String(error)}`)
              assert.equal(error.details.error, 'ENOSPC', call)
              assert.ok((error.details.bytesNeeded as number) >= 4 * adapter.numParameters)
              assert.ok(error.message.includes(`${folder}: the adapter could not be written`))
              return true
            },
          )
        } finally {
          native.injectFileFault(null)
        }
        assert.equal(configOf(folder).base_model_name_or_path, 'older')
        assert.ok(!names(at('.')).some((name) => name.endsWith('.partial')))
      }
      for (const error of ['short', 'EINTR']) {
        native.injectFileFault({ call: 'write', nth: 1, error })
        try {
          await saveAdapter(adapter, folder, { baseModel: error })
        } finally {
          native.injectFileFault(null)
        }
        const again = await loadAdapter(context.device, await readConfig(model), folder)
        try {
          const { part } = again.modules[0]
          assert.deepEqual(await part.b.value.read(), await adapter.modules[0].part.b.value.read())
        } finally {
          again.dispose()
        }
      }
    })
  })

  it('replaces an adapter, keeps what else lies there, and refuses anything else', async () => {
    await withAdapter({ rank: 2, targets: ['q_proj'] }, async (adapter) => {
      await saveAdapter(adapter, at('twice'), { baseModel: 'first' })
      await saveAdapter(adapter, at('twice'), { baseModel: 'second' })
      assert.deepEqual(names(at('twice')), ['adapter_config.json', 'adapter_model.safetensors'])
      assert.equal(configOf(at('twice')).base_model_name_or_path, 'second')
      writeFileSync(join(at('twice'), 'README.md'), 'mine')
      symlinkSync(at('twice'), at('link'))
      await saveAdapter(adapter, at('link'), { baseModel: 'third' })
      assert.equal(configOf(at('twice')).base_model_name_or_path, 'third')
      assert.equal(readFileSync(join(at('twice'), 'README.md'), 'utf8'), 'mine')

      mkdirSync(at('empty'))
      await saveAdapter(adapter, at('empty'), { baseModel: 'b' })
      mkdirSync(at('other'))
      writeFileSync(join(at('other'), 'model.safetensors'), 'precious')
      writeFileSync(at('file'), 'precious')
      for (const name of ['other', 'file'])
        await assert.rejects(
          saveAdapter(adapter, at(name), { baseModel: 'b' }),
          (error: PolyloraError) => {
            assert.ok(error instanceof ConfigError, String(error))
            assert.ok(error.message.includes(at(name)), error.message)
            return true
          },
        )
      assert.deepEqual(names(at('other')), ['model.safetensors'])
      for (const name of names(at('.'))) assert.doesNotMatch(name, /partial|replaced/)
    })
  })
})

forEachDevice('PEFT adapter folder, damaged', (context) => {
  const at = temporaryFolder()
  const source = join(goldenAdapter('rslora'), 'adapter')
  const model = goldenModel(baseOf('rslora'))
  const prefix = 'base_model.model.model.layers.'

  async function refused(folder: string, expected: RegExp): Promise<void> {
    const config = await readConfig(model)
    await assert.rejects(
      async () => {
        const adapter = await loadAdapter(context.device, config, folder)
        adapter.dispose()
      },
      (error: PolyloraError) => {
        assert.ok(error instanceof FormatError, String(error))
        assert.match(error.message, expected)
        assert.ok(error.message.includes(folder), error.message)
        return true
      },
    )
  }

  /** A copy of a good adapter with other tensors; null takes one away. */
  async function change(
    name: string,
    changes: Record<string, { shape: number[]; value?: number } | null>,
  ): Promise<string> {
    const { device } = context
    const folder = at(name)
    cpSync(source, folder, { recursive: true })
    const file = join(folder, 'adapter_model.safetensors')
    const made: [string, Tensor][] = []
    for (const [key, { shape, values }] of await readTensors(device, file))
      if (!(key in changes)) made.push([key, Tensor.from(device, values, shape)])
    for (const [key, value] of Object.entries(changes))
      if (value) made.push([key, Tensor.full(device, value.shape, value.value ?? 1)])
    try {
      await writeSafetensors(
        file,
        [['format', 'pt']],
        made.map(([key, tensor]) => ({ name: key, source: tensor })),
      )
    } finally {
      for (const [, tensor] of made) tensor.release()
    }
    return folder
  }

  it('is refused by the name of what is wrong', async () => {
    const a = `${prefix}0.self_attn.q_proj.lora_A.weight`
    const b = `${prefix}1.self_attn.v_proj.lora_B.weight`
    const { hiddenSize, numHeads, headDim } = await readConfig(model)
    const cases: [string, Record<string, { shape: number[]; value?: number } | null>, RegExp][] = [
      ['missing', { [b]: null }, /has no tensor .*layers\.1\.self_attn\.v_proj\.lora_B\.weight/],
      ['shape', { [a]: { shape: [5, hiddenSize] } }, /lora_A\.weight has shape \[5, /],
      ['transposed', { [a]: { shape: [hiddenSize, 6] } }, /has shape .* ask for \[6, /],
      ['nan', { [a]: { shape: [6, hiddenSize], value: NaN } }, /element 0 of tensor .* is NaN/],
      ['infinite', { [a]: { shape: [6, hiddenSize], value: -Infinity } }, /is -Infinity/],
      [
        'dora',
        { [`${prefix}0.self_attn.q_proj.lora_magnitude_vector`]: { shape: [numHeads * headDim] } },
        /DoRA/,
      ],
      [
        'embedding',
        { 'base_model.model.model.embed_tokens.lora_embedding_A': { shape: [6, 8] } },
        /embeddings/,
      ],
      ['bias', { [`${prefix}0.self_attn.q_proj.lora_B.bias`]: { shape: [3] } }, /lora_bias/],
      [
        'default',
        { [`${prefix}0.self_attn.q_proj.lora_A.default.weight`]: { shape: [3] } },
        /name of an adapter/,
      ],
      [
        'module',
        { [`${prefix}0.self_attn.k_proj.lora_A.weight`]: { shape: [6, hiddenSize] } },
        /no such target module/,
      ],
      [
        'layer',
        { [`${prefix}9.self_attn.q_proj.lora_A.weight`]: { shape: [6, hiddenSize] } },
        /no such target module/,
      ],
      ['head', { 'base_model.model.lm_head.weight': { shape: [2, 2] } }, /only low-rank updates/],
    ]
    for (const [name, changes, expected] of cases)
      await refused(await change(name, changes), expected)
    const good = await loadAdapter(
      context.device,
      await readConfig(model),
      await change('good', {}),
    )
    good.dispose()
  })

  it('is refused when files are missing, torn or of another kind', async () => {
    const copy = (name: string) => {
      cpSync(source, at(name), { recursive: true })
      return at(name)
    }
    await refused(at('nowhere'), /adapter_config\.json cannot be read/)
    rmSync(join(copy('no-tensors'), 'adapter_model.safetensors'))
    await refused(at('no-tensors'), /adapter_model\.safetensors/)
    writeFileSync(join(at('no-tensors'), 'adapter_model.bin'), 'pickle')
    await refused(at('no-tensors'), /pickle/)
    truncateSync(join(copy('torn'), 'adapter_model.safetensors'), 1000)
    await refused(at('torn'), /adapter_model\.safetensors/)
    writeFileSync(join(copy('not-json'), 'adapter_config.json'), '{"peft_type": "LORA"')
    await refused(at('not-json'), /is not JSON/)
    writeFileSync(join(copy('not-text'), 'adapter_config.json'), Buffer.from([0x22, 0xff, 0x22]))
    await refused(at('not-text'), /UTF-8/)
    writeFileSync(join(copy('large'), 'adapter_config.json'), ' '.repeat((1 << 20) + 1))
    await refused(at('large'), /at most 1048576/)
    rmSync(join(copy('folder'), 'adapter_config.json'))
    mkdirSync(join(at('folder'), 'adapter_config.json'))
    await refused(at('folder'), /is not a file/)
    await refused(
      join(goldenAdapter('modules-to-save'), 'adapter'),
      /modules_to_save is not supported/,
    )
    // Of another model: the shapes say so.
    await refused(join(goldenAdapter('bfloat16'), 'adapter'), /shape|no such target module/)
  })
})
