/**
 * The operations once more in float64, written for the eye: what the kernels are measured against. Arrays are in C
 * order; sizes are named as in lib/ops.
 */

type Values = ArrayLike<number>

/** a [m, k] times b [n, k]ᵀ */
export function productNT(a: Values, b: Values, m: number, n: number, k: number): Float64Array {
  const y = new Float64Array(m * n)
  for (let i = 0; i < m; ++i)
    for (let j = 0; j < n; ++j) {
      let sum = 0
      for (let l = 0; l < k; ++l) sum += a[i * k + l] * b[j * k + l]
      y[i * n + j] = sum
    }
  return y
}

/** a [m, k] times b [k, n] */
export function productNN(a: Values, b: Values, m: number, n: number, k: number): Float64Array {
  const y = new Float64Array(m * n)
  for (let i = 0; i < m; ++i)
    for (let l = 0; l < k; ++l) {
      const factor = a[i * k + l]
      for (let j = 0; j < n; ++j) y[i * n + j] += factor * b[l * n + j]
    }
  return y
}

/** a [r, m]ᵀ times b [r, n] */
export function productTN(a: Values, b: Values, m: number, n: number, r: number): Float64Array {
  const y = new Float64Array(m * n)
  for (let l = 0; l < r; ++l)
    for (let i = 0; i < m; ++i) {
      const factor = a[l * m + i]
      for (let j = 0; j < n; ++j) y[i * n + j] += factor * b[l * n + j]
    }
  return y
}

/** Element by element; arrays of equal length. */
export function combine(
  f: (...values: number[]) => number,
  ...arrays: readonly Values[]
): Float64Array {
  return Float64Array.from({ length: arrays[0].length }, (_, i) =>
    f(...arrays.map((values) => values[i])),
  )
}

/** Columns begin … end - 1 of a matrix with `columns` columns. */
export function sliceColumns(
  values: Values,
  columns: number,
  begin: number,
  end: number,
): Float64Array {
  const rows = values.length / columns
  const width = end - begin
  return Float64Array.from(
    { length: rows * width },
    (_, i) => values[Math.floor(i / width) * columns + begin + (i % width)],
  )
}

/** The given rows of a matrix with `columns` columns. */
export function takeRows(values: Values, columns: number, rows: Iterable<number>): Float64Array {
  return Float64Array.from(
    Array.from(rows).flatMap((row) =>
      Array.from({ length: columns }, (_, i) => values[row * columns + i]),
    ),
  )
}

/** Each piece of weight.length elements on its own. */
export function rmsNorm(x: Values, weight: Values, epsilon: number): Float64Array {
  const size = weight.length
  const y = new Float64Array(x.length)
  for (let begin = 0; begin < x.length; begin += size) {
    let squares = 0
    for (let i = 0; i < size; ++i) squares += x[begin + i] ** 2
    const rstd = 1 / Math.sqrt(squares / size + epsilon)
    for (let i = 0; i < size; ++i) y[begin + i] = x[begin + i] * rstd * weight[i]
  }
  return y
}

/** The gradients of x and of the weight: with x̂ = x rstd and g = dy weight, dx = rstd (g - x̂ mean(g x̂)). */
export function rmsNormBackward(dy: Values, x: Values, weight: Values, epsilon: number) {
  const size = weight.length
  const dx = new Float64Array(x.length)
  const dWeight = new Float64Array(size)
  for (let begin = 0; begin < x.length; begin += size) {
    let squares = 0
    for (let i = 0; i < size; ++i) squares += x[begin + i] ** 2
    const rstd = 1 / Math.sqrt(squares / size + epsilon)
    let mean = 0
    for (let i = 0; i < size; ++i) {
      const normed = x[begin + i] * rstd
      dWeight[i] += dy[begin + i] * normed
      mean += (dy[begin + i] * weight[i] * normed) / size
    }
    for (let i = 0; i < size; ++i)
      dx[begin + i] = rstd * (dy[begin + i] * weight[i] - x[begin + i] * rstd * mean)
  }
  return { dx, dWeight }
}

/** x [T, numHeads · headDim]; cosines and sines [P, headDim / 2] */
export function rope(
  x: Values,
  positions: Values,
  cosines: Values,
  sines: Values,
  numHeads: number,
): Float64Array {
  const numTokens = positions.length
  const headDim = x.length / numTokens / numHeads
  const half = headDim / 2
  const y = new Float64Array(x.length)
  for (let t = 0; t < numTokens; ++t)
    for (let head = 0; head < numHeads; ++head)
      for (let i = 0; i < half; ++i) {
        const begin = (t * numHeads + head) * headDim
        const [cosine, sine] = [cosines[positions[t] * half + i], sines[positions[t] * half + i]]
        const [a, b] = [x[begin + i], x[begin + half + i]]
        y[begin + i] = a * cosine - b * sine
        y[begin + half + i] = b * cosine + a * sine
      }
  return y
}

export interface AttentionSizes {
  readonly numHeads: number
  readonly numKeyValueHeads: number
  readonly headDim: number
}

/** Calls back with the softmax weights of each row and head over the rows from the start of its sequence to itself. */
function eachAttentionRow(
  q: Values,
  k: Values,
  cuSeqlens: Values,
  { numHeads, numKeyValueHeads, headDim }: AttentionSizes,
  visit: (row: number, head: number, first: number, weights: Float64Array) => void,
): void {
  for (let sequence = 0; sequence + 1 < cuSeqlens.length; ++sequence)
    for (let row = cuSeqlens[sequence]; row < cuSeqlens[sequence + 1]; ++row)
      for (let head = 0; head < numHeads; ++head) {
        const first = cuSeqlens[sequence]
        const keyHead = Math.floor((head * numKeyValueHeads) / numHeads)
        const scores = new Float64Array(row - first + 1)
        for (let j = first; j <= row; ++j) {
          let score = 0
          for (let d = 0; d < headDim; ++d)
            score +=
              q[(row * numHeads + head) * headDim + d] *
              k[(j * numKeyValueHeads + keyHead) * headDim + d]
          scores[j - first] = score / Math.sqrt(headDim)
        }
        const largest = Math.max(...scores)
        let sum = 0
        for (const score of scores) sum += Math.exp(score - largest)
        visit(
          row,
          head,
          first,
          scores.map((score) => Math.exp(score - largest) / sum),
        )
      }
}

export function attention(
  q: Values,
  k: Values,
  v: Values,
  cuSeqlens: Values,
  sizes: AttentionSizes,
): Float64Array {
  const { numHeads, numKeyValueHeads, headDim } = sizes
  const o = new Float64Array(q.length)
  eachAttentionRow(q, k, cuSeqlens, sizes, (row, head, first, weights) => {
    const keyHead = Math.floor((head * numKeyValueHeads) / numHeads)
    weights.forEach((weight, j) => {
      for (let d = 0; d < headDim; ++d)
        o[(row * numHeads + head) * headDim + d] +=
          weight * v[((first + j) * numKeyValueHeads + keyHead) * headDim + d]
    })
  })
  return o
}

/** With weights p and dP = dO v: dS = p (dP - Σ p dP), of which dq and dk are products (the softmax's derivative). */
export function attentionBackward(
  q: Values,
  k: Values,
  v: Values,
  dO: Values,
  cuSeqlens: Values,
  sizes: AttentionSizes,
): { dq: Float64Array; dk: Float64Array; dv: Float64Array } {
  const { numHeads, numKeyValueHeads, headDim } = sizes
  const [dq, dk, dv] = [q, k, v].map((values) => new Float64Array(values.length))
  eachAttentionRow(q, k, cuSeqlens, sizes, (row, head, first, weights) => {
    const keyHead = Math.floor((head * numKeyValueHeads) / numHeads)
    const query = (row * numHeads + head) * headDim
    const key = (j: number) => ((first + j) * numKeyValueHeads + keyHead) * headDim
    const dWeights = weights.map((_, j) => {
      let sum = 0
      for (let d = 0; d < headDim; ++d) sum += dO[query + d] * v[key(j) + d]
      return sum
    })
    const mean = weights.reduce((sum, weight, j) => sum + weight * dWeights[j], 0)
    weights.forEach((weight, j) => {
      const dScore = (weight * (dWeights[j] - mean)) / Math.sqrt(headDim)
      for (let d = 0; d < headDim; ++d) {
        dq[query + d] += dScore * k[key(j) + d]
        dk[key(j) + d] += dScore * q[query + d]
        dv[key(j) + d] += weight * dO[query + d]
      }
    })
  })
  return { dq, dk, dv }
}

export const sigmoid = (x: number) => 1 / (1 + Math.exp(-x))

export function swiglu(gate: Values, up: Values): Float64Array {
  return combine((g, u) => g * sigmoid(g) * u, gate, up)
}

/** -log p(label) of each given row of x [T, D] under the head [V, D]. */
export function crossEntropy(
  x: Values,
  head: Values,
  columns: number,
  rows: Values,
  labels: Values,
): Float64Array {
  const vocabulary = head.length / columns
  const picked = takeRows(x, columns, Array.from(rows))
  const logits = productNT(picked, head, rows.length, vocabulary, columns)
  return Float64Array.from({ length: rows.length }, (_, i) => {
    const row = logits.subarray(i * vocabulary, (i + 1) * vocabulary)
    const largest = Math.max(...row)
    let sum = 0
    for (const value of row) sum += Math.exp(value - largest)
    return Math.log(sum) + largest - row[labels[i]]
  })
}

/** Rounds to the nearest bf16, ties to even. */
export function roundToBfloat16(values: Values): Float64Array {
  const floats = Float32Array.from(values)
  const bits = new Uint32Array(floats.buffer)
  for (let i = 0; i < bits.length; ++i)
    bits[i] = (bits[i] + 0x7fff + ((bits[i] >>> 16) & 1)) & 0xffff0000
  return Float64Array.from(floats)
}

export type Named<K extends string> = Readonly<Record<K, Values>>

/**
 * Gradients of Σ_i <cotangents_i, f_i(inputs)> by central differences in float64: f's error of 1e-16 over a step of
 * 1e-5 and the third derivative's 1e-10 stay far below what float32 can show.
 */
export function centralDifferences<K extends string>(
  f: (inputs: Record<K, Float64Array>) => readonly Float64Array[],
  inputs: Named<K>,
  cotangents: readonly Values[],
): Record<K, Float64Array> {
  const step = 1e-5
  const copies = {} as Record<K, Float64Array>
  for (const name of Object.keys(inputs) as K[]) copies[name] = Float64Array.from(inputs[name])
  const value = () =>
    f(copies).reduce(
      (total, output, i) => total + output.reduce((sum, y, j) => sum + y * cotangents[i][j], 0),
      0,
    )
  const gradients = {} as Record<K, Float64Array>
  for (const name of Object.keys(copies) as K[]) {
    const values = copies[name]
    gradients[name] = values.map((original, i) => {
      values[i] = original + step
      const above = value()
      values[i] = original - step
      const below = value()
      values[i] = original
      return (above - below) / (2 * step)
    })
  }
  return gradients
}
