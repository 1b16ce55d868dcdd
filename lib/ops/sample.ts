import { Tensor } from '../tensor.js'

/** How the next token is drawn. */
export interface SamplingOptions {
  /** 0: the most likely token, always; default 1. */
  temperature?: number
  /** Keep the k most likely; 0: all; default 0. */
  topK?: number
  /** Then keep the fewest whose probability reaches p; default 1. */
  topP?: number
  /** Default 0. */
  seed?: number
}

/**
 * Draws one token a row: temperature, then top-k, then top-p, then Philox keyed by (seed, sample, position), so that a
 * sequence's tokens do not depend on its neighbours in the batch.
 *
 * @param logits f32 [B, V]
 * @param sample i32 [B]
 * @param position i32 [B]
 * @returns i32 [B]
 */
export function sampleTokens(
  logits: Tensor,
  sample: Tensor,
  position: Tensor,
  { temperature = 1, topK = 0, topP = 1, seed = 0 }: SamplingOptions,
): Tensor {
  const { device } = logits
  const size = logits.shape[0]
  const tokens = Tensor.empty(device, [size], 'i32')
  device.run('sample', {
    logits: logits.native,
    temperature: Tensor.full(device, [size], temperature).native,
    topK: Tensor.full(device, [size], topK, 'i32').native,
    topP: Tensor.full(device, [size], topP).native,
    sample: sample.native,
    position: position.native,
    seed: BigInt(seed),
    tokens: tokens.native,
  })
  return tokens
}
