import type { Procedure } from '../procedure.js'

export type LawName = 'balance' | 'align' | 'optimize' | 'specialize' | 'variability'

/** Something that is trained with each of the study's seeds and measured. */
export interface Arm {
  /** Unique in the law. */
  readonly name: string
  readonly title: string
  readonly procedure: Procedure
  /** How often: with each seed of the study, or once, to be looked at. Default: each. */
  readonly seeds?: 'one'
  /** Shown, not needed for the verdict: the first to go when time is short. */
  readonly extra?: true
  /** Of a run that is compared with one over all disciplines: the discipline that it lacks. */
  readonly without?: string
}

/** Items that scores are means over: discipline test sets, or one of the others. */
export type ScoreSet = readonly string[] | 'cross' | 'instructions' | 'general'

/** A weighted sum of arms' scores, seed by seed, that the law says is above 0. */
export interface Contrast {
  readonly name: string
  readonly title: string
  /** By arm; they sum to 0. */
  readonly weights: Readonly<Record<string, number>>
  readonly on: ScoreSet
}

/** Without which a study cannot show the law: the contrast's estimate reaches so much. */
export interface Precondition extends Contrast {
  readonly atLeast: number
}

/** Passed if the contrast's lower bound is above this. */
export interface Gate extends Contrast {
  readonly above: number
}

export interface Law {
  readonly name: LawName
  readonly title: string
  readonly claim: string
  readonly arms: readonly Arm[]
  readonly contrasts: readonly Contrast[]
  readonly preconditions: readonly Precondition[]
  readonly gates: readonly Gate[]
  /** What a reader must know of this law's arms. */
  readonly notes: readonly string[]
  /** Why its preconditions cannot be looked at here, if so: the verdict is then undecided. */
  readonly missing?: string
  /** Its own statistic in place of contrasts. */
  readonly variability?: VariabilityPlan
}

/** Arms that are run as often as this, in pairs of one over all disciplines and one over each. */
export interface VariabilityPlan {
  readonly runs: number
  readonly multi: string
  /** By discipline. */
  readonly singles: Readonly<Record<string, string>>
}

/** What the laws' declarations depend on. */
export interface Setting {
  /** In the order of the configuration. */
  readonly disciplines: readonly DisciplineFacts[]
  readonly hasReserve: boolean
  readonly hasGeneral: boolean
  /** Whether caps of at most so many passes give the tokens of a run. */
  readonly canDraw: (maxEpochs: number) => boolean
  /** Of one run. */
  readonly tokens: number
  /** As a fraction: 0.02 for 2 points. */
  readonly delta: number
  /** Runs of a condition of variability. */
  readonly variabilityRuns: number
  /** Never one of those that are reported. */
  readonly searchSeed: number
  /** Three, in ascending order. */
  readonly learningRates: readonly number[]
  /** Of the adapters of all laws but the third. */
  readonly rank: number
  /** Trainable parameters of an adapter by its method. */
  readonly countParameters: (method: { readonly kind: string; readonly rank: number }) => number
}

export interface DisciplineFacts {
  readonly name: string
  /** Of all its items, prompts included. */
  readonly tokens: number
  readonly trainedTokens: number
}

/** Those that have at least as many trained tokens as an equal share. */
export function highResource(disciplines: readonly DisciplineFacts[]): string[] {
  const total = disciplines.reduce((sum, { trainedTokens }) => sum + trainedTokens, 0)
  const high = disciplines.filter(
    ({ trainedTokens }) => trainedTokens * disciplines.length >= total,
  )
  return high.map(({ name }) => name)
}

/** What of a run's tokens goes to each discipline where all have the same share of the trained ones. */
export function equalTokens({ disciplines, tokens }: Setting): Readonly<Record<string, number>> {
  const perTrained = disciplines.map((one) => one.tokens / one.trainedTokens)
  const sum = perTrained.reduce((a, b) => a + b, 0)
  return Object.fromEntries(
    disciplines.map(({ name }, i) => [name, Math.round((tokens * perTrained[i]) / sum)]),
  )
}

export const namesOf = (disciplines: readonly DisciplineFacts[]) =>
  disciplines.map(({ name }) => name)
