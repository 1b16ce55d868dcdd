/** The models and batches of the benchmark: two shapes, made from a configuration and a seed alone. */
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { lora } from '../lib/adapters/declaration.js'
import { saveModel } from '../lib/models/save.js'
import { Model } from '../lib/model.js'

export type DType = 'f32' | 'bf16'
export const dtypes: readonly DType[] = ['f32', 'bf16']

/** A model and the batch that one step trains it on. */
export interface Case {
  readonly name: string
  readonly config: Readonly<Record<string, unknown>> & {
    readonly vocab_size: number
    readonly hidden_size: number
    readonly intermediate_size: number
    readonly num_hidden_layers: number
    readonly num_attention_heads: number
    readonly num_key_value_heads: number
  }
  readonly sequences: number
  /** Tokens of each sequence; the second half is labelled. */
  readonly length: number
}

const shared = {
  architectures: ['Qwen2ForCausalLM'],
  model_type: 'qwen2',
  hidden_act: 'silu',
  rms_norm_eps: 1e-6,
  tie_word_embeddings: true,
  initializer_range: 0.02,
  attention_dropout: 0,
  use_sliding_window: false,
}

/** Qwen2.5-0.5B's shape, and that of the built-in model. */
export const cases: readonly Case[] = [
  {
    name: '24x896',
    config: {
      ...shared,
      vocab_size: 151936,
      hidden_size: 896,
      intermediate_size: 4864,
      num_hidden_layers: 24,
      num_attention_heads: 14,
      num_key_value_heads: 2,
      max_position_embeddings: 32768,
      rope_theta: 1e6,
    },
    sequences: 1,
    length: 512,
  },
  {
    name: '6x192',
    config: {
      ...shared,
      vocab_size: 4096,
      hidden_size: 192,
      intermediate_size: 512,
      num_hidden_layers: 6,
      num_attention_heads: 6,
      num_key_value_heads: 2,
      max_position_embeddings: 512,
      rope_theta: 1e4,
    },
    sequences: 8,
    length: 256,
  },
]

/** For `--quick`: the same code in seconds. */
export const quickCases: readonly Case[] = [
  {
    name: '2x64',
    config: {
      ...cases[1].config,
      vocab_size: 500,
      hidden_size: 64,
      intermediate_size: 160,
      num_hidden_layers: 2,
      num_attention_heads: 4,
    },
    sequences: 3,
    length: 40,
  },
]

export const rank = 16
const seed = 7
export const optimizer = {
  learningRate: 1e-3,
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0.01,
  gradientClipping: 1,
}
/** Different batches; steps take them in turn. */
const numBatches = 4

/** Where both sides find a case. */
export interface CaseFiles {
  readonly model: string
  readonly adapter: string
  readonly data: string
}

/** Writes the model, an adapter of rank 16 on all linear layers, and the batches. */
export async function writeCase(one: Case, dtype: DType, folder: string): Promise<CaseFiles> {
  mkdirSync(folder, { recursive: true })
  const files = {
    model: join(folder, 'model'),
    adapter: join(folder, 'adapter'),
    data: join(folder, 'data.json'),
  }
  const model = await Model.initialize(one.config, null, { device: 'cpu', dtype, seed })
  try {
    const { config, weights } = model.decoder
    await saveModel(files.model, { config, weights, tokenizerFrom: null, dtype })
    model.attach(lora({ rank, alpha: 2 * rank, seed }))
    await model.saveAdapter(files.adapter)
  } finally {
    await model.dispose()
  }
  writeFileSync(files.data, JSON.stringify({ optimizer, batches: makeBatches(one) }))
  return files
}

/** About as many tokens as a case has, in sequences of one length, a whole number of them for every adapter. */
export function kindsBatches({ sequences, length }: Case, adapters: number): number[][][] {
  const count = adapters * Math.max(1, Math.round(sequences / adapters))
  return makeBatches({ sequences: count, length: 2 * Math.floor((sequences * length) / count / 2) })
}

/** [batch][sequence][token]: t' = (5 t + 11) mod 499 from random beginnings, which can be learnt. */
function makeBatches({ sequences, length }: Pick<Case, 'sequences' | 'length'>): number[][][] {
  let state = 12345
  const random = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 32
  return Array.from({ length: numBatches }, () =>
    Array.from({ length: sequences }, () => {
      let token = Math.floor(random() * 499)
      return Array.from({ length }, () => (token = (5 * token + 11) % 499))
    }),
  )
}
