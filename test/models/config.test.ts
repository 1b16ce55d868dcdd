import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { inspect } from 'node:util'
import { describe, it } from 'mocha'
import { FormatError } from '../../lib/errors.js'
import { parseConfig, readConfig } from '../../lib/models/index.js'
import { inverseFrequencies } from '../../lib/models/rotary.js'
import { goldenJson, goldenPath } from '../golden-files.js'
import { temporaryFolder } from '../temporary-folder.js'

type Fields = Record<string, unknown>
const source = (name: string) => goldenJson<Fields>(`models/${name}/model/config.json`)

/** One wrong value after another in a config that is right, each with the field that the error must name. */
const refusals: readonly [base: string, change: Fields, key: string][] = [
  ['llama-grouped', { model_type: 'gpt2' }, 'model_type'],
  ['llama-grouped', { model_type: '__proto__' }, 'model_type'],
  ['llama-grouped', { model_type: 'constructor' }, 'model_type'],
  ['llama-grouped', { model_type: 7 }, 'model_type'],
  ['llama-grouped', { model_type: undefined }, 'model_type'],
  ...['hidden_size', 'num_attention_heads', 'num_hidden_layers', 'vocab_size', 'intermediate_size']
    .map((key) =>
      [undefined, null, 0, -8, 1.5, '48', [48], 2 ** 25, NaN, true].map(
        (value): [string, Fields, string] => ['llama-grouped', { [key]: value }, key],
      ),
    )
    .flat(),
  ['llama-grouped', { num_key_value_heads: 4 }, 'num_key_value_heads'],
  ['llama-grouped', { num_key_value_heads: 12 }, 'num_key_value_heads'],
  ['llama-grouped', { head_dim: 7 }, 'head_dim'],
  ['llama-grouped', { head_dim: 258 }, 'head_dim'],
  ['llama-grouped', { head_dim: 0 }, 'head_dim'],
  ['llama-2', { hidden_size: 50 }, 'hidden_size'],
  ['llama-grouped', { max_position_embeddings: 0 }, 'max_position_embeddings'],
  ['llama-grouped', { rms_norm_eps: 0 }, 'rms_norm_eps'],
  ['llama-grouped', { rms_norm_eps: -1e-5 }, 'rms_norm_eps'],
  ['llama-grouped', { rms_norm_eps: '1e-5' }, 'rms_norm_eps'],
  ['llama-grouped', { tie_word_embeddings: 'yes' }, 'tie_word_embeddings'],
  ['llama-grouped', { eos_token_id: [2, 'three'] }, 'eos_token_id'],
  ['llama-grouped', { eos_token_id: -1 }, 'eos_token_id'],
  ['llama-grouped', { attention_bias: 1 }, 'attention_bias'],
  ['llama-grouped', { initializer_range: -0.02 }, 'initializer_range'],
  // What would change the result, and is not there.
  ['llama-grouped', { hidden_act: 'gelu' }, 'hidden_act'],
  ['llama-grouped', { attention_dropout: 0.1 }, 'attention_dropout'],
  ['llama-grouped', { pretraining_tp: 2 }, 'pretraining_tp'],
  ['llama-grouped', { quantization_config: { bits: 4 } }, 'quantization_config'],
  ['llama-grouped', { num_local_experts: 8 }, 'num_local_experts'],
  ['llama-grouped', { num_experts: 8 }, 'num_experts'],
  ['llama-grouped', { embedding_multiplier: 12 }, 'embedding_multiplier'],
  ['llama-grouped', { residual_multiplier: 0.22 }, 'residual_multiplier'],
  ['llama-grouped', { logits_scaling: 8 }, 'logits_scaling'],
  ['llama-grouped', { attention_multiplier: 0.01 }, 'attention_multiplier'],
  ['llama-grouped', { final_logit_softcapping: 30 }, 'final_logit_softcapping'],
  ['llama-grouped', { attn_logit_softcapping: 50 }, 'attn_logit_softcapping'],
  ['llama-grouped', { query_pre_attn_scalar: 256 }, 'query_pre_attn_scalar'],
  ['llama-grouped', { partial_rotary_factor: 0.5 }, 'partial_rotary_factor'],
  ['llama-grouped', { clip_qkv: 8 }, 'clip_qkv'],
  ['llama-grouped', { sliding_window: 4096 }, 'sliding_window'],
  ['mistral', { sliding_window: 4096 }, 'sliding_window'],
  ['qwen2', { use_sliding_window: true }, 'use_sliding_window'],
  ['qwen3', { use_sliding_window: true }, 'use_sliding_window'],
  ['qwen2', { layer_types: ['full_attention', 'sliding_attention'] }, 'layer_types'],
  ['qwen2', { layer_types: ['full_attention'] }, 'layer_types'],
  ['qwen2', { layer_types: 'full_attention' }, 'layer_types'],
  // Rotation.
  ['llama-2', { rope_theta: 0 }, 'rope_theta'],
  ['llama-2', { rope_theta: '10000' }, 'rope_theta'],
  ['llama-2', { rope_scaling: 'linear' }, 'rope_scaling'],
  ['llama-2', { rope_scaling: { type: 'dynamic', factor: 2 } }, 'rope_scaling.type'],
  ['llama-2', { rope_scaling: { rope_type: 'yarn', factor: 2 } }, 'rope_scaling.rope_type'],
  ['llama-2', { rope_scaling: { type: 'linear' } }, 'rope_scaling.factor'],
  ['llama-2', { rope_scaling: { type: 'linear', factor: 0 } }, 'rope_scaling.factor'],
  ['llama-2', { rope_scaling: { type: 3, factor: 2 } }, 'rope_scaling.type'],
  ['llama-grouped', { rope_parameters: [] }, 'rope_parameters'],
  [
    'llama-grouped',
    { rope_parameters: { rope_type: 'default', partial_rotary_factor: 0.25 } },
    'rope_parameters.partial_rotary_factor',
  ],
  ['llama-grouped', { rope_parameters: { rope_type: 'longrope' } }, 'rope_parameters.rope_type'],
  [
    'llama-grouped',
    { rope_parameters: { rope_type: 'default', rope_theta: -1 } },
    'rope_parameters.rope_theta',
  ],
  ...['low_freq_factor', 'high_freq_factor', 'original_max_position_embeddings', 'factor'].map(
    (key): [string, Fields, string] => [
      'llama-3-scaling',
      {
        rope_parameters: {
          ...(source('llama-3-scaling').rope_parameters as Fields),
          [key]: undefined,
        },
      },
      `rope_parameters.${key}`,
    ],
  ),
  [
    'llama-3-scaling',
    {
      rope_parameters: {
        ...(source('llama-3-scaling').rope_parameters as Fields),
        high_freq_factor: 1,
      },
    },
    'rope_parameters.high_freq_factor',
  ],
]

describe('parseConfig', () => {
  it('reads what the families differ in', () => {
    const differences = (name: string) => {
      const { queryKeyValueBias, attentionOutputBias, mlpBias, queryKeyNorm, headDim } =
        parseConfig(source(name))
      return [queryKeyValueBias, attentionOutputBias, mlpBias, queryKeyNorm, headDim]
    }
    assert.deepEqual(differences('llama-2'), [false, false, false, false, 12])
    assert.deepEqual(differences('llama-bias'), [true, true, true, false, 18])
    assert.deepEqual(differences('mistral'), [false, false, false, false, 12])
    assert.deepEqual(differences('qwen2'), [true, false, false, false, 10])
    assert.deepEqual(differences('qwen3'), [false, false, false, true, 16])
    assert.deepEqual(differences('qwen3-sharded'), [true, true, false, true, 6])
    assert.equal(parseConfig(source('llama-3-scaling')).tieWordEmbeddings, true)
    assert.deepEqual(parseConfig(source('llama-3-scaling')).eosTokenIds, [0, 2])
    assert.deepEqual(parseConfig(source('llama-2')).eosTokenIds, [2])
    assert.deepEqual(parseConfig(source('qwen2')).eosTokenIds, [])
    assert.equal(parseConfig(source('qwen3')).rope.theta, 1e6)
  })

  it('knows every field of the golden configs', () => {
    for (const name of ['llama-2', 'llama-3-scaling', 'llama-bias', 'mistral', 'qwen2', 'qwen3'])
      assert.deepEqual(parseConfig(source(name)).unknownFields, [], name)
  })

  it('reports fields that it does not know, and keeps the file for merged models', () => {
    const value = { ...source('qwen2'), novelty: { depth: 3 }, nothing: null }
    const config = parseConfig(value)
    assert.deepEqual(config.unknownFields, ['novelty', 'nothing'])
    assert.deepEqual(config.source, value)
  })

  it('takes the old and the new spelling of a rotation for the same', () => {
    const { rope } = parseConfig(source('llama-3-scaling'))
    for (const file of ['rope-parameters', 'rope-scaling', 'rope-scaling-type']) {
      const other = goldenJson<Fields>(`models/llama-3-scaling/configs/${file}.json`)
      assert.deepEqual(parseConfig(other).rope, rope, file)
    }
  })

  it('fills in what older files leave out', () => {
    const old = source('llama-2')
    for (const key of ['num_key_value_heads', 'tie_word_embeddings', 'rope_theta', 'rope_scaling'])
      delete old[key] // eslint-disable-line @typescript-eslint/no-dynamic-delete
    const config = parseConfig(old)
    assert.equal(config.numKeyValueHeads, config.numHeads)
    assert.equal(config.tieWordEmbeddings, false)
    assert.deepEqual(config.rope, { theta: 10_000, scaling: null })
  })

  for (const [base, change, key] of refusals)
    it(`refuses ${inspect(change, { breakLength: Infinity, depth: 3 })} of ${base} by name`, () => {
      assert.throws(
        () => parseConfig({ ...source(base), ...change }, 'some/config.json'),
        (error: Error) => {
          assert.ok(error instanceof FormatError, String(error))
          assert.ok(error.message.startsWith('some/config.json: '), error.message)
          assert.ok(error.message.includes(key), error.message)
          return true
        },
      )
    })

  it('refuses what is no object', () => {
    for (const value of [null, [], 'llama', 7, undefined])
      assert.throws(() => parseConfig(value), FormatError)
  })

  it('gives fields that are null their default, and lets neutral values pass', () => {
    const neutral = {
      attention_multiplier: null,
      embedding_multiplier: 1,
      quantization_config: null,
      sliding_window: null,
      layer_types: null,
      head_dim: null,
    }
    const config = parseConfig({ ...source('llama-grouped'), ...neutral })
    assert.equal(config.headDim, 8)
    assert.deepEqual(config.unknownFields, [])
  })
})

describe('readConfig', () => {
  const temporary = temporaryFolder()

  it('reads the file of a folder', async () => {
    assert.equal((await readConfig(goldenPath('models/mistral/model'))).numKeyValueHeads, 3)
  })

  it('refuses a folder without one, what is no JSON, and a file too large for one', async () => {
    const file = temporary('config.json')
    const folder = dirname(file)
    const refused = (pattern: RegExp) =>
      assert.rejects(readConfig(folder), (error: Error) => {
        assert.ok(error instanceof FormatError)
        assert.ok(error.message.includes(file), error.message)
        assert.match(error.message, pattern)
        return true
      })
    await refused(/cannot be read/)
    writeFileSync(file, '{"model_type": "llama"')
    await refused(/is not JSON/)
    writeFileSync(file, JSON.stringify({ ...source('qwen2'), padding: 'x'.repeat(1 << 20) }))
    await refused(/at most 1048576 are allowed/)
  })
})

describe('inverseFrequencies', () => {
  it('are powers of theta', () => {
    const frequencies = inverseFrequencies(6, { theta: 1000, scaling: null })
    assert.deepEqual(Array.from(frequencies), [1, Math.fround(0.1), Math.fround(0.01)])
  })

  it('are divided by a linear factor', () => {
    const plain = inverseFrequencies(10, { theta: 500, scaling: null })
    const scaled = inverseFrequencies(10, { theta: 500, scaling: { kind: 'linear', factor: 4 } })
    assert.deepEqual(
      scaled,
      plain.map((frequency) => frequency / 4),
    )
  })
})
