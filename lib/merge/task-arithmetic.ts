import type { Chunk, Composition, RowRule, TaskTensor } from './composition.js'
import { keepAll, type Sparsifier } from './sparsify.js'

export interface TaskArithmeticOptions {
  /** What is left of each task vector before they are weighed. Default: everything. */
  readonly sparsify?: Sparsifier
  /** Only what agrees with the elected sign counts (Yadav et al. 2023). */
  readonly electSigns?: boolean
}

/**
 * W0 + λ Σ w_i τ_i (Ilharco et al. 2023), and with its two options the family of merges that first drop elements and
 * elect signs. With `normalize` an element is divided by the weights of the models that count there.
 */
export function taskArithmetic(options: TaskArithmeticOptions = {}): Composition {
  const { sparsify = keepAll, electSigns = false } = options
  return async (tensor) => {
    const sparsifiers = await sparsify(tensor)
    const combine = electSigns ? sumOfElected : sum
    const rule: RowRule = async (chunk, out) => {
      const deltas: Float32Array[] = []
      for (let i = 0; i < tensor.count; i++)
        deltas.push(await sparsifiers[i](chunk.deltas[i], chunk))
      combine(tensor, { ...chunk, deltas }, out)
    }
    return rule
  }
}

function sum({ parameters, each }: TaskTensor, { base, deltas }: Chunk, out: Float32Array): void {
  const weights = each.map(({ weight }) => weight)
  const total = weights.reduce((total, weight) => total + weight, 0)
  // As mergekit: weights that cancel are not divided by.
  const divisor = parameters.normalize && Math.abs(total) >= 1e-8 ? total : 1
  const scale = parameters.lambda / divisor
  for (let i = 0; i < out.length; i++) {
    let mixed = 0
    for (let m = 0; m < deltas.length; m++) mixed += weights[m] * deltas[m][i]
    out[i] = base[i] + scale * mixed
  }
}

/** The sign of an element is that of the weighted sum; zero counts as positive, and agrees with neither. */
function sumOfElected(
  { parameters, each }: TaskTensor,
  { base, deltas }: Chunk,
  out: Float32Array,
): void {
  const weights = each.map(({ weight }) => weight)
  const { normalize, lambda } = parameters
  for (let i = 0; i < out.length; i++) {
    let vote = 0
    for (let m = 0; m < deltas.length; m++) vote += weights[m] * deltas[m][i]
    const sign = vote >= 0 ? 1 : -1
    let mixed = 0
    let total = 0
    for (let m = 0; m < deltas.length; m++) {
      const one = weights[m] * deltas[m][i]
      if (one * sign <= 0) continue
      mixed += one
      total += weights[m]
    }
    out[i] = base[i] + (lambda * mixed) / (normalize && total !== 0 ? total : 1)
  }
}
