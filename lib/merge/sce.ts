import type { Composition, TaskTensor } from './composition.js'
import { type Bound, magnitudesAt, select } from './magnitude.js'

/**
 * SCE (Wan et al. 2024): select the `select_topk` of the elements that vary most between the models, calculate each
 * model's weight from the squares of what is left of its task vector, erase what disagrees with the elected sign, and
 * average the rest.
 */
export const sce: Composition = async (tensor) => {
  const bound = await selection(tensor)
  const masked = (
    deltas: readonly Float32Array[],
    begin: number,
    keep: ReturnType<typeof select>,
  ) => {
    if (bound === null) return deltas
    const variances = varianceOf(deltas)
    const kept = keep(variances, {
      begin,
      base: variances,
      deltas,
      information: [],
    }) as Float32Array
    return deltas.map((delta) => delta.map((value, i) => (kept[i] > 0 ? value : 0)))
  }
  const selector = () => select(bound ?? everything, beyondAll)
  const squares = new Float64Array(tensor.count)
  const first = selector()
  for await (const { begin, deltas } of tensor.chunks())
    masked(deltas, begin, first).forEach((delta, m) => {
      for (let i = 0; i < delta.length; i++) squares[m] += delta[i] * delta[i]
    })
  const weights = weightsOf(squares, tensor.rows * tensor.columns)
  const second = selector()
  return ({ begin, base, deltas }, out) => {
    const kept = masked(deltas, begin, second)
    for (let i = 0; i < out.length; i++) {
      let vote = 0
      for (const delta of kept) vote += delta[i]
      const sign = vote >= 0 ? 1 : -1
      let mixed = 0
      let total = 0
      for (let m = 0; m < kept.length; m++) {
        if (kept[m][i] * sign <= 0) continue
        mixed += weights[m] * kept[m][i]
        total += weights[m]
      }
      out[i] = base[i] + (total > 0 ? mixed / total : 0)
    }
  }
}

const everything: Bound = { magnitude: -1, equals: 0 }
const beyondAll: Bound = { magnitude: Infinity, equals: 0 }

/** The variance that an element must have; null if all elements are selected. */
async function selection(tensor: TaskTensor): Promise<Bound | null> {
  const share = tensor.parameters.select_topk
  if (share >= 1) return null
  let varying = 0
  for await (const { deltas } of tensor.chunks())
    for (const variance of varianceOf(deltas)) if (variance > 0) varying++
  const size = tensor.rows * tensor.columns
  const place = size - Math.floor(varying * Math.max(0, share))
  const [[bound]] = await magnitudesAt(tensor, [[place]], ({ deltas }) => [varianceOf(deltas)])
  return bound
}

/** Between the models, of the population. */
function varianceOf(deltas: readonly Float32Array[]): Float32Array {
  return deltas[0].map((_, i) => {
    let mean = 0
    for (const delta of deltas) mean += delta[i] / deltas.length
    let variance = 0
    for (const delta of deltas) variance += (delta[i] - mean) ** 2 / deltas.length
    return variance
  })
}

function weightsOf(squares: Float64Array, size: number): Float64Array {
  const means = squares.map((square) => square / Math.max(1, size))
  const total = means.reduce((sum, mean) => sum + mean, 0)
  return means.map((mean) => (total > 0 ? mean / total : 1 / squares.length))
}
