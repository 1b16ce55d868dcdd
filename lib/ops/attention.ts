import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

export interface AttentionShape {
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
  /** bf16: a device that gains by it rounds the operands of the products; sums stay float32. Default: f32. */
  readonly compute?: 'f32' | 'bf16'
}

/**
 * Causal softmax(q kᵀ / sqrt(headDim)) v within each sequence of a packed batch; query head h reads key-value head
 * ⌊h · numKeyValueHeads / numHeads⌋. Scores never exist as a whole (Dao et al. 2022).
 *
 * @param q f32 [T, numHeads · headDim]
 * @param k f32 [T, numKeyValueHeads · headDim]
 * @param v as k
 * @param cuSeqlens i32 [S + 1], first row of each sequence, then T
 * @returns f32, q's shape
 */
export function attention(
  pass: Pass,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  cuSeqlens: Tensor,
  shape: AttentionShape,
): Tensor {
  const { device, tape } = pass
  const { numHeads, numKeyValueHeads, headDim } = shape
  const numTokens = q.shape[0]
  const queryHeads = [numTokens, numHeads, headDim]
  const keyHeads = [numTokens, numKeyValueHeads, headDim]
  const scale = 1 / Math.sqrt(headDim)
  const bf16Operands = shape.compute === 'bf16'
  const o = Tensor.empty(device, q.shape)
  const records = tape !== null && (tape.tracks(q) || tape.tracks(k) || tape.tracks(v))
  const lse = records ? Tensor.empty(device, [numHeads, numTokens]) : null
  device.run('attention', {
    q: q.view(queryHeads).native,
    k: k.view(keyHeads).native,
    v: v.view(keyHeads).native,
    cuSeqlens: cuSeqlens.native,
    scale,
    o: o.view(queryHeads).native,
    lse: lse?.native,
    bf16Operands,
  })
  if (lse === null) return o
  tape!.record({
    inputs: [q, k, v],
    outputs: [o],
    saved: [q, k, v, o, lse, cuSeqlens],
    backward([dO]) {
      if (!dO) return [null, null, null]
      const dq = Tensor.empty(device, q.shape)
      const dk = Tensor.empty(device, k.shape)
      const dv = Tensor.empty(device, v.shape)
      device.run('attention_backward', {
        q: q.view(queryHeads).native,
        k: k.view(keyHeads).native,
        v: v.view(keyHeads).native,
        o: o.view(queryHeads).native,
        lse: lse.native,
        dO: dO.view(queryHeads).native,
        cuSeqlens: cuSeqlens.native,
        scale,
        dq: dq.view(queryHeads).native,
        dk: dk.view(keyHeads).native,
        dv: dv.view(keyHeads).native,
        bf16Operands,
      })
      return [dq, dk, dv]
    },
  })
  return o
}

/** Keys and values of the sequences being generated: f32 [B, maxLength, numKeyValueHeads, headDim] each. */
export interface KeyValueCache {
  readonly keys: Tensor
  readonly values: Tensor
}

/**
 * Appends this pass's keys and values to the cache, then attends: row t sees positions 0 … rowPosition[t] of sequence
 * rowSequence[t]. Not differentiable.
 *
 * @param rowSequence i32 [T], below B
 * @param rowPosition i32 [T], below maxLength
 */
export function attentionCached(
  pass: Pass,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  cache: KeyValueCache,
  rowSequence: Tensor,
  rowPosition: Tensor,
  shape: AttentionShape,
): Tensor {
  const { device } = pass
  const { numHeads, numKeyValueHeads, headDim } = shape
  const numTokens = q.shape[0]
  const queryHeads = [numTokens, numHeads, headDim]
  const keyHeads = [numTokens, numKeyValueHeads, headDim]
  const rows = { rowSequence: rowSequence.native, rowPosition: rowPosition.native }
  device.run('cache_append', { x: k.view(keyHeads).native, ...rows, cache: cache.keys.native })
  device.run('cache_append', { x: v.view(keyHeads).native, ...rows, cache: cache.values.native })
  const o = Tensor.empty(device, q.shape)
  device.run('attention_cached', {
    q: q.view(queryHeads).native,
    kCache: cache.keys.native,
    vCache: cache.values.native,
    ...rows,
    scale: 1 / Math.sqrt(headDim),
    o: o.view(queryHeads).native,
  })
  return o
}
