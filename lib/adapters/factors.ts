import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { Weight } from '../weight.js'

/** The leading factors of a packed weight, without ever holding the whole of it on the host. Vectors are float64. */

const oversampling = 8
const mostIterations = 200
// One minus the cosine of the angle that a vector still moves by: 1e-5, where float32 products stop improving.
const converged = 1e-10

/** The largest `count` singular values of W with their vectors, by subspace iteration from a fixed start. */
export async function singularTriplets(
  weight: Weight,
  count: number,
): Promise<{ u: Float64Array[]; s: number[]; v: Float64Array[] }> {
  const { rows, columns } = weight
  const most = Math.min(rows, columns)
  const width = Math.min(most, count + oversampling)
  let v = orthonormalize(Array.from({ length: width }, (_, k) => startVector(columns, k)))
  let s: number[] = []
  let u: Float64Array[] = []
  for (let iteration = 0; iteration < mostIterations; iteration++) {
    // W V = U B with B small; its own singular values are those of W in the subspace.
    const image = await times(weight, v, 'nt')
    const basis = orthonormalize(image)
    const back = await times(weight, basis, 'nn')
    const next = rotate(basis, back)
    // Values settle with the square of the angles, so the angles are what is watched.
    const change = Math.max(
      ...next.v.slice(0, count).map((vector, i) => 1 - Math.abs(dot(vector, v[i]))),
    )
    ;({ u, s, v } = next)
    if (change <= converged || width === most) break
  }
  return { u: padded(u, count, rows), s: padNumbers(s, count), v: padded(v, count, columns) }
}

/** Q and R of W = Q R, R's diagonal being positive: the first `count` columns of Q and rows of R. */
export async function orthonormalColumns(
  weight: Weight,
  count: number,
): Promise<{ q: Float64Array[]; r: Float64Array[] }> {
  const kept = Math.min(count, weight.rows, weight.columns)
  const units = Array.from({ length: kept }, (_, k) => {
    const unit = new Float64Array(weight.columns)
    unit[k] = 1
    return unit
  })
  const first = await times(weight, units, 'nt')
  const q = orthonormalize(first)
  const r = await times(weight, q, 'nn')
  return { q: padded(q, count, weight.rows), r: padded(r, count, weight.columns) }
}

/** W v for each v ('nt'), or Wᵀ v ('nn'), in float32 on the device. */
async function times(
  weight: Weight,
  vectors: readonly Float64Array[],
  layout: 'nt' | 'nn',
): Promise<Float64Array[]> {
  const { device } = weight
  const length = layout === 'nt' ? weight.rows : weight.columns
  const y = scope(() => {
    const x = Tensor.from(device, Float32Array.from(vectors.flatMap((vector) => [...vector])), [
      vectors.length,
      vectors[0].length,
    ])
    const y = Tensor.empty(device, [vectors.length, length])
    device.run('matmul', {
      layout,
      segments: [{ x: x.native, weight: weight.native }],
      y: y.native,
    })
    return y
  })
  try {
    const values = await y.readFloats()
    return vectors.map((_, k) => Float64Array.from(values.subarray(k * length, (k + 1) * length)))
  } finally {
    y.release()
  }
}

/** Gram-Schmidt, twice, which is enough; a vector that depends on those before becomes zero. */
function orthonormalize(vectors: readonly Float64Array[]): Float64Array[] {
  const basis: Float64Array[] = []
  for (const vector of vectors) {
    const rest = Float64Array.from(vector)
    const before = norm(rest)
    for (let pass = 0; pass < 2; pass++)
      for (const other of basis) {
        const along = dot(rest, other)
        for (let i = 0; i < rest.length; i++) rest[i] -= along * other[i]
      }
    const length = norm(rest)
    const over = length > 1e-12 * before && length > 0 ? 1 / length : 0
    basis.push(rest.map((value) => value * over))
  }
  return basis
}

/** Singular vectors of Σ_k basis_k back_kᵀ: by the eigenvectors of the small matrix back backᵀ (Jacobi). */
function rotate(
  basis: readonly Float64Array[],
  back: readonly Float64Array[],
): { u: Float64Array[]; s: number[]; v: Float64Array[] } {
  const gram = back.map((row) => back.map((other) => dot(row, other)))
  const { values, vectors } = eigen(gram)
  const order = values.map((_, i) => i).sort((i, j) => values[j] - values[i])
  const s = order.map((i) => Math.sqrt(Math.max(0, values[i])))
  const combine = (from: readonly Float64Array[], i: number) => {
    const sum = new Float64Array(from[0].length)
    from.forEach((vector, k) => {
      const weight = vectors[k][i]
      for (let j = 0; j < sum.length; j++) sum[j] += weight * vector[j]
    })
    return sum
  }
  const u = order.map((i) => combine(basis, i))
  const v = orthonormalize(order.map((i) => combine(back, i)))
  return { u, s, v }
}

/** Eigenvalues and eigenvectors (columns) of a small symmetric matrix, by Jacobi's rotations. */
export function eigen(matrix: readonly (readonly number[])[]): {
  values: number[]
  vectors: number[][]
} {
  const n = matrix.length
  const a = matrix.map((row) => [...row])
  const vectors = a.map((_, i) => a.map((_, j): number => (i === j ? 1 : 0)))
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0
    let diagonal = 0
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++)
        if (i === j) diagonal += a[i][i] ** 2
        else off += a[i][j] ** 2
    if (off <= 1e-30 * diagonal || off === 0) break
    for (let p = 0; p < n; p++)
      for (let q = p + 1; q < n; q++) {
        if (a[p][q] === 0) continue
        const theta = (a[q][q] - a[p][p]) / (2 * a[p][q])
        const t = Math.sign(theta || 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1))
        const c = 1 / Math.sqrt(t * t + 1)
        const s = t * c
        for (let k = 0; k < n; k++) {
          const [x, y] = [a[k][p], a[k][q]]
          a[k][p] = c * x - s * y
          a[k][q] = s * x + c * y
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [a[p][k], a[q][k]]
          a[p][k] = c * x - s * y
          a[q][k] = s * x + c * y
        }
        for (let k = 0; k < n; k++) {
          const [x, y] = [vectors[k][p], vectors[k][q]]
          vectors[k][p] = c * x - s * y
          vectors[k][q] = s * x + c * y
        }
      }
  }
  return { values: a.map((row, i) => row[i]), vectors }
}

/** Numbers without a pattern that a weight could share, the same every time (mulberry32). */
function startVector(length: number, k: number): Float64Array {
  let state = (k * 0x9e3779b9 + 1) >>> 0
  return Float64Array.from({ length }, () => {
    state = (state + 0x6d2b79f5) >>> 0
    let t = Math.imul(state ^ (state >>> 15), state | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32 - 0.5
  })
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i]
  return sum
}

function norm(a: Float64Array): number {
  return Math.sqrt(dot(a, a))
}

/** Ranks above that of W have nothing to hold. */
function padded(vectors: readonly Float64Array[], count: number, length: number): Float64Array[] {
  return Array.from({ length: count }, (_, k) => vectors[k] ?? new Float64Array(length))
}

function padNumbers(values: readonly number[], count: number): number[] {
  return Array.from({ length: count }, (_, k) => values[k] ?? 0)
}
