import { learningRateTrials, training, tuned } from './design.js'
import { type Arm, type Law, namesOf, type Setting } from './law.js'
import type { Method } from '../procedure.js'

const experts = 4
/** Ranks of the asymmetric adapter that are tried, until the others match. */
const asymmetricRanks = Array.from({ length: 29 }, (_, i) => 4 + i)
/** Within which counts must match. */
const mostApart = 0.02
const robustness = [0.5, 2] as const

const dense = { alpha: 8, rsLora: true, targets: 'all-linear' } as const

const methods = {
  lora: (rank: number): Method => ({ kind: 'lora', rank, ...dense }),
  symmetric: (rank: number): Method => ({ kind: 'lora-moe', rank, experts, ...dense }),
  asymmetric: (rank: number): Method => ({ kind: 'hydra-lora', rank, experts, ...dense }),
  'uniform gate': (rank: number): Method => ({
    kind: 'hydra-lora',
    rank,
    experts,
    gate: 'uniform',
    ...dense,
  }),
  'shared B': (rank: number): Method => ({
    kind: 'lora-moe',
    rank,
    experts,
    shares: 'b',
    ...dense,
  }),
}
type ArmName = keyof typeof methods
const names = Object.keys(methods) as ArmName[]

export interface MatchedMethod {
  readonly method: Method
  readonly parameters: number
  /** Over those of the asymmetric adapter; never below 1. */
  readonly ratio: number
}

/**
 * The five adapters with numbers of trainable parameters, routers included, that are as close as ranks allow: LoRA and
 * experts that share nothing within 2% where any rank does, and the asymmetric one never the largest.
 */
export function matchedMethods(
  countParameters: Setting['countParameters'],
): Readonly<Record<ArmName, MatchedMethod>> {
  const matches = asymmetricRanks.map((rank) => {
    const least = countParameters(methods.asymmetric(rank))
    const matched = names.map((name) => {
      let own = 1
      while (countParameters(methods[name](own)) < least) own++
      const method = methods[name](own)
      const parameters = countParameters(method)
      return [name, { method, parameters, ratio: parameters / least }] as const
    })
    return Object.fromEntries(matched) as Record<ArmName, MatchedMethod>
  })
  const apart = (match: Record<ArmName, MatchedMethod>) =>
    Math.max(match.lora.ratio, match.symmetric.ratio)
  return (
    matches.find((match) => apart(match) <= 1 + mostApart) ??
    matches.reduce((best, match) => (apart(match) < apart(best) ? match : best))
  )
}

/** Law 4, Share-then-Specialize. */
export function declareSpecialize(setting: Setting): Law {
  const matched = matchedMethods(setting.countParameters)
  const titles: Record<ArmName, string> = {
    lora: 'LoRA',
    symmetric: 'mixture of experts that share nothing',
    asymmetric: 'one A, an expert’s own B',
    'uniform gate': 'the same without a router: all gates equal',
    'shared B': 'one B, an expert’s own A',
  }
  const arms: Arm[] = names.map((name) => ({
    name,
    title: `${titles[name]}, rank ${matched[name].method.rank}`,
    procedure: tuned(setting, matched[name].method),
  }))
  for (const name of names)
    for (const factor of robustness) {
      const { method } = matched[name]
      arms.push({
        name: `${name}, learning rate × ${factor}`,
        title: `${titles[name]}, learning rate × ${factor}`,
        procedure: training(setting, method, {
          by: learningRateTrials(setting, method),
          what: 'learning rate',
          factor,
        }),
        seeds: 'one',
        extra: true,
      })
    }
  const on = namesOf(setting.disciplines)
  const against = (other: ArmName, title: string) => ({
    name: `asymmetric minus ${other}`,
    title,
    weights: { asymmetric: 1, [other]: -1 },
    on,
  })
  const apart = names.filter((name) => matched[name].ratio > 1 + mostApart)
  return {
    name: 'specialize',
    title: 'Share-then-Specialize',
    claim:
      'Experts that share A do more with as many parameters than LoRA or experts that share nothing.',
    arms,
    contrasts: [
      against('lora', 'over LoRA'),
      against('symmetric', 'over experts that share nothing'),
      against('uniform gate', 'what the router gains'),
    ],
    preconditions: [],
    gates: [],
    notes: [
      `Trainable parameters: ${names.map((name) => `${name} ${matched[name].parameters}`).join(', ')}; routers are counted.`,
      ...(apart.length > 0
        ? [`No rank matches within ${100 * mostApart}%: ${apart.join(', ')}; these have more.`]
        : []),
      'All are trained on equal shares, with as many learning rates tried for each.',
    ],
  }
}
