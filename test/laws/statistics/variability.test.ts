import assert from 'node:assert/strict'
import { type PairedRuns, variability } from '../../../lib/laws/statistics/index.js'
import { Philox } from '../../../lib/philox.js'

/** Runs whose outcomes share part of their noise over disciplines, as runs of one seed do. */
function simulate(ratio: number, seed: number, runs = 10, level = 0): PairedRuns {
  const random = new Philox(seed)
  const draw = (deviation: number, shift: number) =>
    Array.from({ length: runs }, () => {
      const shared = random.normal()
      return Array.from(
        { length: 5 },
        (_, d) => d + shift + deviation * (1 + d / 4) * (0.6 * shared + 0.8 * random.normal()),
      )
    })
  return { multi: draw(0.1 * ratio, level), single: draw(0.1, 0) }
}

const studies = 100

describe('the test of variability', function () {
  this.timeout(120_000)

  function decisions(ratio: number, level = 0) {
    const counts = { holds: 0, 'does not hold': 0, undecided: 0, covered: 0 }
    for (let seed = 0; seed < studies; seed++) {
      const { verdict, lower, upper } = variability(simulate(ratio, seed, 10, level))
      counts[verdict]++
      if (lower! <= ratio && ratio <= upper!) counts.covered++
    }
    return counts
  }

  it('says that equal spreads differ in at most 5% of studies, also where levels differ', () => {
    for (const level of [0, 3]) {
      const { holds } = decisions(1, level)
      // 5% of 100 and three standard deviations of it: 5 + 6.5.
      assert.ok(holds <= 11, `${holds} of ${studies} at level ${level}`)
    }
  })

  it('finds a spread that is three times as large', () => {
    const counts = decisions(3)
    assert.ok(counts.holds >= 0.9 * studies, JSON.stringify(counts))
    // 90%, less three standard deviations of it.
    assert.ok(counts.covered >= 0.81 * studies, JSON.stringify(counts))
    assert.equal(counts['does not hold'], 0)
  })

  it('says of clearly smaller spreads that it does not hold', () => {
    const counts = decisions(0.5)
    assert.ok(counts['does not hold'] >= 0.9 * studies, JSON.stringify(counts))
    assert.equal(counts.holds, 0)
  })

  it('gives the ratio of the mean absolute deviations', () => {
    const runs = {
      multi: [
        [1, 10],
        [2, 20],
        [5, 30],
      ],
      single: [
        [0, 0],
        [1, 5],
        [2, 10],
      ],
    }
    // Deviations 1, 0, 3 and 10, 0, 10 over 1, 0, 1 and 5, 0, 5.
    const result = variability(runs)
    assert.ok(Math.abs(result.ratio - 2) < 1e-12)
    assert.deepEqual(
      result.byDiscipline.map((one) => Math.round(1e9 * one) / 1e9),
      [2, 2],
    )
    // Eight permutations: nothing below 1/8 can come out.
    assert.ok(result.p! >= 1 / 8)
    assert.equal(result.verdict, 'undecided')
  })

  it('draws permutations where there are too many, by its seed', () => {
    const runs = simulate(2, 1, 14)
    assert.deepEqual(variability(runs, { seed: 4 }), variability(runs, { seed: 4 }))
  })

  it('is undecided without a second run or any spread, and refuses what is not paired', () => {
    assert.equal(variability({ multi: [[1]], single: [[2]] }).verdict, 'undecided')
    const flat = [[1], [1], [1]]
    assert.equal(variability({ multi: flat, single: flat }).verdict, 'undecided')
    for (const runs of [
      { multi: [], single: [] },
      { multi: [[1]], single: [[1], [2]] },
      { multi: [[1, 2]], single: [[1]] },
    ])
      assert.throws(() => variability(runs), { code: 'ERR_POLYLORA_ARGUMENT' })
  })
})
