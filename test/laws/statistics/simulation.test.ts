import assert from 'node:assert/strict'
import {
  contrastVerdict,
  type ItemDifferences,
  lawVerdict,
  pairedDifference,
} from '../../../lib/laws/statistics/index.js'
import { Philox } from '../../../lib/philox.js'

/** Differences are fractions, as scores are. */
const delta = 0.02

interface World {
  /** True difference. */
  readonly effect: number
  /** Standard deviations: between seeds, between clusters, and of an item at a seed. */
  readonly ofSeeds: number
  readonly ofClusters: number
  readonly ofItems: number
}

const numSeeds = 5
const disciplines = 5
const clustersEach = 30
const itemsEach = 2

/** One study's differences, of three contrasts of these true effects. */
function simulate(world: World, random: Philox): ItemDifferences[] {
  const bySeed = Array.from({ length: numSeeds }, () => world.ofSeeds * random.normal())
  return Array.from({ length: disciplines }, () => {
    const clusters: number[] = []
    const scores: number[][] = bySeed.map(() => [])
    for (let cluster = 0; cluster < clustersEach; cluster++) {
      const own = world.ofClusters * random.normal()
      for (let item = 0; item < itemsEach; item++) {
        clusters.push(cluster)
        bySeed.forEach((shift, s) => {
          scores[s].push(world.effect + shift + own + world.ofItems * random.normal())
        })
      }
    }
    return { clusters, bySeed: scores }
  })
}

const estimate = (world: World, random: Philox, seed: number) =>
  pairedDifference(simulate(world, random), { resamples: 100, seed })

// What answers that are right or wrong give: an item's difference at a seed has a deviation of about a half.
const noise = { ofSeeds: 0.02, ofClusters: 0.1, ofItems: 0.3 }

describe('the machinery of verdicts, by simulation', function () {
  this.timeout(600_000)

  it('has 90% intervals that cover 87 to 93% at five seeds, and more where items are what varies', () => {
    const coverage = (world: World, studies: number) => {
      const random = new Philox(11)
      let covered = 0
      for (let study = 0; study < studies; study++) {
        const { lower, upper } = estimate(world, random, study)
        if (lower! <= world.effect && world.effect <= upper!) covered++
      }
      return covered / studies
    }
    // Where seeds vary most; 1,000 studies: ± 0.95 points.
    const bySeeds = coverage({ effect: 0.03, ofSeeds: 0.03, ofClusters: 0.05, ofItems: 0.1 }, 1000)
    assert.ok(bySeeds >= 0.87 && bySeeds <= 0.93, `seeds: ${bySeeds}`)
    // The variance of items is then counted by the t of few seeds, and an item's noise at a seed twice: wider, never narrower.
    const byItems = coverage({ effect: 0, ofSeeds: 0.002, ofClusters: 0.4, ofItems: 0.1 }, 200)
    assert.ok(byItems >= 0.87, `items: ${byItems}`)
  })

  it('declares a law without a true effect to hold in at most 5% of studies', () => {
    // The hardest case: two of three contrasts are large, the third is nothing.
    const random = new Philox(12)
    const studies = 400
    let holds = 0
    let wrongContrasts = 0
    for (let study = 0; study < studies; study++) {
      const verdicts = [3 * delta, 3 * delta, 0].map((effect, c) =>
        contrastVerdict(estimate({ ...noise, effect }, random, 3 * study + c), delta),
      )
      if (verdicts[2] === 'holds') wrongContrasts++
      if (lawVerdict(verdicts, true) === 'holds') holds++
    }
    assert.ok(holds <= 0.05 * studies, `${holds} of ${studies} laws`)
    assert.ok(wrongContrasts <= 0.05 * studies, `${wrongContrasts} of ${studies} contrasts`)
  })

  it('finds an effect of three times delta, and does not say that it is absent', () => {
    const random = new Philox(13)
    const studies = 200
    const counts = { holds: 0, 'does not hold': 0, undecided: 0 }
    for (let study = 0; study < studies; study++)
      counts[
        lawVerdict(
          [0, 1, 2].map((c) =>
            contrastVerdict(
              estimate({ ...noise, ofSeeds: 0.01, effect: 3 * delta }, random, 3 * study + c),
              delta,
            ),
          ),
          true,
        )
      ]++
    assert.ok(counts.holds >= 0.9 * studies, JSON.stringify(counts))
    assert.equal(counts['does not hold'], 0, JSON.stringify(counts))
  })

  it('rarely says that an effect of delta is absent', () => {
    const random = new Philox(14)
    const studies = 300
    let wrong = 0
    for (let study = 0; study < studies; study++)
      if (
        contrastVerdict(estimate({ ...noise, effect: delta }, random, study), delta) ===
        'does not hold'
      )
        wrong++
    assert.ok(
      wrong <= 0.05 * studies + 3 * Math.sqrt(studies * 0.05 * 0.95),
      `${wrong} of ${studies}`,
    )
  })
})
