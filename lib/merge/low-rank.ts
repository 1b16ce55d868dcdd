import { eigen } from '../adapters/factors.js'

/** ΔW = B A in float64, row-major, the scaling being part of B. */
export interface LowRank {
  readonly rank: number
  /** [out, rank] */
  readonly b: Float64Array
  /** [rank, in] */
  readonly a: Float64Array
}

// Below this part of the largest eigenvalue of A Aᵀ a direction is nothing but rounding.
const negligible = 1e-14

/**
 * Σ w_i B_i A_i exactly: the factors side by side. Factors that share one A are added in B, and take its rank once.
 *
 * @param factors of layers of one shape
 */
export function concatenate(factors: readonly LowRank[], weights: readonly number[]): LowRank {
  const groups: { a: Float64Array; rank: number; b: Float64Array }[] = []
  factors.forEach(({ rank, a, b }, i) => {
    const shared = groups.find((one) => one.rank === rank && sameValues(one.a, a))
    const target = shared ?? { a, rank, b: new Float64Array(b.length) }
    if (!shared) groups.push(target)
    for (let k = 0; k < b.length; k++) target.b[k] += weights[i] * b[k]
  })
  return stack(groups)
}

/** Factors side by side: B = [B_1 … B_n], and A likewise by rows, each its own even where they are equal. */
export function stack(factors: readonly LowRank[]): LowRank {
  const rank = factors.reduce((sum, one) => sum + one.rank, 0)
  const columns = factors[0].a.length / factors[0].rank
  const rows = factors[0].b.length / factors[0].rank
  const a = new Float64Array(rank * columns)
  const b = new Float64Array(rows * rank)
  let begin = 0
  for (const one of factors) {
    a.set(one.a, begin * columns)
    for (let row = 0; row < rows; row++)
      b.set(one.b.subarray(row * one.rank, (row + 1) * one.rank), row * rank + begin)
    begin += one.rank
  }
  return { rank, a, b }
}

/**
 * The nearest ΔW of a lower rank (Eckart and Young 1936), and the part of the energy (the squared singular values) that
 * is lost with the rest.
 */
export function truncate(factors: LowRank, rank: number): { factors: LowRank; lost: number } {
  const { left, mix, singular } = singularForm(factors.b, gram(factors.a, factors.rank))
  const kept = Math.max(1, Math.min(rank, singular.length))
  const columns = factors.a.length / factors.rank
  const right = multiply(mix.subarray(0, kept * factors.rank), factors.a, kept, columns)
  const total = energy(singular)
  return {
    factors: { rank: kept, b: firstColumns(left, singular.length, kept), a: right },
    lost: total > 0 ? energy(singular.slice(kept)) / total : 0,
  }
}

/** The sum of squares of B A: trace(Bᵀ B A Aᵀ). */
export function energyOf({ a, b, rank }: LowRank): number {
  const right = gram(a, rank)
  const left = gram(transpose(b, b.length / rank, rank), rank)
  return left.reduce((sum, value, i) => sum + value * right[i], 0)
}

/** A Aᵀ, [rank, rank] */
export function gram(a: Float64Array, rank: number): Float64Array {
  const columns = a.length / rank
  const product = new Float64Array(rank * rank)
  for (let i = 0; i < rank; i++)
    for (let j = i; j < rank; j++) {
      let sum = 0
      for (let k = 0; k < columns; k++) sum += a[i * columns + k] * a[j * columns + k]
      product[i * rank + j] = product[j * rank + i] = sum
    }
  return product
}

/**
 * The singular values of B A without ever forming it, from B [out, R] and A Aᵀ alone: `left` = U Σ, [out, r], and `mix`
 * [r, R], which makes of A the right singular vectors, mix A. Largest first; at least one.
 */
export function singularForm(b: Float64Array, gramA: Float64Array) {
  const size = Math.round(Math.sqrt(gramA.length))
  const rows = b.length / size
  // A Aᵀ = V Λ Vᵀ, so A = (V Λ^½) (Λ^-½ Vᵀ A), whose second factor has orthonormal rows.
  const inner = sortedEigen(gramA, size)
  const directions = inner.filter(({ value }) => value > negligible * inner[0].value)
  const core = directions.length > 0 ? directions : inner.slice(0, 1)
  const r = core.length
  const scaled = new Float64Array(size * r)
  core.forEach(({ value, vector }, i) => {
    for (let k = 0; k < size; k++) scaled[k * r + i] = vector[k] * Math.sqrt(Math.max(0, value))
  })
  const image = multiply(b, scaled, rows, r)
  const outer = sortedEigen(gram(transpose(image, rows, r), r), r)
  const rotation = new Float64Array(r * r)
  const mix = new Float64Array(r * size)
  outer.forEach(({ vector }, j) => {
    for (let i = 0; i < r; i++) {
      rotation[i * r + j] = vector[i]
      const over = core[i].value > 0 ? vector[i] / Math.sqrt(core[i].value) : 0
      for (let k = 0; k < size; k++) mix[j * size + k] += over * core[i].vector[k]
    }
  })
  return {
    left: multiply(image, rotation, rows, r),
    mix,
    singular: outer.map(({ value }) => Math.sqrt(Math.max(0, value))),
  }
}

/** x [rows, inner] · y [inner, columns] */
export function multiply(
  x: Float64Array,
  y: Float64Array,
  rows: number,
  columns: number,
): Float64Array {
  const inner = rows > 0 ? x.length / rows : 0
  const product = new Float64Array(rows * columns)
  for (let row = 0; row < rows; row++)
    for (let k = 0; k < inner; k++) {
      const factor = x[row * inner + k]
      if (factor === 0) continue
      for (let j = 0; j < columns; j++) product[row * columns + j] += factor * y[k * columns + j]
    }
  return product
}

export function transpose(x: Float64Array, rows: number, columns: number): Float64Array {
  const result = new Float64Array(x.length)
  for (let row = 0; row < rows; row++)
    for (let j = 0; j < columns; j++) result[j * rows + row] = x[row * columns + j]
  return result
}

function sortedEigen(matrix: Float64Array, size: number) {
  const rows = Array.from({ length: size }, (_, i) => [
    ...matrix.subarray(i * size, (i + 1) * size),
  ])
  const { values, vectors } = eigen(rows)
  return values
    .map((value, j) => ({ value, vector: vectors.map((row) => row[j]) }))
    .sort((x, y) => y.value - x.value)
}

function firstColumns(x: Float64Array, columns: number, kept: number): Float64Array {
  const rows = x.length / columns
  const result = new Float64Array(rows * kept)
  for (let row = 0; row < rows; row++)
    result.set(x.subarray(row * columns, row * columns + kept), row * kept)
  return result
}

function energy(singular: readonly number[]): number {
  return singular.reduce((sum, value) => sum + value * value, 0)
}

function sameValues(x: Float64Array, y: Float64Array): boolean {
  return x.length === y.length && x.every((value, i) => value === y[i])
}
