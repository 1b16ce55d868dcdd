import type { ConfigFields } from './config-fields.js'
import { type FamilyConfig, readHeadDim } from './family.js'
import { readRopeConfig } from './rotary.js'

/** Llama 2, 3 and 3.x, and its kin with the same layout. */
export function readLlamaConfig(fields: ConfigFields): FamilyConfig {
  const attentionBias = fields.boolean('attention_bias', false)
  fields.only('sliding_window', [])
  return {
    headDim: readHeadDim(fields),
    queryKeyValueBias: attentionBias,
    attentionOutputBias: attentionBias,
    mlpBias: fields.boolean('mlp_bias', false),
    queryKeyNorm: false,
    rmsNormEpsilon: fields.number('rms_norm_eps', 1e-6, { max: 1 }),
    rope: readRopeConfig(fields, 10_000),
  }
}

/** Mistral without its sliding window: the window would change results beyond its length. */
export function readMistralConfig(fields: ConfigFields): FamilyConfig {
  fields.only('sliding_window', [])
  return {
    headDim: readHeadDim(fields),
    queryKeyValueBias: false,
    attentionOutputBias: false,
    mlpBias: false,
    queryKeyNorm: false,
    rmsNormEpsilon: fields.number('rms_norm_eps', 1e-6, { max: 1 }),
    rope: readRopeConfig(fields, 10_000),
  }
}
