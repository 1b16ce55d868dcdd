import type { Contrast, Law, ScoreSet, VariabilityPlan } from './arms/law.js'
import type { StudyPlan } from './plan.js'
import type { RunRecord } from './run-record.js'
import { accuracyOf, itemScores, logLikelihoodOf } from './scoring.js'
import {
  contrastVerdict,
  type Estimate,
  holm,
  type ItemDifferences,
  lawVerdict,
  mean,
  meanDeviation,
  pairedDifference,
  variability,
  type VariabilityResult,
  type Verdict,
} from './statistics/index.js'
import type { StudyData } from './study-data.js'

/** Scores are fractions: 0.02 is 2 points. */
export interface ContrastResult {
  readonly name: string
  /** Null if a run is missing or failed. */
  readonly estimate: Estimate | null
  readonly byDiscipline: Readonly<Record<string, Estimate>>
  readonly verdict: Verdict
}

/** Mean absolute deviations from the median, of a discipline's log-likelihood per token. */
export interface CompanionSpread {
  /** Of the runs over all disciplines, which differ in seed and items. */
  readonly bySeed: number
  /** Of the runs that differ in which disciplines are beside it: all others, and all but one. */
  readonly byCompanions: number
}

export interface LawResult {
  readonly name: Law['name']
  readonly verdict: Verdict
  /** Why it is undecided, where something else than the intervals is the reason. */
  readonly reason?: string
  readonly p: number | null
  readonly adjustedP: number | null
  readonly contrasts: readonly ContrastResult[]
  readonly preconditions: readonly (ContrastResult & { readonly met: boolean })[]
  readonly gates: readonly (ContrastResult & { readonly passed: boolean })[]
  readonly variability?: VariabilityResult
  /** By discipline, no part of the verdict; absent where those runs were cut. */
  readonly companions?: Readonly<Record<string, CompanionSpread>>
  /** Failed and diverged runs of its arms. */
  readonly failed: number
  readonly diverged: number
}

/** The runs of an arm, in the order of its seeds. */
export type ArmRuns = ReadonlyMap<string, readonly RunRecord[]>

/** What a study's runs say of its laws. */
export function judge(
  plan: StudyPlan,
  data: StudyData,
  runs: ReadonlyMap<Law['name'], ArmRuns>,
): LawResult[] {
  const results = plan.laws.map((law) => judgeLaw(law, plan, data, runs.get(law.name)!))
  const adjusted = holm(results.map(({ p }) => p))
  return results.map((result, i) => ({ ...result, adjustedP: adjusted[i] }))
}

function judgeLaw(law: Law, plan: StudyPlan, data: StudyData, arms: ArmRuns): LawResult {
  const all = [...arms.values()].flat()
  const counts = {
    failed: all.filter(({ status }) => status === 'failed').length,
    diverged: all.filter(({ status }) => status === 'diverged').length,
  }
  const contrasts = law.contrasts.map((one) => judgeContrast(one, plan, data, arms))
  const preconditions = law.preconditions.map((one) => {
    const result = judgeContrast(one, plan, data, arms)
    return { ...result, met: result.estimate !== null && result.estimate.estimate >= one.atLeast }
  })
  const gates = law.gates.map((one) => {
    const result = judgeContrast(one, plan, data, arms)
    const lower = result.estimate?.lower ?? null
    return { ...result, passed: lower !== null && lower > one.above }
  })
  const common = { name: law.name, contrasts, preconditions, gates, ...counts, adjustedP: null }
  const seeds = law.variability ? plan.variabilitySeeds : plan.seeds
  const tooFew = plan.isSlice ? 'a slice' : seeds.length < 2 ? 'one seed an arm' : null
  if (tooFew !== null)
    return { ...common, verdict: 'undecided', reason: `${tooFew} gives no verdict`, p: null }
  if (law.variability) {
    const spread = judgeVariability(law.variability, arms)
    const reason = spread ? {} : { reason: 'a run is missing or failed' }
    const companions = companionSpread(law, arms)
    return {
      ...common,
      verdict: spread?.verdict ?? 'undecided',
      ...reason,
      p: spread?.p ?? null,
      ...(spread ? { variability: spread } : {}),
      ...(companions ? { companions } : {}),
    }
  }
  // All contrasts must hold, so the law's p is the largest of theirs.
  const p = contrasts.map((one) => one.estimate?.p ?? null)
  const reason = reasonOf(law, contrasts, preconditions)
  return {
    ...common,
    verdict: lawVerdict(
      contrasts.map(({ verdict }) => verdict),
      reason === undefined,
    ),
    ...(reason === undefined ? {} : { reason }),
    p: p.length === 0 || p.includes(null) ? null : Math.max(...(p as number[])),
  }
}

function reasonOf(
  law: Law,
  contrasts: readonly ContrastResult[],
  preconditions: readonly (ContrastResult & { readonly met: boolean })[],
): string | undefined {
  if (law.missing !== undefined) return law.missing
  if (contrasts.some(({ estimate }) => estimate === null)) return 'a run is missing or failed'
  const unmet = preconditions.find(({ met }) => !met)
  if (!unmet) return undefined
  const { atLeast } = law.preconditions.find(({ name }) => name === unmet.name)!
  const value = unmet.estimate
    ? `${(100 * unmet.estimate.estimate).toFixed(1)} points`
    : 'not known'
  return `its precondition is not met: ${unmet.name} is ${value}, and must be at least ${100 * atLeast}`
}

function judgeContrast(
  contrast: Contrast,
  plan: StudyPlan,
  data: StudyData,
  arms: ArmRuns,
): ContrastResult {
  const { name, weights } = contrast
  const nothing = { name, estimate: null, byDiscipline: {}, verdict: 'undecided' } as const
  const parts = Object.entries(weights).map(([arm, weight]) => ({
    weight,
    runs: arms.get(arm) ?? [],
  }))
  const usable = parts.every(
    ({ runs }) => runs.length > 0 && runs.every(({ status }) => status !== 'failed'),
  )
  if (!usable) return nothing
  const sets = setsOf(contrast.on)
  const differences = armDifferences(sets, parts, data)
  const options = { seed: plan.bootstrapSeed }
  const estimate = pairedDifference(differences, options)
  const byDiscipline = Object.fromEntries(
    sets.length > 1
      ? sets.map((set, i) => [
          set.replace(/^test /, ''),
          pairedDifference([differences[i]], options),
        ])
      : [],
  )
  return { name, estimate, byDiscipline, verdict: contrastVerdict(estimate, plan.delta) }
}

/**
 * A weighted sum of arms' scores, item by item and seed by seed, of each set.
 *
 * @param parts all with as many runs, or with one for all seeds, as the study's model has
 */
export function armDifferences(
  sets: readonly string[],
  parts: readonly { readonly weight: number; readonly runs: readonly RunRecord[] }[],
  data: StudyData,
): ItemDifferences[] {
  const seeds = Math.max(...parts.map(({ runs }) => runs.length))
  return sets.map((set) => {
    const items = data.sets.get(set)!
    const bySeed = Array.from({ length: seeds }, (_, s) => {
      const sum = new Float64Array(items.chances.length)
      for (const { weight, runs } of parts)
        itemScores(runs[runs.length === 1 ? 0 : s].sets[set], items).forEach((score, i) => {
          sum[i] += weight * score
        })
      return sum
    })
    return { clusters: items.clusters, bySeed }
  })
}

/** Names of the item sets that a score is the mean over. */
export function setsOf(on: ScoreSet): string[] {
  return typeof on === 'string' ? [on] : on.map((name) => `test ${name}`)
}

function judgeVariability(
  { multi, singles }: VariabilityPlan,
  arms: ArmRuns,
): VariabilityResult | null {
  const names = Object.keys(singles)
  const count = arms.get(multi)?.length ?? 0
  const each = (runOf: (name: string, r: number) => RunRecord | undefined) =>
    Array.from({ length: count }, (_, r) => names.map((name) => perToken(runOf(name, r), name)))
  const runs = {
    multi: each((_, r) => arms.get(multi)![r]),
    single: each((name, r) => arms.get(singles[name])?.[r]),
  }
  if (count === 0 || [...runs.multi, ...runs.single].flat().some(Number.isNaN)) return null
  return variability(runs)
}

function companionSpread(
  law: Law,
  arms: ArmRuns,
): Readonly<Record<string, CompanionSpread>> | null {
  const runsOf = (arm: string) => arms.get(arm) ?? []
  const all = runsOf(law.variability!.multi)
  const without = law.arms.flatMap(({ name, without }) =>
    without === undefined ? [] : [{ discipline: without, runs: runsOf(name) }],
  )
  if (without.length === 0) return null
  const spreads = without.map(({ discipline }) => {
    const fewer = without.filter((one) => one.discipline !== discipline).map(({ runs }) => runs[0])
    const spreadOf = (runs: readonly (RunRecord | undefined)[]) =>
      meanDeviation(runs.map((run) => perToken(run, discipline)))
    return {
      bySeed: spreadOf(all),
      byCompanions: spreadOf([all[0], ...fewer]),
    }
  })
  // A run that failed has no outcome.
  if (spreads.some(({ bySeed, byCompanions }) => !Number.isFinite(bySeed + byCompanions)))
    return null
  return Object.fromEntries(without.map(({ discipline }, i) => [discipline, spreads[i]]))
}

/** Log-likelihood of a discipline's right answers; NaN if there is none. */
function perToken(run: RunRecord | undefined, name: string): number {
  const scores = run?.sets[`test ${name}`]
  return (scores && logLikelihoodOf(scores)) ?? NaN
}

/** Mean over the sets of a run's chance-corrected accuracy; null where it has none. */
export function scoreOf(run: RunRecord, on: ScoreSet, data: StudyData): number | null {
  const sets = setsOf(on)
  if (!sets.every((set) => Object.hasOwn(run.sets, set))) return null
  return mean(sets.map((set) => accuracyOf(run.sets[set], data.sets.get(set)!)))
}
