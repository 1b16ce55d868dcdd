import type { ConfigFields } from './config-fields.js'
import { type FamilyConfig, readHeadDim } from './family.js'
import { readRopeConfig } from './rotary.js'

/** Qwen2 and Qwen2.5: biases on queries, keys and values, whatever the file says. */
export function readQwen2Config(fields: ConfigFields): FamilyConfig {
  refuseSlidingWindow(fields)
  return {
    headDim: readHeadDim(fields),
    queryKeyValueBias: true,
    attentionOutputBias: false,
    mlpBias: false,
    queryKeyNorm: false,
    rmsNormEpsilon: fields.number('rms_norm_eps', 1e-6, { max: 1 }),
    rope: readRopeConfig(fields, 10_000),
  }
}

/** Qwen3: an explicit head_dim, and RMSNorm on each head of queries and keys before the rotation. */
export function readQwen3Config(fields: ConfigFields): FamilyConfig {
  refuseSlidingWindow(fields)
  const attentionBias = fields.boolean('attention_bias', false)
  return {
    headDim: fields.has('head_dim') ? readHeadDim(fields) : 128,
    queryKeyValueBias: attentionBias,
    attentionOutputBias: attentionBias,
    mlpBias: false,
    queryKeyNorm: true,
    rmsNormEpsilon: fields.number('rms_norm_eps', 1e-6, { max: 1 }),
    rope: readRopeConfig(fields, 10_000),
  }
}

// `sliding_window` is a size that means nothing unless use_sliding_window is set.
function refuseSlidingWindow(fields: ConfigFields): void {
  fields.only('use_sliding_window', [false])
  fields.raw('sliding_window')
}
