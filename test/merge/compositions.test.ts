import assert from 'node:assert/strict'
import { ConfigError } from '../../lib/errors.js'
import { assertClose } from '../compare.js'
import { type Case, merged, randomCase } from './task-tensor.js'

// Results are rounded to float32 once; the formulas below are float64 over the same float32 inputs.
const tolerance = 1e-7

const shape = [5, 13] as const
const weights = [0.6, -0.3, 1.1]
const common = { normalize: 0, rescale: 0, lambda: 1 }
const each = (more: Record<string, number> = {}) => weights.map((weight) => ({ weight, ...more }))

/** The places of the elements from the largest magnitude down; of equal ones the earlier first. */
function byMagnitude(values: ArrayLike<number>): number[] {
  return Array.from(values, (_, i) => i).sort(
    (a, b) => Math.abs(values[b]) - Math.abs(values[a]) || a - b,
  )
}

function keepOnly(values: Float32Array, places: readonly number[]): number[] {
  const kept = new Set(places)
  return Array.from(values, (value, i) => (kept.has(i) ? value : 0))
}

/** W0 + lambda Σ w τ, elected and normalized as the parameters say, element by element. */
function combine(one: Case, deltas: readonly (readonly number[])[], elect: boolean): number[] {
  const { normalize, lambda } = one.parameters
  return Array.from(one.base, (base, i) => {
    const votes = deltas.map((delta, m) => one.each[m].weight * delta[i])
    const sign = votes.reduce((a, b) => a + b, 0) >= 0 ? 1 : -1
    const counts = votes.map((vote) => !elect || Math.sign(vote) === sign)
    const mixed = votes.reduce((sum, vote, m) => sum + (counts[m] ? vote : 0), 0)
    const divisor = one.each.reduce((sum, { weight }, m) => sum + (counts[m] ? weight : 0), 0)
    return base + (lambda * mixed) / (normalize && divisor !== 0 ? divisor : 1)
  })
}

const plain = (one: Case) => one.deltas.map((delta) => Array.from(delta))

describe('compositions', () => {
  for (const normalize of [0, 1])
    it(`task_arithmetic adds weighted task vectors, normalize ${normalize}`, async () => {
      const one = randomCase(1, shape, { ...common, normalize, lambda: 0.7 }, each())
      assertClose(await merged('task_arithmetic', one), combine(one, plain(one), false), tolerance)
      assert.deepEqual(await merged('chat_vector', one), await merged('task_arithmetic', one))
    })

  for (const normalize of [0, 1])
    it(`linear averages whole models, normalize ${normalize}`, async () => {
      const one = randomCase(2, shape, { normalize }, each())
      const total = weights.reduce((a, b) => a + b)
      const expected = Array.from(one.base, (base, i) => {
        const sum = one.deltas.reduce((sum, delta, m) => sum + weights[m] * (base + delta[i]), 0)
        return normalize ? sum / total : sum
      })
      assertClose(await merged('linear', one), expected, tolerance)
    })

  it('linear refuses weights that cancel where it would divide by them', async () => {
    const one = randomCase(2, shape, { normalize: 1 }, [{ weight: 1 }, { weight: -1 }])
    await assert.rejects(merged('linear', one), ConfigError)
  })

  for (const density of [0, 1e-9, 0.2, 0.5, 1])
    for (const [name, elect] of [
      ['ties', true],
      ['magnitude_prune', false],
    ] as const)
      it(`${name} keeps the largest ${density}`, async () => {
        const one = randomCase(
          3,
          shape,
          { ...common, normalize: 1, lambda: 1.5 },
          each({ density }),
        )
        const count = density === 0 ? 0 : Math.max(1, Math.floor(density * 65))
        const kept = one.deltas.map((delta) => keepOnly(delta, byMagnitude(delta).slice(0, count)))
        const expected = combine(one, kept, elect)
        for (const rows of [1, 2, 5])
          assertClose(await merged(name, one, rows), expected, tolerance, `${rows} rows at once`)
      })

  it('of equal magnitudes the earlier stay', async () => {
    const one = randomCase(4, [4, 9], common, [{ weight: 1, density: 0.5 }])
    const coarse = one.deltas[0].map((value) => Math.sign(value) * Math.ceil(Math.abs(value) * 10))
    const tied = { ...one, deltas: [coarse] }
    const expected = combine(tied, [keepOnly(coarse, byMagnitude(coarse).slice(0, 18))], false)
    for (const rows of [1, 3])
      assert.deepEqual(await merged('magnitude_prune', tied, rows), Float32Array.from(expected))
  })

  it('rescale gives a pruned task vector its sum of magnitudes back', async () => {
    const one = randomCase(5, shape, { ...common, rescale: 1 }, each({ density: 0.3 }))
    const kept = one.deltas.map((delta) => {
      const part = keepOnly(delta, byMagnitude(delta).slice(0, 19))
      const sum = (values: ArrayLike<number>) =>
        Array.from(values).reduce((sum, value) => sum + Math.abs(value), 0)
      const scale = sum(delta) / sum(part)
      return part.map((value) => value * scale)
    })
    assertClose(await merged('magnitude_prune', one), combine(one, kept, false), tolerance)
  })

  for (const [name, elect] of [
    ['breadcrumbs', false],
    ['breadcrumbs_ties', true],
  ] as const)
    for (const [density, gamma] of [
      [0.4, 0.1],
      [0.9, 0.3],
      [1, 0.2],
    ])
      it(`${name} leaves out ${gamma} of outliers and keeps ${density}`, async () => {
        const one = randomCase(6, shape, common, each({ density, gamma }))
        const kept = one.deltas.map((delta) => {
          if (density === 1) return Array.from(delta)
          const count = Math.floor(density * 65)
          // Fewer outliers go where there would be too little left.
          const top = Math.min(Math.floor(gamma * 65), 65 - count)
          return keepOnly(delta, byMagnitude(delta).slice(top, top + count))
        })
        assertClose(await merged(name, one), combine(one, kept, elect), tolerance)
      })

  for (const [name, elect] of [
    ['dare_linear', false],
    ['dare_ties', true],
  ] as const)
    for (const rescale of [0, 1])
      it(`${name} drops at random, rescale ${rescale}`, async () => {
        const one = randomCase(7, shape, { ...common, rescale }, each({ density: 0.35 }))
        const kept = one.deltas.map((delta, m) =>
          Array.from(delta, (value, i) =>
            one.draws[m][i] < 0.35 ? (rescale ? value / 0.35 : value) : 0,
          ),
        )
        for (const rows of [1, 4])
          assertClose(await merged(name, one, rows), combine(one, kept, elect), tolerance)
      })

  for (const [name, elect] of [
    ['della_linear', false],
    ['della', true],
  ] as const)
    for (const rescale of [0, 1])
      it(`${name} drops by rank within a row, rescale ${rescale}`, async () => {
        const [density, epsilon] = [0.5, 0.2]
        const one = randomCase(8, shape, { ...common, rescale }, each({ density, epsilon }))
        const kept = one.deltas.map((delta, m) => {
          const result: number[] = []
          for (let row = 0; row < 5; row++) {
            const values = delta.slice(row * 13, row * 13 + 13)
            const order = Array.from(values, (_, i) => i).sort(
              (a, b) => Math.abs(values[a]) - Math.abs(values[b]) || a - b,
            )
            values.forEach((value, column) => {
              const keep = density - epsilon + (2 * epsilon * order.indexOf(column)) / 12
              const stays = one.draws[m][row * 13 + column] < keep
              result.push(stays ? (rescale ? value / keep : value) : 0)
            })
          }
          return result
        })
        assertClose(await merged(name, one), combine(one, kept, elect), tolerance)
      })

  it('della refuses an epsilon that leaves no probability', async () => {
    const one = randomCase(8, shape, common, [{ weight: 1, density: 0.9, epsilon: 0.15 }])
    await assert.rejects(merged('della', one), /epsilon/)
  })

  it('slerp goes along the arc between base and model, and between two task vectors', async () => {
    const arc = (a: number[], b: number[], t: number) => {
      const dot = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * y[i], 0)
      const angle = Math.acos(dot(a, b) / Math.sqrt(dot(a, a) * dot(b, b)))
      return a.map(
        (value, i) =>
          (Math.sin((1 - t) * angle) * value + Math.sin(t * angle) * b[i]) / Math.sin(angle),
      )
    }
    const one = randomCase(9, shape, { t: 0.3 }, [{}])
    const base = Array.from(one.base)
    const other = base.map((value, i) => value + one.deltas[0][i] * 5)
    const far = { ...one, deltas: [one.deltas[0].map((value) => value * 5)] }
    assertClose(await merged('slerp', far), arc(base, other, 0.3), 3e-7)
    const two = randomCase(10, shape, { t: 0.8 }, [{}, {}])
    const between = arc(Array.from(two.deltas[0]), Array.from(two.deltas[1]), 0.8)
    const expected = between.map((value, i) => two.base[i] + value)
    assertClose(await merged('slerp', two), expected, tolerance)
  })

  it('slerp is linear where the two are parallel or one is nothing', async () => {
    const one = randomCase(11, shape, { t: 0.25 }, [{}, {}])
    const parallel = { ...one, deltas: [one.deltas[0], one.deltas[0].map((value) => 2 * value)] }
    const expected = Array.from(one.base, (base, i) => base + 1.25 * one.deltas[0][i])
    assertClose(await merged('slerp', parallel), expected, tolerance)
    const zero = { ...one, deltas: [new Float32Array(65), new Float32Array(65)] }
    assert.deepEqual(await merged('slerp', zero), one.base)
  })

  for (const filter_wise of [0, 1])
    it(`model_stock weighs the mean by the angle, filter_wise ${filter_wise}`, async () => {
      const one = randomCase(12, shape, { filter_wise }, [{}, {}, {}])
      // Fine-tuned models share much of their way.
      const shared = one.deltas.map((delta) => delta.map((value, i) => value + 0.5 * one.base[i]))
      const alike = { ...one, deltas: shared }
      const ratio = (begin: number, end: number) => {
        const parts = shared.map((delta) => Array.from(delta.slice(begin, end)))
        const dot = (x: number[], y: number[]) => x.reduce((sum, value, i) => sum + value * y[i], 0)
        const cosines = [
          [0, 1],
          [0, 2],
          [1, 2],
        ].map(
          ([a, b]) =>
            dot(parts[a], parts[b]) / Math.sqrt(dot(parts[a], parts[a]) * dot(parts[b], parts[b])),
        )
        const cosine = (cosines[0] + cosines[1] + cosines[2]) / 3
        return (3 * cosine) / (1 + 2 * cosine)
      }
      const expected = Array.from(one.base, (base, i) => {
        const row = Math.floor(i / 13)
        const t = filter_wise ? ratio(row * 13, row * 13 + 13) : ratio(0, 65)
        return base + (t * (shared[0][i] + shared[1][i] + shared[2][i])) / 3
      })
      assertClose(await merged('model_stock', alike), expected, tolerance)
    })

  it('model_stock keeps the base where the models oppose each other', async () => {
    const one = randomCase(13, shape, { filter_wise: 0 }, [{}, {}])
    const opposed = { ...one, deltas: [one.deltas[0], one.deltas[0].map((value) => -value)] }
    assert.deepEqual(await merged('model_stock', opposed), one.base)
  })

  for (const select_topk of [1, 0.4, 0])
    it(`sce selects ${select_topk} by variance, weighs by squares and erases minorities`, async () => {
      // As small as task vectors are: their squares are no reason to give up weighing.
      const one = randomCase(14, shape, { select_topk }, [{}, {}, {}])
      const deltas = one.deltas.map((delta) => delta.map((value) => value * 1e-3))
      const small = { ...one, deltas, base: one.base.map((value) => value * 1e-3) }
      const variance = Float32Array.from(deltas[0], (_, i) => {
        const values = deltas.map((delta) => delta[i])
        const mean = values.reduce((a, b) => a + b) / 3
        return values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / 3
      })
      const varying = variance.filter((value) => value > 0).length
      const chosen = byMagnitude(variance).slice(0, Math.floor(select_topk * varying))
      const kept = deltas.map((delta) =>
        select_topk === 1 ? Array.from(delta) : keepOnly(delta, chosen),
      )
      const squares = kept.map((delta) => delta.reduce((sum, value) => sum + value ** 2, 0))
      const total = squares.reduce((a, b) => a + b)
      const share = squares.map((square) => (total > 0 ? square / total : 1 / 3))
      const expected = Array.from(small.base, (base, i) => {
        const sign = kept.reduce((sum, delta) => sum + delta[i], 0) >= 0 ? 1 : -1
        const counts = kept.map((delta) => Math.sign(delta[i]) === sign)
        const mixed = kept.reduce((sum, d, m) => sum + (counts[m] ? share[m] * d[i] : 0), 0)
        const divisor = share.reduce((sum, value, m) => sum + (counts[m] ? value : 0), 0)
        return base + (divisor > 0 ? mixed / divisor : 0)
      })
      assertClose(await merged('sce', small), expected, tolerance)
    })

  it('fisher weighs every element by its information', async () => {
    const one = randomCase(16, shape, {}, each())
    const positive = { ...one, each: [{ weight: 1 }, { weight: 0.5 }, { weight: 2 }] }
    const expected = Array.from(one.base, (base, i) => {
      const importance = one.information.map((f, m) => positive.each[m].weight * f[i])
      const total = importance.reduce((a, b) => a + b)
      return base + one.deltas.reduce((sum, d, m) => sum + (importance[m] * d[i]) / total, 0)
    })
    assertClose(await merged('fisher', positive), expected, tolerance)
    // Where nothing is known the models count by their weights.
    const unknown = { ...positive, information: one.deltas.map(() => new Float32Array(65)) }
    const mean = Array.from(
      one.base,
      (base, i) =>
        base + one.deltas.reduce((s, d, m) => s + positive.each[m].weight * d[i], 0) / 3.5,
    )
    assertClose(await merged('fisher', unknown), mean, tolerance)
  })

  it('passthrough scales one model', async () => {
    const one = randomCase(15, shape, {}, [{ scale: 0.5 }])
    const expected = Array.from(one.base, (base, i) => 0.5 * (base + one.deltas[0][i]))
    assertClose(await merged('passthrough', one), expected, tolerance)
  })
})
