import { byDefault, defaultMethod, equalShares, learningRateTrials, training } from './design.js'
import { type Arm, type Contrast, equalTokens, type Law, type Setting } from './law.js'
import {
  base,
  type ChoiceProcedure,
  type MergeProcedure,
  type Mixture,
  type Procedure,
  type TrainProcedure,
} from '../procedure.js'

/** Of a run's tokens: the alignment, and what stands against it. */
const alignShare = 0.25
/** Of the small adapter that is trained for alignment. */
const alignRank = 4
const weights = [0.2, 0.35, 0.5, 0.75] as const
/** Instruction accuracy that merging must cost for there to be anything to restore. */
const leastLoss = 0.1
/** What a gate allows to be lost against the base. */
const mostLost = 0.05

/** The specialists: the discipline's share of a run's tokens each. */
export function specialists(setting: Setting): Readonly<Record<string, Procedure>> {
  return Object.fromEntries(
    Object.entries(equalTokens(setting)).map(([name, tokens]) => [
      name,
      byDefault(setting, { data: { disciplines: [name], shares: 'equal' }, tokens }),
    ]),
  )
}

/** Updates with one weight. */
export function mergeOf(
  parts: readonly Procedure[],
  weight: number,
  operator: MergeProcedure['operator'] = 'task_arithmetic',
): MergeProcedure {
  return { kind: 'merge', parts: parts.map((of) => ({ of, weight })), operator }
}

/** Their merge: operator and weight are chosen on validation before anything is aligned. */
export function merged(setting: Setting): ChoiceProcedure {
  const parts = Object.values(specialists(setting))
  return {
    kind: 'choice',
    candidates: (['task_arithmetic', 'ties'] as const).flatMap((operator) =>
      weights.map((weight) => mergeOf(parts, weight, operator)),
    ),
    rungs: [{ tokens: 0, keep: 1 }],
    seed: setting.searchSeed,
  }
}

/** A short training of a small adapter on instructions alone, which hold no fact of a discipline. */
export function alignment(setting: Setting, from: Procedure): TrainProcedure {
  return small(setting, from, { disciplines: 'instructions', shares: 'equal' })
}

function small(setting: Setting, from: Procedure, data: Mixture): TrainProcedure {
  const method = defaultMethod(alignRank)
  const tokens = Math.round(alignShare * setting.tokens)
  const by = learningRateTrials(setting, method)
  return training(setting, method, { by, what: 'learning rate' }, { from, tokens, data })
}

/** Law 2, Merge-then-Align. */
export function declareAlign(setting: Setting): Law {
  const merge = merged(setting)
  const joint = byDefault(setting)
  const arms: Arm[] = [
    { name: 'base', title: 'the model as it is', procedure: base },
    ...Object.entries(specialists(setting)).map(([name, procedure]) => ({
      name: `specialist ${name}`,
      title: `an adapter for ${name} alone`,
      procedure,
    })),
    { name: 'merge', title: 'the specialists merged', procedure: merge },
    { name: 'merge + align', title: 'merged, then aligned', procedure: alignment(setting, merge) },
    {
      name: 'base + align',
      title: 'aligned without disciplines',
      procedure: alignment(setting, base),
    },
    {
      name: 'merge + disciplines',
      title: 'merged, then as many tokens of the disciplines',
      procedure: small(setting, merge, equalShares(setting)),
    },
    { name: 'joint', title: 'one adapter for all disciplines', procedure: joint },
    {
      name: 'joint + align',
      title: 'one adapter, then aligned',
      procedure: alignment(setting, joint),
    },
  ]
  const against = (other: string, title: string): Contrast => ({
    name: `merge + align minus ${other}`,
    title,
    weights: { 'merge + align': 1, [other]: -1 },
    on: 'cross',
  })
  const gate = (on: 'instructions' | 'general') => ({
    name: `merge + align keeps ${on}`,
    title: `merge + align minus base on ${on}`,
    weights: { 'merge + align': 1, base: -1 },
    on,
    above: -mostLost,
  })
  return {
    name: 'align',
    title: 'Merge-then-Align',
    claim:
      'Merging specialists costs the following of instructions; a short alignment afterwards brings questions over several disciplines within reach.',
    arms,
    contrasts: [
      against('merge', 'what alignment gains'),
      against('base + align', 'what the merged specialists gain under it'),
      against('merge + disciplines', 'what alignment gains over as much of the disciplines'),
    ],
    preconditions: [
      {
        name: 'base minus merge on instructions',
        title: 'what merging costs the following of instructions',
        weights: { base: 1, merge: -1 },
        on: 'instructions',
        atLeast: leastLoss,
      },
    ],
    gates: [gate('instructions'), ...(setting.hasGeneral ? [gate('general')] : [])],
    notes: [
      'The alignment data hold general content and no fact of a discipline.',
      'Operator and weight of the merge are chosen on validation before anything is aligned, and then fixed.',
    ],
  }
}
