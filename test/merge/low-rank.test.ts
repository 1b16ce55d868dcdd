import assert from 'node:assert/strict'
import { ArgumentError } from '../../lib/errors.js'
import { knots } from '../../lib/merge/knots.js'
import { concatenate, type LowRank, truncate } from '../../lib/merge/low-rank.js'
import { regMean } from '../../lib/merge/regmean.js'
import { assertClose } from '../compare.js'
import { goldenJson, goldenTensors } from '../golden-files.js'
import { Random } from '../random.js'
import { product } from './adapter-folders.js'

const [rows, columns] = [7, 11]

function randomFactors(random: Random, rank: number): LowRank {
  return {
    rank,
    b: Float64Array.from(random.normal(rows * rank)),
    a: Float64Array.from(random.normal(rank * columns)),
  }
}

function dense({ a, b, rank }: LowRank, scale = 1): Float64Array {
  return product(b, a, b.length / rank, rank, a.length / rank, scale)
}

function add(matrices: readonly Float64Array[]): Float64Array {
  return matrices[0].map((_, i) => matrices.reduce((sum, one) => sum + one[i], 0))
}

function energyOf(matrix: Float64Array): number {
  return matrix.reduce((sum, value) => sum + value * value, 0)
}

describe('low-rank compositions', () => {
  it('cat is the weighted sum; a shared A is taken once', () => {
    const random = new Random(1)
    const one = randomFactors(random, 2)
    const two = randomFactors(random, 3)
    const three = { ...randomFactors(random, 2), a: Float64Array.from(one.a) }
    const merged = concatenate([one, two, three], [0.5, -1, 2])
    assert.equal(merged.rank, 5)
    assertClose(dense(merged), add([dense(one, 0.5), dense(two, -1), dense(three, 2)]), 1e-14)
    const shared = concatenate([one, three], [1, 1])
    assert.equal(shared.rank, 2)
    // With one A, merging is adding in B: not even rounding is lost.
    assert.deepEqual(shared.a, one.a)
    assert.deepEqual(
      shared.b,
      one.b.map((value, i) => value + three.b[i]),
    )
  })

  it('svd keeps the largest singular values and says what it loses', () => {
    const random = new Random(2)
    const sum = concatenate([randomFactors(random, 3), randomFactors(random, 2)], [1, 1])
    const exact = dense(sum)
    assertClose(dense(truncate(sum, 5).factors), exact, 1e-12)
    let last = 1
    for (const rank of [1, 2, 3, 4]) {
      const { factors, lost } = truncate(sum, rank)
      assert.equal(factors.rank, rank)
      const rest = dense(factors).map((value, i) => exact[i] - value)
      assertClose([energyOf(rest) / energyOf(exact)], [lost], 1e-9)
      assert.ok(lost < last)
      last = lost
      // Nothing of what is left lies along what was kept: the singular vectors are right.
      const kept = dense(factors)
      for (let i = 0; i < rows; i++)
        for (let k = 0; k < rows; k++) {
          let along = 0
          for (let j = 0; j < columns; j++) along += kept[i * columns + j] * rest[k * columns + j]
          assert.ok(Math.abs(along) < 1e-9 * energyOf(exact))
        }
    }
  })

  it('svd of more ranks than the layer has, and of twice the same, still holds', () => {
    const random = new Random(3)
    const one = randomFactors(random, 6)
    const sum = concatenate(
      [one, randomFactors(random, 5), { ...one, a: one.a.map((v) => -v) }],
      [1, 1, 0.5],
    )
    assert.equal(sum.rank, 17)
    const { factors, lost } = truncate(sum, 17)
    assert.ok(factors.rank <= 17)
    assertClose(dense(factors), dense(sum), 1e-7)
    assert.ok(lost < 1e-12)
    const nothing = truncate({ rank: 2, a: new Float64Array(22), b: new Float64Array(14) }, 1)
    assert.deepEqual([...new Set(dense(nothing.factors))], [0])
    assert.equal(nothing.lost, 0)
  })

  it('knots merges right singular vectors that speak of the same directions', async () => {
    const random = new Random(4)
    const factors = [randomFactors(random, 2), randomFactors(random, 3)]
    const each = [
      { weight: 1, density: 1 },
      { weight: 1, density: 1 },
    ]
    const parameters = { lambda: 1, normalize: 0, rescale: 0 }
    const merged = dense(await knots(factors, parameters, each))
    // Uᵀ ΔW_i = Σ V_iᵀ for the eigenvectors U of Σ ΔW_i ΔW_iᵀ, found here by orthogonal iteration on the whole matrices.
    const deltas = factors.map((one) => dense(one))
    const directions = leftVectors(deltas, 5)
    const expected = new Float64Array(rows * columns)
    for (const u of directions)
      for (let j = 0; j < columns; j++) {
        const along = deltas.map((delta) =>
          u.reduce((sum, value, i) => sum + value * delta[i * columns + j], 0),
        )
        // Elementwise on V: the common factor of a direction changes no sign.
        const sign = along[0] + along[1] >= 0 ? 1 : -1
        const elected = along.filter((value) => value * sign > 0).reduce((x, y) => x + y, 0)
        for (let i = 0; i < rows; i++) expected[i * columns + j] += u[i] * elected
      }
    assertClose(merged, expected, 1e-6)
  })

  it('regmean solves the least squares over all inputs', () => {
    const random = new Random(5)
    const factors = [randomFactors(random, 2), randomFactors(random, 3)]
    const inputs = [random.normal(20 * columns), random.normal(15 * columns)]
    const grams = inputs.map((x) => gramOf(x))
    const merged = dense(regMean(factors, grams, 1))
    // The gradient of Σ |X_i (W - W_i)ᵀ|² is zero: Σ (W - W_i) G_i = 0.
    const residual = add(
      factors.map((one, i) => {
        const delta = dense(one)
        const difference = merged.map((value, k) => value - delta[k])
        return product(difference, grams[i], rows, columns, columns)
      }),
    )
    const scale = Math.sqrt(energyOf(product(merged, grams[0], rows, columns, columns)))
    assert.ok(Math.sqrt(energyOf(residual)) < 1e-10 * scale)
    // One model, or one model twice, is itself, however its inputs are scaled beside the diagonal.
    assertClose(dense(regMean([factors[0]], [grams[0]])), dense(factors[0]), 1e-10)
  })

  it('regmean refuses Gram matrices that are missing or cannot be inverted', () => {
    const random = new Random(6)
    const factors = [randomFactors(random, 2)]
    assert.throws(() => regMean(factors, []), ArgumentError)
    assert.throws(() => regMean(factors, [gramOf(random.normal(3 * columns))], 1), /singular/)
  })
})

describe('add_weighted_adapter of PEFT', () => {
  const tensors = goldenTensors('merging/peft.safetensors')
  const { adapters, weights } = goldenJson<{
    adapters: Record<string, { r: number; lora_alpha: number; use_rslora?: boolean }>
    weights: number[]
  }>('merging/peft.json')

  const ours = (kind: string) => {
    const { r, lora_alpha: alpha, use_rslora: rsLora } = adapters[kind]
    const scale = alpha / (rsLora ? Math.sqrt(r) : r)
    const factors = ['first', 'second'].map((name): LowRank => {
      const b = tensors.get(`${kind}.${name}.lora_B`)!.values
      const a = tensors.get(`${kind}.${name}.lora_A`)!.values
      return { rank: r, a: Float64Array.from(a), b: Float64Array.from(b, (v) => v * scale) }
    })
    const exact = add(factors.map((one, i) => dense(one, weights[i])))
    return { exact, merged: concatenate(factors, weights) }
  }
  /** The distance from the exact answer, and how much too large. */
  const compare = (actual: ArrayLike<number>, exact: Float64Array) => {
    const difference = exact.map((value, i) => actual[i] - value)
    const along = exact.reduce((sum, value, i) => sum + value * actual[i], 0)
    return {
      distance: Math.sqrt(energyOf(difference) / energyOf(exact)),
      scale: along / energyOf(exact),
    }
  }
  const peer = (kind: string, name: string) => tensors.get(`${kind}.${name}`)!.values

  it('is right for cat and svd of plain LoRA, and so are we', () => {
    const { exact, merged } = ours('plain')
    assert.ok(compare(dense(merged), exact).distance < 1e-12)
    for (const combination of ['cat', 'svd'])
      assert.ok(compare(peer('plain', combination), exact).distance < 1e-6, combination)
    assert.ok(compare(dense(truncate(merged, 6).factors), exact).distance < 1e-7)
  })

  it('linear mixes the factors of different adapters; ours does not', () => {
    const { exact, merged } = ours('plain')
    const { distance } = compare(peer('plain', 'linear'), exact)
    // (√w1 A1 + √w2 A2) and the same of B multiply into cross-terms: 92 % of the right answer's norm away from it.
    assert.ok(distance > 0.9 && distance < 0.93, String(distance))
    assert.ok(compare(dense(merged), exact).distance < 1e-12)
  })

  it('scales rsLoRA again by the square root of the new rank; ours does not', () => {
    const { exact, merged } = ours('rslora')
    for (const combination of ['cat', 'svd']) {
      const { scale } = compare(peer('rslora', combination), exact)
      assert.ok(Math.abs(scale - Math.sqrt(8)) < 1e-5, `${combination}: ${scale}`)
    }
    assert.ok(compare(dense(merged), exact).distance < 1e-12)
    assert.ok(compare(dense(truncate(merged, 8).factors), exact).distance < 1e-7)
  })
})

function gramOf(x: ArrayLike<number>): Float64Array {
  const gram = new Float64Array(columns * columns)
  for (let t = 0; t < x.length / columns; t++)
    for (let i = 0; i < columns; i++)
      for (let j = 0; j < columns; j++)
        gram[i * columns + j] += x[t * columns + i] * x[t * columns + j]
  return gram
}

/** Eigenvectors of Σ M Mᵀ by power iteration with deflation. */
function leftVectors(matrices: readonly Float64Array[], count: number): number[][] {
  const total = Array.from({ length: rows }, (_, i) =>
    Array.from({ length: rows }, (_, k) => {
      let sum = 0
      for (const matrix of matrices)
        for (let j = 0; j < columns; j++) sum += matrix[i * columns + j] * matrix[k * columns + j]
      return sum
    }),
  )
  const found: number[][] = []
  for (let k = 0; k < count; k++) {
    let u = Array.from({ length: rows }, (_, i) => Math.sin(i + k + 1))
    for (let step = 0; step < 20_000; step++) {
      u = total.map((row) => row.reduce((sum, value, i) => sum + value * u[i], 0))
      for (const other of found) {
        const along = u.reduce((sum, value, i) => sum + value * other[i], 0)
        u = u.map((value, i) => value - along * other[i])
      }
      const norm = Math.hypot(...u)
      u = u.map((value) => value / norm)
    }
    found.push(u)
  }
  return found
}
