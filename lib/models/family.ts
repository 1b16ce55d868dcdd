import type { DecoderConfig } from './config.js'
import type { ConfigFields } from './config-fields.js'

/** What differs between the families. */
export type FamilyConfig = Pick<
  DecoderConfig,
  | 'headDim'
  | 'queryKeyValueBias'
  | 'attentionOutputBias'
  | 'mlpBias'
  | 'queryKeyNorm'
  | 'rmsNormEpsilon'
  | 'rope'
>

/** head_dim where the file gives one, else hidden / heads. */
export function readHeadDim(fields: ConfigFields): number {
  const hidden = fields.integer('hidden_size')
  const heads = fields.integer('num_attention_heads')
  const headDim = fields.integer('head_dim', Math.floor(hidden / heads), { max: 256 })
  if (!fields.has('head_dim') && hidden % heads !== 0)
    throw fields.error('hidden_size', hidden, `a multiple of num_attention_heads (${heads})`)
  if (headDim % 2 !== 0) throw fields.error('head_dim', headDim, 'an even number')
  return headDim
}
