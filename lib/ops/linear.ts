import type { Tape } from '../autograd.js'
import type { Linear } from '../parameter.js'
import { Tensor } from '../tensor.js'
import { type LowRankGroup, LowRankPath, magnitudeScale, trainsAnything } from './low-rank.js'
import { type Pass, type RoutingRows, rowsOfPass } from './pass.js'

export type { LowRankGroup, LowRankPart } from './low-rank.js'

/** Several groups side by side: each for its own rows of x, one after the other from row 0 to the last. */
export interface LowRankRows {
  readonly rows: readonly {
    readonly begin: number
    readonly end: number
    /** Null: these rows have no update. */
    readonly group: LowRankGroup | null
    /** What its mixtures know of these rows, in place of the pass's. */
    readonly routing?: RoutingRows | null
  }[]
}

/** DoRA's layer on the way back: the product before its scale, and both factors. */
interface Scaled {
  readonly z: Tensor
  readonly scale: Tensor
  readonly norm: Tensor
}

/** Rows begin … end - 1 of one product, with the low-rank path that they take. */
interface Piece {
  readonly begin: number
  readonly end: number
  readonly path: LowRankPath | null
  readonly group: LowRankGroup | null
  /** By layer. */
  readonly scaled: (Scaled | null)[]
}

/**
 * y_i = x W_iᵀ + P_i B_iᵀ + bias_i (+ residual): the low-rank path rides in the accumulator of the base product. The
 * backward pass is one read of each dy for both rank gradients, and one product for the data gradient of the whole
 * group. With several groups side by side each has its rows, as if the others were not there: the same bits.
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
  lowRank: LowRankGroup | LowRankRows | null = null,
  residual: Tensor | null = null,
): Tensor[] {
  const { device, tape } = pass
  const numTokens = x.shape[0]
  const computesInBf16 = linears.every(({ matrix }) => matrix.weight.compute === 'bf16')
  const ranges: LowRankRows['rows'] =
    lowRank && 'rows' in lowRank ? lowRank.rows : [{ begin: 0, end: numTokens, group: lowRank }]
  const outputs = linears.map(({ matrix }) => Tensor.empty(device, [numTokens, matrix.weight.rows]))
  const pieces = ranges.map(({ begin, end, group, routing }): Piece => {
    const cut = begin === 0 && end === numTokens ? pass : rowsOfPass(pass, begin, end)
    const own = routing === undefined ? cut : { ...cut, routing }
    const path = group && new LowRankPath(own, rowsOf(x, begin, end), group, computesInBf16)
    const scaled = linears.map((layer, i) =>
      forwardLayer(layer, i, { begin, end, path, group }, x, outputs[i], i === 0 ? residual : null),
    )
    return { begin, end, path, group, scaled }
  })
  if (tape === null) return outputs
  const trainsLowRank = ranges.some(({ group }) => group && trainsAnything(group))
  const trainsBase = linears.some(
    ({ matrix, bias }) => (matrix.master?.gradient ?? bias?.gradient ?? null) !== null,
  )
  const tracks = tape.tracks(x) || (residual !== null && tape.tracks(residual))
  if (!trainsLowRank && !trainsBase && !tracks) return outputs
  const reads = trainsBase || pieces.some(({ path }) => path)
  const recalled = reads ? tape.recall(x) : null
  tape.record({
    inputs: residual ? [x, residual] : [x],
    outputs,
    saved: [...(recalled?.saved ?? []), ...pieces.flatMap(savedOf)],
    backward(gradients, tape) {
      const before = beforeScale(pieces, gradients)
      if (recalled) {
        const input = recalled.get()
        for (const { path, begin, end } of pieces)
          path?.backward(
            rowsOf(input, begin, end),
            before.map((dz) => dz && rowsOf(dz, begin, end)),
          )
        gradients.forEach((dy, i) => {
          if (dy) backwardBase(input, dy, before[i]!, linears[i])
        })
      }
      const dx = tape.tracks(x) ? dataGradient(x, pieces, before, linears, tape) : null
      return residual ? [dx, gradients[0] ?? null] : [dx]
    },
  })
  return outputs
}

function forwardLayer(
  { matrix, bias }: Linear,
  i: number,
  { begin, end, path, group }: Omit<Piece, 'scaled'>,
  x: Tensor,
  output: Tensor,
  residual: Tensor | null,
): Scaled | null {
  const { device } = x
  const part = group?.parts[i]
  const y = rowsOf(output, begin, end)
  const beside = {
    bias: bias?.value.native,
    residual: residual && rowsOf(residual, begin, end).native,
  }
  const segments = [
    { x: rowsOf(x, begin, end).native, weight: matrix.weight.native },
    ...(path?.segments(i) ?? []),
  ]
  if (!group || !part?.magnitude) {
    device.run('matmul', { layout: 'nt', segments, ...beside, y: y.native })
    return null
  }
  const z = Tensor.empty(device, y.shape)
  device.run('matmul', { layout: 'nt', segments, y: z.native })
  const { scale, norm } = magnitudeScale(matrix.weight, group, part, part.magnitude)
  device.run('scale_columns', { x: z.native, scale: scale.native, ...beside, y: y.native })
  return { z, scale, norm }
}

function savedOf({ path, scaled }: Piece): Tensor[] {
  return [
    ...(path?.saved ?? []),
    ...scaled.flatMap((one) => (one ? [one.z, one.scale, one.norm] : [])),
  ]
}

/** The gradients of the products themselves, before DoRA's scale; magnitudes get theirs. */
function beforeScale(
  pieces: readonly Piece[],
  gradients: readonly (Tensor | null)[],
): (Tensor | null)[] {
  return gradients.map((dy, i) => {
    if (!dy || pieces.every(({ scaled }) => !scaled[i])) return dy
    const dz = Tensor.empty(dy.device, dy.shape)
    for (const { begin, end, group, scaled } of pieces) {
      const one = scaled[i]
      const rows = rowsOf(dz, begin, end)
      if (!one) rows.copyFrom(rowsOf(dy, begin, end))
      else
        dy.device.run('scale_columns_backward', {
          dy: rowsOf(dy, begin, end).native,
          x: one.z.native,
          scale: one.scale.native,
          norm: one.norm.native,
          dx: rows.native,
          dMagnitude: group!.parts[i]!.magnitude!.value.gradient?.native,
        })
    }
    return dz
  })
}

/** Adds to the gradients of a trained base matrix and bias. */
function backwardBase(x: Tensor, dy: Tensor, dz: Tensor, { matrix, bias }: Linear): void {
  const dW = matrix.master?.gradient
  if (dW)
    x.device.run('matmul', {
      layout: 'tn',
      segments: [{ x: dz.native, w: x.native }],
      residual: dW.native,
      y: dW.native,
      bf16Operands: matrix.weight.compute === 'bf16',
    })
  if (bias?.gradient) x.device.run('column_sum', { x: dy.native, y: bias.gradient.native })
}

/** dX = mask(T A) + Σ dY_i W_i + what has already reached x. The low-rank segment is first: only it is masked. */
function dataGradient(
  x: Tensor,
  pieces: readonly Piece[],
  gradients: readonly (Tensor | null)[],
  linears: readonly Linear[],
  tape: Tape,
): Tensor {
  const residual = tape.takeGradient(x)
  const dx = Tensor.empty(x.device, x.shape)
  for (const { begin, end, path } of pieces) {
    const masked = path?.maskedSegment
    const segments: object[] = masked ? [masked.segment] : []
    gradients.forEach((dy, i) => {
      if (dy)
        segments.push({
          x: rowsOf(dy, begin, end).native,
          weight: linears[i].matrix.weight.native,
        })
    })
    segments.push(...(path?.plainSegments ?? []))
    x.device.run('matmul', {
      layout: 'nn',
      segments,
      dropout: masked?.dropout,
      residual: residual && rowsOf(residual, begin, end).native,
      y: rowsOf(dx, begin, end).native,
    })
  }
  return dx
}

/** Rows begin … end - 1: the tensor itself where they are all. */
function rowsOf(x: Tensor, begin: number, end: number): Tensor {
  return begin === 0 && end === x.shape[0] ? x : x.slice(0, begin, end)
}
