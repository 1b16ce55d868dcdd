import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { loraScale, patternValue, targetMatcher } from '../../lib/adapters/declaration.js'
import { parsePeftConfig } from '../../lib/adapters/peft-config.js'
import { FormatError, type PolyloraError } from '../../lib/errors.js'
import { layerName, linearNames, readConfig } from '../../lib/models/index.js'

const golden = new URL('../golden/', import.meta.url).pathname
const read = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>

const paths = [0, 1, 2].flatMap((layer) =>
  Object.values(linearNames).map((name) => `${layerName(layer)}.${name}`),
)
const plain = { peft_type: 'LORA', r: 4, lora_alpha: 6, target_modules: ['q_proj'] }
const parse = (value: object) => parsePeftConfig(value, 'a.json', paths)
const targetsOf = (value: object) => paths.filter(targetMatcher(parse({ ...plain, ...value })))

describe('adapter_config.json', () => {
  for (const name of readdirSync(join(golden, 'adapters')))
    it(`of PEFT, ${name}: names the modules that PEFT updated`, async () => {
      const folder = join(golden, 'adapters', name)
      const { base, targets } = read(join(folder, 'expected.json')) as {
        base: string
        targets: string[]
      }
      const config = read(join(folder, 'adapter/adapter_config.json'))
      if (name === 'modules-to-save') {
        assert.throws(() => parse(config), /modules_to_save is not supported/)
        config.modules_to_save = null
      }
      const { numLayers } = await readConfig(join(golden, 'models', base, 'model'))
      const all = Array.from({ length: numLayers }, (_, layer) =>
        Object.values(linearNames).map((linear) => `${layerName(layer)}.${linear}`),
      ).flat()
      const declaration = parsePeftConfig(config, 'a.json', all)
      assert.deepEqual(all.filter(targetMatcher(declaration)).sort(), targets)
    })

  it('gives ranks and scales by the first pattern that matches', () => {
    const declaration = parse({
      ...plain,
      target_modules: 'all-linear',
      rank_pattern: {
        'layers.1.self_attn.q_proj': 2,
        q_proj: 3,
        '.*\\.2\\.mlp\\.(gate|up)_proj': 9,
      },
      alpha_pattern: { 'model.layers.0.mlp.down_proj': 25, down_proj: 1.5 },
      use_rslora: true,
    })
    const rank = (path: string) => patternValue(declaration.rankPattern, path, declaration.rank)
    const alpha = (path: string) => patternValue(declaration.alphaPattern, path, declaration.alpha)
    assert.equal(rank('model.layers.1.self_attn.q_proj'), 2)
    assert.equal(rank('model.layers.0.self_attn.q_proj'), 3)
    assert.equal(rank('model.layers.2.mlp.up_proj'), 9)
    assert.equal(rank('model.layers.1.mlp.up_proj'), 4)
    assert.equal(alpha('model.layers.0.mlp.down_proj'), 25)
    assert.equal(alpha('model.layers.1.mlp.down_proj'), 1.5)
    assert.equal(alpha('model.layers.1.mlp.up_proj'), 6)
    assert.equal(loraScale(6, 4, declaration.rsLora), 3)
  })

  it('has the defaults of PEFT, and takes how it is trained further', () => {
    const declaration = parsePeftConfig(
      { peft_type: 'LORA', target_modules: ['q_proj'], lora_dropout: 0.25 },
      'a.json',
      paths,
    )
    assert.deepEqual([declaration.rank, declaration.alpha, declaration.dropout], [8, 8, 0.25])
    const further = parsePeftConfig(plain, 'a.json', paths, {
      dropout: 0.5,
      seed: 9,
      loraPlusRatio: 4,
    })
    assert.deepEqual([further.dropout, further.seed, further.loraPlusRatio], [0.5, 9, 4])
  })

  it('leaves layers and names out as PEFT does', () => {
    assert.deepEqual(targetsOf({ layers_to_transform: [0, 2] }), [
      'model.layers.0.self_attn.q_proj',
      'model.layers.2.self_attn.q_proj',
    ])
    assert.deepEqual(targetsOf({ layers_to_transform: 1, layers_pattern: 'layers' }), [
      'model.layers.1.self_attn.q_proj',
    ])
    // A full name is a target whatever its layer.
    assert.deepEqual(
      targetsOf({
        target_modules: ['model.layers.0.mlp.up_proj', 'k_proj'],
        layers_to_transform: [1],
        layers_pattern: ['h', 'layers'],
      }),
      ['model.layers.0.mlp.up_proj', 'model.layers.1.self_attn.k_proj'],
    )
    assert.deepEqual(targetsOf({ exclude_modules: ['layers.1.self_attn.q_proj'] }), [
      'model.layers.0.self_attn.q_proj',
      'model.layers.2.self_attn.q_proj',
    ])
    assert.deepEqual(
      targetsOf({ target_modules: '.*\\.[qv]_proj', exclude_modules: '.*\\.[01]\\..*' }),
      ['model.layers.2.self_attn.q_proj', 'model.layers.2.self_attn.v_proj'],
    )
  })

  it('may have fields that say nothing here', () => {
    parse({
      ...plain,
      megatron_core: 'megatron.core',
      qalora_group_size: 16,
      loftq_config: {},
      eva_config: { rho: 2 },
      auto_mapping: { base_model_class: 'x' },
      some_future_size: 3,
      use_something_new: false,
      other_config: null,
      inference_mode: false,
    })
  })

  it('is refused by name and file where it would change the result', () => {
    const bad: [object, string][] = [
      [{ peft_type: 'IA3' }, 'peft_type'],
      [{ peft_type: undefined }, 'peft_type'],
      [{ task_type: 'SEQ_CLS' }, 'task_type'],
      [{ use_qalora: true }, 'use_qalora'],
      [{ use_something_new: true }, 'use_something_new'],
      [{ brand_new_config: { a: 1 } }, 'brand_new_config'],
      [{ fan_in_fan_out: true }, 'fan_in_fan_out'],
      [{ lora_bias: true }, 'lora_bias'],
      [{ bias: 'all' }, 'bias'],
      [{ modules_to_save: ['lm_head'] }, 'modules_to_save'],
      [{ trainable_token_indices: [1] }, 'trainable_token_indices'],
      [{ target_parameters: ['a'] }, 'target_parameters'],
      [{ layer_replication: [[0, 1]] }, 'layer_replication'],
      [{ init_lora_weights: 'pissa_niter_4' }, 'init_lora_weights'],
      [{ init_lora_weights: 'olora' }, 'init_lora_weights'],
      [{ r: 0 }, 'r'],
      [{ r: 2.5 }, 'r'],
      [{ r: 1e9 }, 'r'],
      [{ r: '8' }, 'r'],
      [{ lora_alpha: 0 }, 'lora_alpha'],
      [{ lora_alpha: '16' }, 'lora_alpha'],
      [{ lora_dropout: 1 }, 'dropout'],
      [{ lora_dropout: -0.1 }, 'lora_dropout'],
      [{ use_rslora: 'yes' }, 'use_rslora'],
      [{ target_modules: null }, 'target_modules'],
      [{ target_modules: [] }, 'target_modules'],
      [{ target_modules: [1] }, 'target_modules'],
      [{ target_modules: '(' }, 'targets'],
      [{ target_modules: '(?=q)' }, 'targets'],
      [{ target_modules: 'q'.repeat(5000) }, 'target_modules'],
      [{ rank_pattern: { q_proj: 0 } }, 'rank_pattern.q_proj'],
      [{ rank_pattern: { q_proj: [4] } }, 'rank_pattern.q_proj'],
      [{ rank_pattern: [4] }, 'rank_pattern'],
      [{ alpha_pattern: { '(': 2 } }, '('],
      [
        { alpha_pattern: Object.fromEntries(Array.from({ length: 2000 }, (_, i) => [`a${i}`, 1])) },
        'alpha_pattern',
      ],
      [{ layers_to_transform: ['1'] }, 'layers_to_transform'],
      [{ layers_to_transform: [9] }, 'target_modules'],
      [{ layers_to_transform: [0], layers_pattern: '(' }, 'layers_pattern'],
      [{ target_modules: '.*q_proj', layers_to_transform: [0] }, 'layers_to_transform'],
      [{ exclude_modules: 3 }, 'exclude_modules'],
      [{ exclude_modules: '[' }, 'exclude_modules'],
    ]
    for (const [change, key] of bad)
      assert.throws(
        () => parse({ ...plain, ...change }),
        (error: PolyloraError) => {
          assert.ok(error instanceof FormatError, `${JSON.stringify(change)}: ${String(error)}`)
          assert.equal(error.details.key, key)
          assert.equal(error.details.file, 'a.json')
          assert.ok(error.message.startsWith('a.json: '), error.message)
          assert.ok(error.message.length < 400, error.message)
          return true
        },
        JSON.stringify(change),
      )
    for (const value of [null, [], 'LORA', 3])
      assert.throws(() => parsePeftConfig(value, 'a.json', paths), FormatError)
  })
})
