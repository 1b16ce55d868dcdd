import { Scope, scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { Weight } from '../weight.js'

/** The leading factors of a packed weight, without ever holding the whole of it on the host. Vectors are float64. */

const oversampling = 8
const mostRounds = 40
// Roundings of a sum of K products add up like a random walk, so a product of W is known to 2^-24 √K of its largest
// singular value, and so are the triplets, as LAPACK's in float32 are. A round makes two products of rounded vectors;
// noise of 896 x 896 comes to rest at 1.2 of this unit.
const noiseOfSums = 4 * 2 ** -24
// How far a round may raise the largest direction above those that it leaves alone: beneath it float32 still sees them.
const mostGrowth = 1e4
const mostDegree = 32

/**
 * The largest `count` singular values of W with their vectors, from a fixed start, by subspace iteration through
 * Chebyshev polynomials of WᵀW (Zhou et al. 2006). Where singular values lie close together a power of WᵀW separates
 * them by their ratio, and W near its initialisation has thousands that are all but equal; the polynomial of degree p
 * that stays within ±1 up to the smallest value found separates them as a power of about p² does.
 *
 * It ends when W v_i is σ_i u_i but for rounding. Directions are then as good as the gaps between singular values let
 * them be; within a cluster any direction is as good as another.
 */
export async function singularTriplets(
  weight: Weight,
  count: number,
): Promise<{ u: Float64Array[]; s: number[]; v: Float64Array[] }> {
  const { rows, columns } = weight
  const most = Math.min(rows, columns)
  const width = Math.min(most, count + oversampling)
  const tolerance = noiseOfSums * Math.sqrt(Math.max(rows, columns))
  return await inFloat32(weight, async (exact) => {
    let v = orthonormalize(Array.from({ length: width }, (_, k) => startVector(columns, k)))
    for (let round = 1; ; round++) {
      // W V = Q R, and the singular values of W in the subspace are those of Qᵀ W.
      const q = orthonormalize(await times(exact, v, 'nt'))
      const next = rightVectors(await times(exact, q, 'nn'))
      const { s, mix } = next
      // v_i is Wᵀ u_i / σ_i, so what of it lies outside of the subspace is what W v_i still lacks.
      const isSettled = next.v
        .slice(0, count)
        .every((vector, i) => s[i] * distance(vector, v) <= tolerance * s[0])
      if (isSettled || width === most || round === mostRounds)
        return {
          u: padded(combine(q, mix), count, rows),
          s: padNumbers(s, count),
          v: padded(next.v, count, columns),
        }
      const bound = Math.max(s[width - 1] ** 2, 1e-8 * s[0] ** 2)
      v = orthonormalize(await filtered(exact, next.v, bound, degreeFor(s[0] ** 2 / bound)))
    }
  })
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
  return await inFloat32(weight, async (exact) => {
    const q = orthonormalize(await times(exact, units, 'nt'))
    const r = await times(exact, q, 'nn')
    return { q: padded(q, count, weight.rows), r: padded(r, count, weight.columns) }
  })
}

/** Factors are those of W itself, also where the model's own products round it. */
async function inFloat32<Result>(
  weight: Weight,
  body: (weight: Weight) => Promise<Result>,
): Promise<Result> {
  const { device, rows, columns, storage, compute } = weight
  if (compute === 'f32') return await body(weight)
  using copy = Weight.create(device, { rows, columns, storage })
  scope(() => copy.update(weight.read(0, rows, storage)))
  return await body(copy)
}

/** W v for each v ('nt'), or Wᵀ v ('nn'), in float32 on the device. */
async function times(
  weight: Weight,
  vectors: readonly Float64Array[],
  layout: 'nt' | 'nn',
): Promise<Float64Array[]> {
  return await readVectors(scope(() => product(weight, upload(weight, vectors), layout)))
}

/**
 * T(2 WᵀW / bound - 1) v for each v, T being the Chebyshev polynomial of a degree: T_k+1(t) = 2 t T_k(t) - T_k-1(t).
 *
 * @param bound of the squared singular values that are not to grow
 */
async function filtered(
  weight: Weight,
  vectors: readonly Float64Array[],
  bound: number,
  degree: number,
): Promise<Float64Array[]> {
  // factor WᵀW x + alpha x + beta other
  const step = (x: Tensor, other: Tensor, factor: number, alpha: number, beta: number) =>
    scope(() => {
      const { device, shape } = x
      const y = Tensor.empty(device, shape)
      device.run('add', { a: x.native, b: other.native, alpha, beta, y: y.native })
      const scale = Tensor.full(device, [weight.columns], factor)
      return product(weight, product(weight, x, 'nt'), 'nn', { scale, y })
    })
  const y = scope(() => {
    let before = upload(weight, vectors)
    let last = step(before, before, 2 / bound, -1, 0)
    for (let k = 1; k < degree; k++) {
      const next = step(last, before, 4 / bound, -2, -1)
      Scope.discard(before)
      before = last
      last = next
    }
    return last
  })
  return await readVectors(y)
}

/** The highest degree that the largest direction can bear. @param ratio of its square to the bound */
function degreeFor(ratio: number): number {
  const degree = Math.floor(Math.acosh(mostGrowth) / Math.acosh(Math.max(1, 2 * ratio - 1)))
  return Math.max(1, Math.min(mostDegree, degree))
}

/** x Wᵀ ('nt') or x W ('nn') for rows x; with `sum` scaled by columns and added to y. */
function product(
  weight: Weight,
  x: Tensor,
  layout: 'nt' | 'nn',
  sum?: { scale: Tensor; y: Tensor },
): Tensor {
  const { device, rows, columns } = weight
  const y = sum?.y ?? Tensor.empty(device, [x.shape[0], layout === 'nt' ? rows : columns])
  device.run('matmul', {
    layout,
    segments: [{ x: x.native, weight: weight.native }],
    ...(sum ? { columnScale: sum.scale.native, residual: y.native } : {}),
    y: y.native,
  })
  return y
}

function upload({ device }: Weight, vectors: readonly Float64Array[]): Tensor {
  const length = vectors[0].length
  const values = new Float32Array(vectors.length * length)
  vectors.forEach((vector, k) => {
    values.set(vector, k * length)
  })
  return Tensor.from(device, values, [vectors.length, length])
}

/** The rows of a tensor, which is released. */
async function readVectors(tensor: Tensor): Promise<Float64Array[]> {
  const [count, length] = tensor.shape
  try {
    const values = await tensor.readFloats()
    return Array.from({ length: count }, (_, k) =>
      Float64Array.from(values.subarray(k * length, (k + 1) * length)),
    )
  } finally {
    tensor.release()
  }
}

/** Gram-Schmidt, twice, which is enough; a vector that depends on those before becomes zero. */
function orthonormalize(vectors: readonly Float64Array[]): Float64Array[] {
  const basis: Float64Array[] = []
  for (const vector of vectors) {
    const rest = Float64Array.from(vector)
    const before = norm(rest)
    for (let pass = 0; pass < 2; pass++)
      for (const other of basis) addTo(rest, other, -dot(rest, other))
    const length = norm(rest)
    const over = length > 1e-12 * before && length > 0 ? 1 / length : 0
    basis.push(rest.map((value) => value * over))
  }
  return basis
}

/**
 * Singular values of Σ_k q_k back_kᵀ for orthonormal q, largest first, with the right vectors and with what makes the
 * left ones of q: by the eigenvectors of the small matrix back backᵀ (Jacobi).
 */
function rightVectors(back: readonly Float64Array[]): {
  s: number[]
  v: Float64Array[]
  mix: Float64Array[]
} {
  const { values, vectors } = eigen(back.map((row) => back.map((other) => dot(row, other))))
  const order = values.map((_, i) => i).sort((i, j) => values[j] - values[i])
  const mix = order.map((i) => Float64Array.from(vectors, (row) => row[i]))
  return {
    s: order.map((i) => Math.sqrt(Math.max(0, values[i]))),
    v: orthonormalize(combine(back, mix)),
    mix,
  }
}

/** Σ_k mix_i[k] x_k for each i. */
function combine(x: readonly Float64Array[], mix: readonly Float64Array[]): Float64Array[] {
  return mix.map((weights) => {
    const sum = new Float64Array(x[0].length)
    x.forEach((vector, k) => {
      addTo(sum, vector, weights[k])
    })
    return sum
  })
}

/** Of a unit vector from the span of an orthonormal basis. */
function distance(vector: Float64Array, basis: readonly Float64Array[]): number {
  const within = basis.reduce((sum, other) => sum + dot(vector, other) ** 2, 0)
  return Math.sqrt(Math.max(0, dot(vector, vector) - within))
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

/** sum += factor · x */
function addTo(sum: Float64Array, x: Float64Array, factor: number): void {
  for (let i = 0; i < sum.length; i++) sum[i] += factor * x[i]
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
