import type { Tape } from '../autograd.js'
import type { Linear, Parameter } from '../parameter.js'
import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

/**
 * The low-rank path of the linear layers that read one x: one shared shrink, one dropout mask, one A whose rows belong
 * to the layers in turn. Rank rows `begin … end` of A and the columns of B make up the update of one layer.
 */
export interface LowRankGroup {
  /** f32 [R, in] */
  readonly a: Parameter
  /** f32 [R]: the scaling s of each rank row */
  readonly rankScale: Tensor
  /** One entry a layer of the group; null where a layer has no update. */
  readonly parts: readonly (LowRankPart | null)[]
  readonly dropout: { readonly probability: number; readonly seed: bigint; readonly module: number }
}

export interface LowRankPart {
  readonly begin: number
  readonly end: number
  /** f32 [out, end - begin] */
  readonly b: Parameter
}

/**
 * y_i = x W_iᵀ + P_i B_iᵀ + bias_i (+ residual), P = s · dropout(x) Aᵀ (Hu et al. 2021): the low-rank path rides in the
 * accumulator of the base product. The backward pass is one read of each dy for both rank gradients, and one product
 * for the data gradient of the whole group.
 *
 * @param x f32 [T, in]
 * @param linears the layers that read x
 * @param residual f32 [T, out], added to y_0
 * @returns y_i, f32 [T, out_i]
 */
export function linear(
  pass: Pass,
  x: Tensor,
  linears: readonly Linear[],
  lowRank: LowRankGroup | null = null,
  residual: Tensor | null = null,
): Tensor[] {
  const { device, tape } = pass
  const numTokens = x.shape[0]
  const dropout = lowRank && dropoutArguments(pass, lowRank)
  const s = lowRank && Tensor.empty(device, [numTokens, lowRank.a.value.shape[0]])
  if (lowRank && s)
    device.run('low_rank_project', {
      x: x.native,
      a: lowRank.a.value.native,
      rankScale: lowRank.rankScale.native,
      dropout,
      s: s.native,
    })
  const outputs = linears.map((layer, i) => {
    const part = lowRank?.parts[i]
    const y = Tensor.empty(device, [numTokens, layer.matrix.weight.rows])
    const segments: object[] = [{ x: x.native, weight: layer.matrix.weight.native }]
    if (s && part)
      segments.push({ x: s.slice(1, part.begin, part.end).native, w: part.b.value.native })
    device.run('matmul', {
      layout: 'nt',
      segments,
      bias: layer.bias?.value.native,
      residual: i === 0 ? residual?.native : null,
      y: y.native,
    })
    return y
  })
  if (tape === null) return outputs
  const trainsLowRank = lowRank !== null && lowRank.a.gradient !== null
  const trainsBase = linears.some(
    ({ matrix, bias }) => (matrix.master?.gradient ?? bias?.gradient ?? null) !== null,
  )
  const tracks = tape.tracks(x) || (residual !== null && tape.tracks(residual))
  if (!trainsLowRank && !trainsBase && !tracks) return outputs
  tape.record({
    inputs: residual ? [x, residual] : [x],
    outputs,
    saved: [x, ...(s ? [s] : []), ...(dropout ? dropoutRows(pass) : [])],
    backward(gradients, tape) {
      const t = lowRank && s ? backwardLowRank(x, s, gradients, lowRank, dropout) : null
      gradients.forEach((dy, i) => {
        if (dy) backwardBase(x, dy, linears[i])
      })
      const dx = tape.tracks(x)
        ? dataGradient(x, t, gradients, linears, lowRank, dropout, tape)
        : null
      return residual ? [dx, gradients[0] ?? null] : [dx]
    },
  })
  return outputs
}

/** Adds to the gradients of A and every B; returns T = s · (dY B) of the whole group, f32 [T, R]. */
function backwardLowRank(
  x: Tensor,
  s: Tensor,
  gradients: readonly (Tensor | null)[],
  lowRank: LowRankGroup,
  dropout: object | null,
): Tensor {
  const { device } = x
  const t = Tensor.empty(device, s.shape)
  lowRank.parts.forEach((part, i) => {
    if (!part) return
    const rows = t.slice(1, part.begin, part.end)
    const dy = gradients[i]
    if (!dy) {
      device.run('fill', { y: rows.native, value: 0 })
      return
    }
    device.run('low_rank_backward', {
      dy: dy.native,
      b: part.b.value.native,
      p: s.slice(1, part.begin, part.end).native,
      rankScale: lowRank.rankScale.slice(0, part.begin, part.end).native,
      t: rows.native,
      dB: part.b.gradient?.native,
    })
  })
  const dA = lowRank.a.gradient
  if (dA)
    device.run('matmul', {
      layout: 'tn',
      segments: [{ x: t.native, w: x.native, maskW: dropout ? 1 : 0 }],
      dropout,
      residual: dA.native,
      y: dA.native,
    })
  return t
}

/** Adds to the gradients of a trained base matrix and bias. */
function backwardBase(x: Tensor, dy: Tensor, { matrix, bias }: Linear): void {
  const dW = matrix.master?.gradient
  if (dW)
    x.device.run('matmul', {
      layout: 'tn',
      segments: [{ x: dy.native, w: x.native }],
      residual: dW.native,
      y: dW.native,
    })
  if (bias?.gradient) x.device.run('column_sum', { x: dy.native, y: bias.gradient.native })
}

/** dX = mask(T A) + Σ dY_i W_i + what has already reached x. The low-rank segment is first: only it is masked. */
function dataGradient(
  x: Tensor,
  t: Tensor | null,
  gradients: readonly (Tensor | null)[],
  linears: readonly Linear[],
  lowRank: LowRankGroup | null,
  dropout: object | null,
  tape: Tape,
): Tensor {
  const segments: object[] = []
  if (t && lowRank)
    segments.push({ x: t.native, w: lowRank.a.value.native, maskAfter: dropout ? 1 : 0 })
  gradients.forEach((dy, i) => {
    if (dy) segments.push({ x: dy.native, weight: linears[i].matrix.weight.native })
  })
  const residual = tape.takeGradient(x)
  const dx = Tensor.empty(x.device, x.shape)
  x.device.run('matmul', {
    layout: 'nn',
    segments,
    dropout,
    residual: residual?.native,
    y: dx.native,
  })
  return dx
}

function dropoutRows({ dropout }: Pass): Tensor[] {
  return dropout ? [dropout.step, dropout.rowSample, dropout.rowPosition] : []
}

function dropoutArguments(pass: Pass, { dropout }: LowRankGroup): object | null {
  if (pass.dropout === null || dropout.probability === 0) return null
  return {
    ...dropout,
    step: pass.dropout.step.native,
    rowSample: pass.dropout.rowSample.native,
    rowPosition: pass.dropout.rowPosition.native,
  }
}
