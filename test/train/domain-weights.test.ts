import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { packBatch, type StepPlan } from '../../lib/data/packed-batch.js'
import { difficultyWeight, stageOf } from '../../lib/train/difficulty.js'
import { DomainWeights } from '../../lib/train/domain-weights.js'
import { orderByTransfer } from '../../lib/train/task-order.js'
import { mix } from '../../lib/data/order.js'

const names = ['a', 'b', 'c']

/** A step of one token each for the disciplines given. */
function stepOf(...disciplines: number[]): StepPlan {
  const samples = disciplines.map((discipline, sampleIndex) => ({
    example: { inputIds: Int32Array.of(1, 2), labelMask: Uint8Array.of(0, 1), discipline },
    sampleIndex,
  }))
  return { batches: [packBatch(samples, names)], trainedTokens: disciplines.length }
}

const near = (a: number, b: number) => {
  assert.ok(Math.abs(a - b) < 1e-12, `${a} is not ${b}`)
}

describe("DoReMi's weights", () => {
  it('follow the clipped excess by the formula, smoothed and averaged', () => {
    const weights = new DomainWeights(names, { stepSize: 0.5, smoothing: 0.1 })
    const step = stepOf(0, 1, 1, 0)
    // Token by token: a 1 and -3, clipped to 0, so 0.5; b 2 and 0.25, so 1.125; c has no token.
    weights.update(step, Float32Array.of(3, 2, 0.25, 1), Float32Array.of(2, 0, 0, 4))
    const grown = [Math.exp(0.25), Math.exp(0.5625), 1]
    const sum = grown[0] + grown[1] + grown[2]
    const expected = grown.map((one) => 0.9 * (one / sum) + 0.1 / 3)
    const { labelWeight } = weights.weigh(stepOf(2, 1, 1, 0)).batches[0]
    assert.deepEqual(
      labelWeight,
      Float32Array.of(4 * expected[2], 2 * expected[1], 2 * expected[1], 4 * expected[0]),
    )
    weights.update(stepOf(0), Float32Array.of(1), Float32Array.of(1))
    names.forEach((name, i) => {
      near(weights.mean().get(name)!, (1 / 3 + expected[i]) / 2)
    })
  })

  it('stay a distribution whatever the losses, and pass over a step that is not finite', () => {
    const weights = new DomainWeights(names, { stepSize: 100, smoothing: 1e-3 })
    for (let i = 0; i < 50; i++) {
      const losses = Float32Array.from({ length: 3 }, (_, k) => 1000 * (mix(i, k) / 2 ** 32))
      if (i === 7) losses[1] = NaN
      weights.update(stepOf(0, 1, 2), losses, new Float32Array(3))
      const mean = [...weights.mean().values()]
      near(
        mean.reduce((sum, one) => sum + one, 0),
        1,
      )
      assert.ok(mean.every((one) => one > 0))
    }
  })
})

describe("VL-Cogito's weights", () => {
  it('are sin(πa) on the side that a stage looks at, and 1 on the other', () => {
    const table = [0, 0.25, 0.5, 0.75, 1].map((a) => [
      difficultyWeight(a, 'easy'),
      difficultyWeight(a, 'medium'),
      difficultyWeight(a, 'hard'),
    ])
    const root = Math.SQRT1_2
    const expected = [
      [0, 0, 1],
      [root, root, 1],
      [1, 1, 1],
      [1, root, root],
      [1, 0, 0],
    ]
    table.forEach((row, i) => {
      row.forEach((one, k) => {
        near(one, expected[i][k])
      })
    })
    const stages = Array.from({ length: 9 }, (_, i) => stageOf('progressive', i + 1, 9)[0])
    assert.equal(stages.join(''), 'eeemmmhhh')
    assert.equal(stageOf('progressive', 1, 1), 'easy')
  })
})

describe('the order by backward transfer', () => {
  it('is the best of all permutations', () => {
    for (let trial = 0; trial < 30; trial++) {
      const count = 1 + (trial % 6)
      const disciplines = Array.from({ length: count }, (_, i) => `d${i}`)
      const transfer = disciplines.map((_, i) =>
        disciplines.map((_, j) => mix(trial, i * count + j) / 2 ** 32 - 0.5),
      )
      const value = (order: readonly number[]) =>
        order.reduce(
          (sum, later, at) =>
            order.slice(0, at).reduce((inner, earlier) => inner + transfer[later][earlier], sum),
          0,
        )
      const best = Math.max(...permutations(count).map(value))
      const found = orderByTransfer({ disciplines, transfer }).map((name) => Number(name.slice(1)))
      assert.equal(new Set(found).size, count)
      near(value(found), best)
    }
  })

  it('keeps the order of the matrix where all are equal, and refuses too many', () => {
    const zeros = (count: number) => ({
      disciplines: Array.from({ length: count }, (_, i) => `d${i}`),
      transfer: Array.from({ length: count }, () => new Array<number>(count).fill(0)),
    })
    assert.deepEqual(orderByTransfer(zeros(4)), ['d0', 'd1', 'd2', 'd3'])
    assert.throws(() => orderByTransfer(zeros(17)), /at most 16 disciplines, not for 17/)
  })
})

function permutations(count: number): number[][] {
  if (count === 0) return [[]]
  return permutations(count - 1).flatMap((order) =>
    Array.from({ length: count }, (_, at) => order.toSpliced(at, 0, count - 1)),
  )
}
