import { Philox } from '../../philox.js'

/** One figure of a task over its items. */
export interface Figure {
  readonly name: string
  /** The mean; of a perplexity exp(-sum of log-likelihoods / tokens). */
  readonly value: number
  /** s / sqrt(n) with the sample's deviation s, as lm-evaluation-harness gives it; null for one item. */
  readonly standardError: number | null
  /** The middle 95% of 1,000 resamples of the items. */
  readonly interval: readonly [number, number]
}

/** What an item adds to a figure: a score, of so many. */
interface Share {
  readonly sum: number
  readonly of: number
}

const numResamples = 1000

/** Gathers what the items say of each figure. Values are kept as numbers: a million items are some tens of megabytes. */
export class Tally {
  readonly #shares = new Map<string, { shares: Share[]; exponential: boolean }>()

  /** One item's scores: a number, a truth value, or several truth values that count each for one. */
  add(name: string, score: number | boolean | readonly boolean[]): void {
    const values = Array.isArray(score) ? (score as readonly boolean[]) : [score]
    const sum = values.reduce<number>((total, value) => total + Number(value), 0)
    this.#of(name, false).push({ sum, of: values.length })
  }

  /** Of a perplexity. */
  addLogLikelihood(name: string, logLikelihood: number, tokens: number): void {
    this.#of(name, true).push({ sum: logLikelihood, of: tokens })
  }

  #of(name: string, exponential: boolean): Share[] {
    let held = this.#shares.get(name)
    if (!held) this.#shares.set(name, (held = { shares: [], exponential }))
    return held.shares
  }

  async figures(): Promise<Figure[]> {
    const figures: Figure[] = []
    for (const [name, { shares, exponential }] of this.#shares) {
      const finish = (mean: number) => (exponential ? Math.exp(-mean) : mean)
      const [low, high] = (await resample(shares)).map(finish)
      figures.push({
        name,
        value: finish(meanOf(shares)),
        standardError: exponential ? null : standardError(shares),
        interval: low <= high ? [low, high] : [high, low],
      })
    }
    return figures
  }
}

function meanOf(shares: readonly Share[]): number {
  let sum = 0
  let of = 0
  for (const share of shares) {
    sum += share.sum
    of += share.of
  }
  return sum / of
}

function standardError(shares: readonly Share[]): number | null {
  const n = shares.length
  if (n < 2) return null
  const values = shares.map(({ sum, of }) => sum / of)
  const mean = values.reduce((total, value) => total + value, 0) / n
  const squares = values.reduce((total, value) => total + (value - mean) ** 2, 0)
  return Math.sqrt(squares / (n - 1) / n)
}

/** The 2.5% and 97.5% points of the mean over items drawn with replacement; the same numbers at every call. */
async function resample(shares: readonly Share[]): Promise<[number, number]> {
  const n = shares.length
  const draws = new Philox(0)
  const means = new Float64Array(numResamples)
  let drawn = 0
  for (let r = 0; r < numResamples; r++) {
    // The event loop gets a turn every some milliseconds.
    if ((drawn += n) > 100_000) {
      drawn = 0
      await new Promise((resolve) => setImmediate(resolve))
    }
    let sum = 0
    let of = 0
    for (let i = 0; i < n; i++) {
      const share = shares[draws.below(n)]
      sum += share.sum
      of += share.of
    }
    means[r] = sum / of
  }
  means.sort()
  return [
    means[Math.round(0.025 * (numResamples - 1))],
    means[Math.round(0.975 * (numResamples - 1))],
  ]
}
