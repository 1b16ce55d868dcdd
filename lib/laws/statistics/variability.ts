import { ArgumentError } from '../../errors.js'
import { Philox } from '../../philox.js'
import { mean, median } from './chance.js'
import type { Verdict } from './verdict.js'

/** Outcomes of runs that were drawn in pairs: `[run][discipline]`. */
export interface PairedRuns {
  /** One run over all disciplines gives one outcome each. */
  readonly multi: readonly (readonly number[])[]
  /** The runs over one discipline each that share its seed and subset. */
  readonly single: readonly (readonly number[])[]
}

export interface VariabilityResult {
  /** Mean absolute deviation from the median, multi over single. */
  readonly ratio: number
  /** Of the 90% interval, by inverting the test; null with fewer than two runs. */
  readonly lower: number | null
  readonly upper: number | null
  /** One-sided: of a ratio at most 1. */
  readonly p: number | null
  readonly byDiscipline: readonly number[]
  readonly verdict: Verdict
}

/** The ratio from which on a difference matters. */
export const leastRatio = 1.5
const level = 0.05
const sampled = 4999

/**
 * Whether runs over several disciplines spread more than runs over one: the log ratio of the mean absolute deviations from
 * the median, pooled over disciplines, under the permutations that swap a whole multi run with its singles. Medians are
 * of a condition and discipline, so that a difference of level is no difference of spread. All 2^n swaps up to
 * 12 runs, else 4,999 drawn and the identity.
 *
 * @throws ArgumentError if the conditions have not the same runs and disciplines
 */
export function variability(runs: PairedRuns, { seed = 0 } = {}): VariabilityResult {
  checkRuns(runs)
  const multi = deviations(runs.multi)
  const single = deviations(runs.single)
  const byDiscipline = multi[0].map(
    (_, d) => mean(multi.map((run) => run[d])) / mean(single.map((run) => run[d])),
  )
  // A run's disciplines change sides together, so their sum is all that counts.
  const [one, other] = [multi, single].map((all) => Float64Array.from(all, mean))
  const observed = logRatio(one, other, none, 1)
  const ratio = Math.exp(observed)
  // No spread at all on one side: there is no ratio to test.
  if (runs.multi.length < 2 || !Number.isFinite(observed))
    return { ratio, lower: null, upper: null, p: null, byDiscipline, verdict: 'undecided' }
  const swaps = swapsOf(runs.multi.length, seed)
  const share = (truth: number, isBeyond: (statistic: number, own: number) => boolean) => {
    const own = observed - Math.log(truth)
    return (
      swaps.filter((swap) => isBeyond(logRatio(one, other, swap, truth), own)).length / swaps.length
    )
  }
  // Equal statistics differ by rounding.
  const slack = 1e-9
  const above = (truth: number) => share(truth, (statistic, own) => statistic >= own - slack)
  const below = (truth: number) => share(truth, (statistic, own) => statistic <= own + slack)
  const bound = (tailOf: (truth: number) => number, farthest: number) => {
    let [inside, outside] = [ratio, ratio * farthest]
    if (tailOf(outside) > level) return farthest > 1 ? Infinity : 0
    for (let i = 0; i < 14; i++) {
      const middle = Math.sqrt(inside * outside)
      if (tailOf(middle) > level) inside = middle
      else outside = middle
    }
    return inside
  }
  const p = above(1)
  const lower = bound(above, 1e-3)
  const upper = bound(below, 1e3)
  return { ratio, lower, upper, p, byDiscipline, verdict: verdictOf(ratio, p, upper) }
}

function verdictOf(ratio: number, p: number, upper: number): Verdict {
  if (p < level && ratio >= leastRatio) return 'holds'
  return upper < leastRatio ? 'does not hold' : 'undecided'
}

/** Absolute deviations from the median of the discipline in this condition (Brown and Forsythe 1974). */
function deviations(runs: readonly (readonly number[])[]): number[][] {
  const medians = runs[0].map((_, d) => median(runs.map((run) => run[d])))
  return runs.map((run) => run.map((value, d) => Math.abs(value - medians[d])))
}

type Swap = (run: number) => boolean
const none: Swap = () => false

/**
 * @param swap which runs change sides
 * @param truth the ratio that is taken out of the first before
 */
function logRatio(one: Float64Array, other: Float64Array, swap: Swap, truth: number): number {
  let [above, below] = [0, 0]
  for (let r = 0; r < one.length; r++) {
    const shrunk = one[r] / truth
    above += swap(r) ? other[r] : shrunk
    below += swap(r) ? shrunk : other[r]
  }
  return Math.log(above / below)
}

function swapsOf(runs: number, seed: number): Swap[] {
  if (runs <= 12)
    return Array.from(
      { length: 2 ** runs },
      (_, bits) => (run: number) => ((bits >> run) & 1) === 1,
    )
  const random = new Philox(seed)
  const drawn = Array.from({ length: sampled }, () => {
    const bits = Array.from({ length: runs }, () => random.below(2) === 1)
    return (run: number) => bits[run]
  })
  return [none, ...drawn]
}

function checkRuns({ multi, single }: PairedRuns): void {
  const disciplines = multi[0]?.length ?? 0
  if (disciplines === 0) throw new ArgumentError('variability needs a run and a discipline')
  if (multi.length !== single.length)
    throw new ArgumentError(`${multi.length} multi runs are paired with ${single.length}`)
  for (const run of [...multi, ...single])
    if (run.length !== disciplines)
      throw new ArgumentError(`one run has ${disciplines} disciplines, another ${run.length}`)
}
