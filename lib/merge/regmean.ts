import { ArgumentError } from '../errors.js'
import { concatenate, type LowRank, multiply, transpose } from './low-rank.js'

/**
 * RegMean (Jin et al. 2023): the layer whose outputs are nearest, in the sum of squares over every model's own inputs
 * X_i, to those of the models: W = (Σ W_i G_i) (Σ G_i)^-1 with G_i = X_iᵀ X_i. The base cancels, so that on adapters it
 * is exact on the factors: ΔW = Σ B_i (A_i G_i G^-1).
 *
 * @param grams [in, in] of each model, row-major
 * @param offDiagonal what the elements beside the diagonal are scaled by; below 1 it also keeps the sum invertible
 * @throws ArgumentError if the sum of the Gram matrices cannot be inverted
 */
export function regMean(
  factors: readonly LowRank[],
  grams: readonly Float64Array[],
  offDiagonal = 0.9,
): LowRank {
  const size = factors[0].a.length / factors[0].rank
  if (grams.length !== factors.length || grams.some(({ length }) => length !== size * size))
    throw new ArgumentError(
      `regMean needs a Gram matrix of [${size}, ${size}] for each of ${factors.length} adapters`,
    )
  const scaled = grams.map((one) =>
    one.map((value, i) => (Math.floor(i / size) === i % size ? value : value * offDiagonal)),
  )
  const total = new Float64Array(size * size)
  for (const one of scaled) for (let i = 0; i < total.length; i++) total[i] += one[i]
  const root = cholesky(total, size)
  const moved = factors.map(({ rank, a, b }, i) => {
    const right = transpose(multiply(a, scaled[i], rank, size), rank, size)
    return { rank, b, a: transpose(solve(root, right, size, rank), size, rank) }
  })
  return concatenate(
    moved,
    moved.map(() => 1),
  )
}

/** The lower triangle L of a positive definite L Lᵀ. */
function cholesky(matrix: Float64Array, size: number): Float64Array {
  const root = new Float64Array(size * size)
  for (let i = 0; i < size; i++)
    for (let j = 0; j <= i; j++) {
      let sum = matrix[i * size + j]
      for (let k = 0; k < j; k++) sum -= root[i * size + k] * root[j * size + k]
      if (i !== j) root[i * size + j] = sum / root[j * size + j]
      else if (sum > 1e-12 * matrix[i * size + i]) root[i * size + i] = Math.sqrt(sum)
      else
        throw new ArgumentError(
          `the sum of the Gram matrices is singular (input ${i} depends on others): give more tokens, or an offDiagonal below 1`,
        )
    }
  return root
}

/** X in L Lᵀ X = Y, [size, columns] */
function solve(root: Float64Array, y: Float64Array, size: number, columns: number): Float64Array {
  const x = Float64Array.from(y)
  const eliminate = (row: number, from: number, factor: number) => {
    for (let j = 0; j < columns; j++) x[row * columns + j] -= factor * x[from * columns + j]
  }
  const divide = (row: number) => {
    for (let j = 0; j < columns; j++) x[row * columns + j] /= root[row * size + row]
  }
  for (let row = 0; row < size; row++) {
    for (let k = 0; k < row; k++) eliminate(row, k, root[row * size + k])
    divide(row)
  }
  for (let row = size - 1; row >= 0; row--) {
    for (let k = row + 1; k < size; k++) eliminate(row, k, root[k * size + row])
    divide(row)
  }
  return x
}
