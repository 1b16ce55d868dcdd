import { ArgumentError } from '../../errors.js'
import { Philox } from '../../philox.js'
import { mean } from './chance.js'
import { upperQuantile, upperTail } from './student-t.js'

/** What two arms (or a weighted sum of arms) differ by on the items of one discipline. */
export interface ItemDifferences {
  /** Items that stand or fall together: of one fact, of one template. */
  readonly clusters: readonly (string | number)[]
  /** For each seed one number an item, in the same order. */
  readonly bySeed: readonly ArrayLike<number>[]
}

export interface Estimate {
  /** Mean over the seeds of the unweighted mean over disciplines. */
  readonly estimate: number
  /** Of the 90% interval; null with fewer than two seeds. */
  readonly lower: number | null
  readonly upper: number | null
  /** One-sided: of a difference at most 0; null with fewer than two seeds. */
  readonly p: number | null
  /** Each seed's difference. */
  readonly seeds: readonly number[]
  /** s², between seeds. */
  readonly seedVariance: number | null
  /** v, of the items. */
  readonly itemVariance: number
}

export interface PairedOptions {
  /** Of the bootstrap over clusters; default 2000. */
  readonly resamples?: number
  /** Of the bootstrap; default 0. */
  readonly seed?: number
}

/** Each side of the interval is left by a true value with this probability. */
const tail = 0.05

/**
 * The difference of arms that share seeds and items: mean ± t(S - 1, .95) sqrt(s² / S + v), where s² is the variance of the S
 * seeds' differences and v that of the seed-averaged difference under a bootstrap of item clusters within each
 * discipline. Seeds are never bootstrapped. Seed noise of the items is in both terms, so the interval errs on the wide side.
 *
 * @throws ArgumentError if there is no item or no seed, or the numbers of seeds or items differ
 */
export function pairedDifference(
  disciplines: readonly ItemDifferences[],
  { resamples = 2000, seed = 0 }: PairedOptions = {},
): Estimate {
  const numSeeds = checkShape(disciplines)
  const seeds = Array.from({ length: numSeeds }, (_, s) =>
    mean(disciplines.map(({ bySeed }) => mean(bySeed[s]))),
  )
  const estimate = mean(seeds)
  const itemVariance = bootstrapVariance(disciplines.map(clusterSums), resamples, seed)
  if (numSeeds < 2)
    return { estimate, lower: null, upper: null, p: null, seeds, seedVariance: null, itemVariance }
  const seedVariance = variance(seeds)
  const error = Math.sqrt(seedVariance / numSeeds + itemVariance)
  const reach = upperQuantile(tail, numSeeds - 1) * error
  return {
    estimate,
    lower: estimate - reach,
    upper: estimate + reach,
    p: error > 0 ? upperTail(estimate / error, numSeeds - 1) : Number(estimate <= 0),
    seeds,
    seedVariance,
    itemVariance,
  }
}

interface ClusterSums {
  readonly sums: Float64Array
  readonly sizes: Float64Array
}

/** Of the seed-averaged differences, by cluster. */
function clusterSums({ clusters, bySeed }: ItemDifferences): ClusterSums {
  const numbers = new Map<string | number, number>()
  const place = clusters.map((cluster) => {
    if (!numbers.has(cluster)) numbers.set(cluster, numbers.size)
    return numbers.get(cluster)!
  })
  const sums = new Float64Array(numbers.size)
  const sizes = new Float64Array(numbers.size)
  place.forEach((cluster, item) => {
    sums[cluster] += mean(bySeed.map((scores) => scores[item]))
    sizes[cluster]++
  })
  return { sums, sizes }
}

/** Variance of the mean over disciplines of the mean over items, when each discipline's clusters are drawn anew. */
function bootstrapVariance(
  disciplines: readonly ClusterSums[],
  resamples: number,
  seed: number,
): number {
  const random = new Philox(seed)
  const means = new Float64Array(resamples)
  for (let r = 0; r < resamples; r++)
    for (const { sums, sizes } of disciplines) {
      let [sum, size] = [0, 0]
      for (let i = 0; i < sums.length; i++) {
        const drawn = random.below(sums.length)
        sum += sums[drawn]
        size += sizes[drawn]
      }
      means[r] += sum / size / disciplines.length
    }
  return variance(means)
}

/** Unbiased. */
function variance(values: ArrayLike<number>): number {
  const center = mean(values)
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += (values[i] - center) ** 2
  return sum / (values.length - 1)
}

function checkShape(disciplines: readonly ItemDifferences[]): number {
  const numSeeds = disciplines[0]?.bySeed.length ?? 0
  if (numSeeds === 0) throw new ArgumentError('a difference needs a discipline and a seed')
  for (const { clusters, bySeed } of disciplines) {
    if (clusters.length === 0) throw new ArgumentError('a discipline without items has no score')
    if (bySeed.length !== numSeeds)
      throw new ArgumentError(`one discipline has ${numSeeds} seeds, another ${bySeed.length}`)
    for (const scores of bySeed)
      if (scores.length !== clusters.length)
        throw new ArgumentError(`${scores.length} scores for ${clusters.length} items`)
  }
  return numSeeds
}
