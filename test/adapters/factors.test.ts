import assert from 'node:assert/strict'
import { it } from 'mocha'
import { eigen, orthonormalColumns, singularTriplets } from '../../lib/adapters/factors.js'
import type { Device } from '../../lib/device.js'
import { scope } from '../../lib/scope.js'
import { Tensor } from '../../lib/tensor.js'
import { Weight, type WeightOptions } from '../../lib/weight.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'

interface Matrix {
  readonly rows: number
  readonly columns: number
  readonly values: Float32Array
  /** Its singular values, largest first. */
  readonly exact: readonly number[]
}

/** U diag(s) Vᵀ, rounded to float32; U and V are products of reflections. */
function withSpectrum(rows: number, columns: number, s: readonly number[], seed: number): Matrix {
  const random = new Random(seed)
  const x = new Float64Array(rows * columns)
  s.forEach((value, i) => (x[i * columns + i] = value))
  for (let k = 0; k < 4; k++) {
    const [left, right] = [unit(random.normal(rows)), unit(random.normal(columns))]
    for (let j = 0; j < columns; j++) {
      let along = 0
      for (let i = 0; i < rows; i++) along += left[i] * x[i * columns + j]
      for (let i = 0; i < rows; i++) x[i * columns + j] -= 2 * along * left[i]
    }
    for (let i = 0; i < rows; i++) {
      const row = x.subarray(i * columns, (i + 1) * columns)
      const along = dot(row, right)
      for (let j = 0; j < columns; j++) row[j] -= 2 * along * right[j]
    }
  }
  return { rows, columns, values: Float32Array.from(x), exact: s }
}

function unit(x: ArrayLike<number>): Float64Array {
  const length = Math.sqrt(dot(x, x))
  return Float64Array.from(x, (value) => value / length)
}

function dot(x: ArrayLike<number>, y: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < x.length; i++) sum += x[i] * y[i]
  return sum
}

/** In float64. */
function times({ rows, columns, values }: Matrix, v: ArrayLike<number>): Float64Array {
  return Float64Array.from({ length: rows }, (_, i) =>
    dot(values.subarray(i * columns, (i + 1) * columns), v),
  )
}

/** Normal numbers, and their singular values by Jacobi in float64. */
function noise(rows: number, columns: number, seed: number): Matrix {
  const values = new Random(seed).normal(rows * columns, 1)
  const lines =
    rows <= columns
      ? Array.from({ length: rows }, (_, i) => values.subarray(i * columns, (i + 1) * columns))
      : Array.from({ length: columns }, (_, j) => values.filter((_, at) => at % columns === j))
  const exact = eigen(lines.map((line) => lines.map((other) => dot(line, other))))
    .values.sort((x, y) => y - x)
    .map((value) => Math.sqrt(Math.max(0, value)))
  return { rows, columns, values, exact }
}

async function withWeight<Result>(
  device: Device,
  { rows, columns, values }: Matrix,
  { compute = 'f32', storage = 'f32' }: Pick<WeightOptions, 'compute' | 'storage'>,
  body: (weight: Weight) => Promise<Result>,
): Promise<Result> {
  using weight = Weight.create(device, { rows, columns, compute, storage })
  scope(() => weight.update(Tensor.from(device, values, [rows, columns])))
  return await body(weight)
}

const decaying = Array.from({ length: 60 }, (_, i) => 5 * 0.8 ** i)
// Five that are equal where the cut is, and a tail that is close behind.
const clustered = Array.from({ length: 81 }, (_, i) => (i < 6 ? 10 - i : i < 11 ? 3 : 2.8))
const matrices: Readonly<Record<string, Matrix>> = {
  'values that decay': withSpectrum(130, 71, decaying, 1),
  'more columns than rows': withSpectrum(67, 131, decaying, 2),
  'a cluster at the cut': withSpectrum(81, 130, clustered, 3),
  'fewer directions than asked for': withSpectrum(40, 50, [3, 2, 1], 4),
  noise: noise(260, 53, 5),
  'a single row': noise(1, 9, 6),
  zeros: withSpectrum(30, 40, [], 7),
}
const count = 8

forEachDevice('factors of a weight', (context) => {
  for (const [title, matrix] of Object.entries(matrices))
    it(`are its largest singular triplets: ${title}`, async () => {
      const { device } = context
      const { rows, columns, exact } = matrix
      const { u, s, v } = await withWeight(device, matrix, {}, (weight) =>
        singularTriplets(weight, count),
      )
      // What a float32 sum of as many products is off by, as part of the largest value: 4 where the iteration ends, and
      // one more for the factors themselves.
      const tolerance = 5 * 2 ** -24 * Math.sqrt(Math.max(rows, columns)) * (exact[0] ?? 0)
      assert.deepEqual([u.length, s.length, v.length], [count, count, count])
      for (let i = 0; i < count; i++) {
        const expected = exact[i] ?? 0
        assert.ok(Math.abs(s[i] - expected) <= tolerance, `value ${i}: ${s[i]}, not ${expected}`)
        if (!(expected > 1e-3 * exact[0])) continue
        const image = times(matrix, v[i])
        const off = Math.hypot(...image.map((value, k) => value - s[i] * u[i][k]))
        assert.ok(off <= tolerance, `W v_${i} is ${off} off σ u_${i}, of ${tolerance}`)
        for (let j = 0; j <= i; j++) {
          assert.ok(Math.abs(dot(u[i], u[j]) - Number(i === j)) < 1e-9, `u_${i} and u_${j}`)
          assert.ok(Math.abs(dot(v[i], v[j]) - Number(i === j)) < 1e-9, `v_${i} and v_${j}`)
        }
      }
    })

  it('are those of the weight itself where its products round to bf16', async () => {
    const { device } = context
    const matrix = matrices['values that decay']
    const found = (compute: 'f32' | 'bf16') =>
      withWeight(device, matrix, { compute, storage: 'bf16' }, async (weight) => ({
        ...(await singularTriplets(weight, 3)),
        ...(await orthonormalColumns(weight, 3)),
      }))
    assert.deepEqual(await found('bf16'), await found('f32'))
  })
})
