import assert from 'node:assert/strict'
import {
  correctForChance,
  type ItemDifferences,
  mean,
  median,
  pairedDifference,
} from '../../../lib/laws/statistics/index.js'
import { Philox } from '../../../lib/philox.js'

const close = (received: number, expected: number, tolerance: number) => {
  assert.ok(Math.abs(received - expected) <= tolerance, `${received} for ${expected}`)
}

describe('paired differences of arms', () => {
  it('equal the formula worked by hand', () => {
    // Every item of a discipline is the same: no variance of items.
    const of = (...bySeed: number[]): ItemDifferences => ({
      clusters: ['a', 'b', 'c'],
      bySeed: bySeed.map((value) => [value, value, value]),
    })
    const result = pairedDifference([of(0.1, 0.3, 0.2), of(0.3, 0.1, 0.6)])
    assert.deepEqual(
      result.seeds.map((one) => Math.round(1e9 * one) / 1e9),
      [0.2, 0.2, 0.4],
    )
    close(result.estimate, 0.8 / 3, 1e-15)
    close(result.seedVariance!, 0.04 / 3, 1e-15)
    close(result.itemVariance, 0, 1e-25)
    // t(2, .95) = 2.9199855803537256
    close(result.upper! - result.estimate, 2.9199855803537256 * Math.sqrt(0.04 / 9), 1e-14)
    close(result.estimate - result.lower!, result.upper! - result.estimate, 1e-15)
  })

  it('have the variance that clusters give, not that of their items', () => {
    const random = new Philox(3)
    const clusters: number[] = []
    const scores: number[] = []
    const sums: number[] = []
    for (let cluster = 0; cluster < 200; cluster++) {
      const value = random.normal()
      sums.push(value)
      for (let i = 0; i < 5; i++) {
        clusters.push(cluster)
        scores.push(value)
      }
    }
    const { itemVariance } = pairedDifference([{ clusters, bySeed: [scores] }], { resamples: 4000 })
    const expected = mean(sums.map((value) => (value - mean(sums)) ** 2)) / sums.length
    // A variance from 4,000 draws has a relative error of 2.2%.
    close(itemVariance / expected, 1, 0.09)
  })

  it('are the same for the same seed alone, and have no interval from one seed', () => {
    const differences: ItemDifferences[] = [{ clusters: [1, 2, 3], bySeed: [[0, 1, 0.5]] }]
    const one = pairedDifference(differences, { seed: 5 })
    assert.deepEqual(pairedDifference(differences, { seed: 5 }), one)
    assert.notEqual(pairedDifference(differences, { seed: 6 }).itemVariance, one.itemVariance)
    assert.deepEqual([one.lower, one.upper, one.p], [null, null, null])
  })

  it('have a p of 0 or 1 where nothing varies', () => {
    const same = (value: number) => [{ clusters: [1], bySeed: [[value], [value]] }]
    assert.equal(pairedDifference(same(0.5)).p, 0)
    assert.equal(pairedDifference(same(0)).p, 1)
  })

  it('refuse what is not of one shape', () => {
    const bad: ItemDifferences[][] = [
      [],
      [{ clusters: [], bySeed: [[]] }],
      [{ clusters: [1], bySeed: [] }],
      [{ clusters: [1], bySeed: [[1], [1, 2]] }],
      [
        { clusters: [1], bySeed: [[1]] },
        { clusters: [1], bySeed: [[1], [2]] },
      ],
    ]
    for (const one of bad)
      assert.throws(() => pairedDifference(one), { code: 'ERR_POLYLORA_ARGUMENT' })
  })
})

describe('scores', () => {
  it('are 0 for guessing and 1 for a right answer', () => {
    assert.equal(correctForChance(1, 0.25), 1)
    close(mean([1, 0, 0, 0].map((score) => correctForChance(score, 0.25))), 0, 1e-15)
    assert.equal(correctForChance(0, 0), 0)
  })

  it('have a median', () => {
    assert.equal(median([3, 1, 2]), 2)
    assert.equal(median([4, 1, 3, 2]), 2.5)
    assert.equal(median(Array.from({ length: 101 }, (_, i) => (i * 37) % 101)), 50)
  })
})
