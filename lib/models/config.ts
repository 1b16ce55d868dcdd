import { join } from 'node:path'
import { readJsonFile } from '../json-file.js'
import { ConfigFields } from './config-fields.js'
import type { FamilyConfig } from './family.js'
import { readLlamaConfig, readMistralConfig } from './llama.js'
import { readQwen2Config, readQwen3Config } from './qwen.js'
import type { RopeConfig } from './rotary.js'

/** What the shared decoder needs to know of a model, whatever its family calls it. */
export interface DecoderConfig {
  readonly modelType: string
  readonly vocabSize: number
  readonly hiddenSize: number
  readonly intermediateSize: number
  readonly numLayers: number
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  readonly rmsNormEpsilon: number
  readonly maxPositions: number
  readonly rope: RopeConfig
  readonly queryKeyValueBias: boolean
  readonly attentionOutputBias: boolean
  readonly mlpBias: boolean
  readonly queryKeyNorm: boolean
  readonly tieWordEmbeddings: boolean
  readonly initializerRange: number
  readonly eosTokenIds: readonly number[]
  /** Fields of the file that were neither used nor known to be harmless, for a warning. */
  readonly unknownFields: readonly string[]
  /** The file's own object, for writing it out again beside merged weights. */
  readonly source: Readonly<Record<string, unknown>>
}

const families: Readonly<Record<string, (fields: ConfigFields) => FamilyConfig>> = {
  llama: readLlamaConfig,
  mistral: readMistralConfig,
  qwen2: readQwen2Config,
  qwen3: readQwen3Config,
}

// Fields that say nothing about the result of a forward or backward pass.
const harmless = [
  '_name_or_path',
  '_attn_implementation_autoset',
  'architectures',
  'bos_token_id',
  'chunk_size_feed_forward',
  'dtype',
  'id2label',
  'is_encoder_decoder',
  'label2id',
  'max_window_layers',
  'output_attentions',
  'output_hidden_states',
  'pad_token_id',
  'problem_type',
  'return_dict',
  'torch_dtype',
  'transformers_version',
  'unsloth_fixed',
  'unsloth_version',
  'use_cache',
]

// Fields of relatives of these families that change the result; refused unless they are neutral.
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  attention_dropout: [0],
  attention_multiplier: [],
  attn_logit_softcapping: [],
  clip_qkv: [],
  embedding_multiplier: [1],
  final_logit_softcapping: [],
  hidden_act: ['silu'],
  hidden_activation: ['silu'],
  hidden_dropout: [0],
  is_causal: [true],
  logits_scaling: [1],
  num_experts: [],
  num_local_experts: [],
  partial_rotary_factor: [1],
  pretraining_tp: [1],
  quantization_config: [],
  query_pre_attn_scalar: [],
  residual_multiplier: [1],
  rope_interleaved: [false],
  scale_emb: [1],
  use_parallel_residual: [false],
}

/** Reads and checks the config.json of a model folder. */
export async function readConfig(folder: string): Promise<DecoderConfig> {
  const file = join(folder, 'config.json')
  return parseConfig(await readJsonFile(file, 1 << 20), file)
}

/** Checks a config object in Hugging Face's form; `file` is what errors call it. */
export function parseConfig(value: unknown, file = 'config'): DecoderConfig {
  const fields = new ConfigFields(file, value)
  const modelType = fields.string('model_type')
  const family = Object.hasOwn(families, modelType) ? families[modelType] : null
  if (!family)
    throw fields.error('model_type', modelType, `one of ${Object.keys(families).join(', ')}`)
  for (const [key, allowed] of Object.entries(neutral)) fields.only(key, allowed)
  const hiddenSize = fields.integer('hidden_size')
  const numHeads = fields.integer('num_attention_heads', undefined, { max: 4096 })
  const numKeyValueHeads = fields.integer('num_key_value_heads', numHeads, { max: 4096 })
  if (numHeads % numKeyValueHeads !== 0)
    throw fields.error('num_key_value_heads', numKeyValueHeads, `a divisor of ${numHeads}`)
  const numLayers = fields.integer('num_hidden_layers', undefined, { max: 4096 })
  refuseOtherLayerTypes(fields, numLayers)
  const specific = family(fields)
  for (const key of harmless) fields.raw(key)
  const config: DecoderConfig = {
    modelType,
    vocabSize: fields.integer('vocab_size'),
    hiddenSize,
    intermediateSize: fields.integer('intermediate_size'),
    numLayers,
    numHeads,
    numKeyValueHeads,
    maxPositions: fields.integer('max_position_embeddings', 2048, { max: 1 << 27 }),
    tieWordEmbeddings: fields.boolean('tie_word_embeddings', false),
    initializerRange: fields.number('initializer_range', 0.02),
    eosTokenIds: tokenIds(fields, 'eos_token_id'),
    ...specific,
    unknownFields: [],
    source: value as Record<string, unknown>,
  }
  return { ...config, unknownFields: fields.rest() }
}

function refuseOtherLayerTypes(fields: ConfigFields, numLayers: number): void {
  const types = fields.raw('layer_types')
  if (types === null) return
  if (
    !Array.isArray(types) ||
    types.length !== numLayers ||
    types.some((type) => type !== 'full_attention')
  )
    throw fields.error('layer_types', types, `${numLayers} times "full_attention"`)
}

function tokenIds(fields: ConfigFields, key: string): number[] {
  const value = fields.raw(key)
  const ids: unknown[] = value === null ? [] : Array.isArray(value) ? value : [value]
  for (const id of ids)
    if (typeof id !== 'number' || !Number.isInteger(id) || id < 0)
      throw fields.error(key, value, 'a token id or a list of them')
  return ids as number[]
}
