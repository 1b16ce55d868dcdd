import type { Vectors } from './vectors.js'

/**
 * The Vendi score (Friedman and Dieng 2023) of some items: the exponential of the entropy of the eigenvalues of their
 * cosine kernel over their number, which the d × d covariance of the unit vectors has too. From 1, all the same, to d.
 */
export function vendiScore(vectors: Vectors, items: ArrayLike<number>): number {
  const { dimensions } = vectors
  const covariance = new Float64Array(dimensions * dimensions)
  let withoutDirection = 0
  for (let k = 0; k < items.length; k++) {
    const scale = vectors.inverseNorms[items[k]]
    if (scale === 0) withoutDirection++
    const row = vectors.row(items[k])
    for (let i = 0; i < dimensions; i++) {
      const value = row[i] * scale * scale
      for (let j = 0; j <= i; j++) covariance[i * dimensions + j] += value * row[j]
    }
  }
  // Items without a direction are like each other and like nothing else.
  const values = [...eigenvalues(covariance, dimensions), withoutDirection]
  let entropy = 0
  for (const value of values) {
    const share = value / items.length
    if (share > 0) entropy -= share * Math.log(share)
  }
  return Math.exp(entropy)
}

/**
 * Eigenvalues of a symmetric matrix, of which the lower triangle is read and overwritten: Householder's reduction to
 * three diagonals, then QL steps with implicit shifts (Golub and Van Loan, Matrix Computations, 8.3).
 *
 * @param a [n, n]
 */
export function eigenvalues(a: Float64Array, n: number): Float64Array {
  const diagonal = new Float64Array(n)
  const beside = new Float64Array(n + 1)
  const p = new Float64Array(n)
  for (let i = n - 1; i > 0; i--) {
    const row = a.subarray(i * n, i * n + i)
    let square = 0
    for (let k = 0; k < i - 1; k++) square += row[k] * row[k]
    diagonal[i] = a[i * n + i]
    if (square === 0) {
      beside[i] = row[i - 1]
      continue
    }
    const length = Math.sqrt(square + row[i - 1] * row[i - 1])
    const alpha = row[i - 1] > 0 ? -length : length
    beside[i] = alpha
    // The reflection I - 2 v vᵀ / vᵀv with v = row - alpha e_{i-1}, from both sides.
    const half = length * length - row[i - 1] * alpha
    row[i - 1] -= alpha
    let along = 0
    for (let j = 0; j < i; j++) {
      let sum = 0
      for (let k = 0; k <= j; k++) sum += a[j * n + k] * row[k]
      for (let k = j + 1; k < i; k++) sum += a[k * n + j] * row[k]
      p[j] = sum / half
      along += p[j] * row[j]
    }
    const correction = along / (2 * half)
    for (let j = 0; j < i; j++) p[j] -= correction * row[j]
    for (let j = 0; j < i; j++)
      for (let k = 0; k <= j; k++) a[j * n + k] -= row[j] * p[k] + p[j] * row[k]
  }
  diagonal[0] = a[0]
  // beside[i] couples i - 1 and i.
  for (let low = 0; low < n; low++)
    for (let step = 0; step < 64; step++) {
      let high = low
      while (high < n - 1) {
        const size = Math.abs(diagonal[high]) + Math.abs(diagonal[high + 1])
        if (Math.abs(beside[high + 1]) <= 2 ** -53 * size) break
        high++
      }
      if (high === low) break
      qlStep(diagonal, beside, low, high)
    }
  return diagonal
}

/** One implicit QL step on rows low … high of three diagonals, shifted by the eigenvalue of the first 2 × 2 nearer to d_low. */
function qlStep(d: Float64Array, beside: Float64Array, low: number, high: number): void {
  const ratio = (d[low + 1] - d[low]) / (2 * beside[low + 1])
  const root = Math.sqrt(ratio * ratio + 1)
  let g = d[high] - d[low] + beside[low + 1] / (ratio + (ratio < 0 ? -root : root))
  let [s, c, shift] = [1, 1, 0]
  for (let i = high - 1; i >= low; i--) {
    const f = s * beside[i + 1]
    const b = c * beside[i + 1]
    const length = Math.sqrt(f * f + g * g)
    beside[i + 2] = length
    if (length === 0) {
      d[i + 1] -= shift
      beside[high + 1] = 0
      return
    }
    s = f / length
    c = g / length
    g = d[i + 1] - shift
    const t = (d[i] - g) * s + 2 * c * b
    shift = s * t
    d[i + 1] = g + shift
    g = c * t - b
  }
  d[low] -= shift
  beside[low + 1] = g
  beside[high + 1] = 0
}
