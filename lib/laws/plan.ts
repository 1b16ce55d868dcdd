import { ConfigError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { linearNames, type LinearName, linearShape } from '../models/index.js'
import { declareAlign } from './arms/align.js'
import { declareBalance, mostEpochs } from './arms/balance.js'
import type { Arm, Law, LawName, Setting } from './arms/law.js'
import { declareOptimize } from './arms/optimize.js'
import {
  base,
  type ChoiceProcedure,
  hashOf,
  type Method,
  type Procedure,
  procedureHash,
  runId,
  sourcesOfShares,
  stepsOf,
  withTokens,
} from './procedure.js'
import { declareSpecialize } from './arms/specialize.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'
import { type CorpusSurvey, drawableSteps } from './survey.js'
import { declareVariability } from './arms/variability.js'

/** What may be cut where time is short; everything else of a plan follows from configuration and data. */
export interface StudySize {
  /** Of a run. */
  readonly tokens: number
  readonly seeds: number
  readonly variabilityRuns: number
  /** Whether arms are run that are shown only. */
  readonly extras: boolean
  /** Most items of a set. */
  readonly items: number
}

/** Written and hashed before the first run. */
export interface StudyPlan {
  readonly version: 1
  readonly size: StudySize
  /** In words: what was cut, and from what. */
  readonly cuts: readonly string[]
  readonly seeds: readonly number[]
  readonly variabilitySeeds: readonly number[]
  readonly searchSeed: number
  readonly bootstrapSeed: number
  /** As a fraction. */
  readonly delta: number
  readonly metric: StudyConfig['metric']
  readonly isSlice: boolean
  readonly batchTokens: number
  readonly embedding: StudyConfig['embedding']
  readonly dtype: StudyConfig['dtype']
  /** Fingerprints of the model and of all data. */
  readonly model: string
  readonly data: string
  readonly laws: readonly Law[]
}

export const planHash = (plan: StudyPlan) => hashOf(plan)

/** One arm with one seed. */
export interface Job {
  readonly law: LawName
  readonly arm: string
  readonly procedure: Procedure
  readonly seed: number
  readonly sets: readonly string[]
}

const declarations: Readonly<Record<LawName, (setting: Setting) => Law>> = {
  balance: declareBalance,
  align: declareAlign,
  optimize: declareOptimize,
  specialize: declareSpecialize,
  variability: declareVariability,
}
// Far from those that are reported.
const searchSeedOffset = 1_000_000

export interface PlanInputs {
  readonly config: StudyConfig
  readonly data: StudyData
  readonly model: DecoderConfig
  readonly modelFingerprint: string
  /** Null where no law caps anything. */
  readonly survey: CorpusSurvey | null
}

/** As the configuration has it, however long it takes. */
export const askedSize = (config: StudyConfig, items: number): StudySize => ({
  tokens: config.tokens,
  seeds: config.slice ? 1 : config.seeds,
  variabilityRuns: config.slice ? 1 : config.variabilityRuns,
  extras: true,
  items,
})

/**
 * The same as far as the caps of the first law allow: its arms have the tokens that all others have.
 *
 * @throws ConfigError if they do not even allow a step
 */
export function possibleSize(
  { config, survey }: Pick<PlanInputs, 'config' | 'survey'>,
  items: number,
): StudySize {
  const asked = askedSize(config, items)
  if (survey === null) return asked
  const steps = drawableSteps(survey, mostEpochs)
  if (steps === 0)
    throw new ConfigError(
      `law 1 (balance): all that ${mostEpochs} passes over these disciplines allow is less than a step of ${survey.stepTokens} tokens; lower batchTokens, or leave balance out of laws`,
      { details: { key: 'batchTokens', received: config.batchTokens } },
    )
  if (stepsOf(asked.tokens, config.batchTokens) <= steps) return asked
  return { ...asked, tokens: steps * config.batchTokens }
}

/** What the laws' declarations are made from. */
export function settingOf(inputs: PlanInputs, size: StudySize): Setting {
  const { config, data, model, survey } = inputs
  return {
    disciplines: data.disciplines.map(({ name, tokens, trainedTokens }) => ({
      name,
      tokens,
      trainedTokens,
    })),
    hasReserve: data.disciplines.every(({ reserve }) => reserve !== null),
    hasGeneral: data.sets.has('general'),
    canDraw: (maxEpochs) =>
      survey === null ||
      stepsOf(size.tokens, config.batchTokens) <= drawableSteps(survey, maxEpochs),
    tokens: size.tokens,
    delta: config.delta / 100,
    variabilityRuns: size.variabilityRuns,
    searchSeed: config.seed + searchSeedOffset,
    learningRates: config.learningRates,
    rank: config.rank,
    countParameters: (method) => countParameters(model, method as Method),
  }
}

export function makePlan(inputs: PlanInputs, size: StudySize, cuts: readonly string[]): StudyPlan {
  const { config, data } = inputs
  const setting = settingOf(inputs, size)
  const seedsFrom = (count: number) => Array.from({ length: count }, (_, i) => config.seed + i)
  const laws = config.laws.map((name) => {
    const law = declarations[name](setting)
    return size.extras ? law : { ...law, arms: law.arms.filter(({ extra }) => !extra) }
  })
  return {
    version: 1,
    size,
    cuts,
    seeds: seedsFrom(size.seeds),
    variabilitySeeds: seedsFrom(size.variabilityRuns),
    searchSeed: setting.searchSeed,
    bootstrapSeed: config.seed,
    delta: setting.delta,
    metric: config.metric,
    isSlice: config.slice,
    batchTokens: config.batchTokens,
    embedding: config.embedding,
    dtype: config.dtype,
    model: inputs.modelFingerprint,
    data: data.fingerprint,
    laws,
  }
}

/** Every arm with its seeds, all arms of a seed together. */
export function jobsOf(plan: StudyPlan, data: StudyData): Job[] {
  const jobs: { job: Job; round: number }[] = []
  for (const law of plan.laws) {
    const seeds = law.variability ? plan.variabilitySeeds : plan.seeds
    for (const arm of law.arms) {
      const once = arm.seeds === 'one' || arm.procedure.kind === 'base'
      const sets = setsOfArm(law, arm, data)
      for (const [round, seed] of (once ? seeds.slice(0, 1) : seeds).entries())
        jobs.push({
          round,
          job: { law: law.name, arm: arm.name, procedure: arm.procedure, seed, sets },
        })
    }
  }
  return jobs.sort((a, b) => a.round - b.round).map(({ job }) => job)
}

function setsOfArm(law: Law, arm: Arm, data: StudyData): string[] {
  const all = data.disciplines.map(({ name }) => name)
  // On its own discipline alone: that is all that it is paired with.
  const single = Object.entries(law.variability?.singles ?? {}).find(([, of]) => of === arm.name)
  const tests = (single ? [single[0]] : all).map((name) => `test ${name}`)
  if (law.name !== 'align') return tests
  return [...tests, ...['cross', 'instructions', 'general'].filter((name) => data.sets.has(name))]
}

/** What the model is measured on as it is, for all arms to be seen against; first of all, so that no set surprises an arm. */
export function referenceSets(data: StudyData): string[] {
  return [...data.sets.keys()].filter((name) => name !== 'validation instructions')
}

/** What a study costs. */
export interface Workload {
  readonly runs: number
  /** Trained on. */
  readonly tokens: number
  /** Of those, by mixtures of experts. */
  readonly mixtureTokens: number
  /** That go forward once, to be embedded. */
  readonly embeddedTokens: number
  /** Scored; generated answers count five times. */
  readonly items: number
}

const generatedItemCost = 5

/** Every run once, however many arms share it, with all that must be done for it before. */
export function workloadOf(plan: StudyPlan, data: StudyData): Workload {
  const runs = new Map<string, { tokens: number; isMixture: boolean; sets: Set<string> }>()
  const add = (procedure: Procedure, seed: number, sets: readonly string[]) => {
    const id = runId(procedure, seed)
    const known = runs.get(id)
    for (const set of sets) known?.sets.add(set)
    if (known) return
    const own = trainingOf(procedure)
    runs.set(id, {
      tokens: own?.tokens ?? 0,
      isMixture: own !== null && own.method.kind !== 'lora',
      sets: new Set(sets),
    })
    prepare(procedure, seed)
  }
  const validation = data.disciplines.map(({ name }) => `validation ${name}`)
  const prepare = (procedure: Procedure, seed: number): void => {
    switch (procedure.kind) {
      case 'base':
        return
      case 'merge':
        for (const { of } of procedure.parts) add(of, seed, [])
        return
      case 'chat-vector':
        prepare(procedure.from, seed)
        return
      case 'train':
        if (procedure.from.kind !== 'base') add(procedure.from, seed, [])
        for (const other of sourcesOfShares(procedure)) add(other, seed, [])
        if (typeof procedure.learningRate !== 'number') prepareChoice(procedure.learningRate.by)
        return
      case 'choice':
        prepareChoice(procedure)
        prepare(procedure.candidates[0], seed)
    }
  }
  const chosen = new Set<string>()
  const prepareChoice = (choice: ChoiceProcedure) => {
    const hash = procedureHash(choice)
    if (chosen.has(hash)) return
    chosen.add(hash)
    const { candidates, rungs, seed } = choice
    let count = candidates.length
    for (const { tokens, keep } of rungs) {
      for (const one of candidates.slice(0, count)) add(withTokens(one, tokens), seed, validation)
      count = keep
    }
  }
  add(base, 0, referenceSets(data))
  for (const { procedure, seed, sets } of jobsOf(plan, data)) add(procedure, seed, sets)
  let [tokens, mixtureTokens, items] = [0, 0, 0]
  for (const run of runs.values()) {
    tokens += run.tokens
    if (run.isMixture) mixtureTokens += run.tokens
    for (const name of run.sets) {
      const set = data.sets.get(name)!
      items +=
        Math.min(set.chances.length, plan.size.items) * (set.isChecked ? generatedItemCost : 1)
    }
  }
  const embeds = plan.embedding === 'model' && plan.laws.some(({ name }) => name === 'balance')
  const embeddedTokens = embeds
    ? data.disciplines.reduce((sum, discipline) => sum + discipline.tokens, 0)
    : 0
  return { runs: runs.size, tokens, mixtureTokens, embeddedTokens, items }
}

function trainingOf(procedure: Procedure): { tokens: number; method: Method } | null {
  if (procedure.kind === 'train') return procedure
  return procedure.kind === 'choice' ? trainingOf(procedure.candidates[0]) : null
}

/** Trainable parameters of a method on all linear layers of a model, routers included. */
export function countParameters(config: DecoderConfig, method: Method): number {
  const { rank } = method
  const experts = 'experts' in method ? (method.experts ?? 4) : 1
  const shares = method.kind === 'hydra-lora' ? 'a' : 'shares' in method ? method.shares : undefined
  const hasRouter = 'experts' in method && !('gate' in method && method.gate === 'uniform')
  let count = 0
  for (const name of Object.keys(linearNames) as LinearName[]) {
    const [outputs, inputs] = linearShape(config, name)
    count += inputs * rank * (shares === 'a' ? 1 : experts)
    count += outputs * rank * (shares === 'b' ? 1 : experts)
    if (hasRouter) count += inputs * experts
  }
  return count * config.numLayers
}
