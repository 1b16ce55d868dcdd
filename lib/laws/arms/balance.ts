import { byDefault } from './design.js'
import { type Arm, highResource, type Law, namesOf, type Setting } from './law.js'
import type { Mixture } from '../procedure.js'

/** Most passes over the most diverse disciplines. */
export const mostEpochs = 4
/** The dose curve's others. */
const doses = [1, 16] as const

/** Law 1, Balance-then-Diversity. */
export function declareBalance(setting: Setting): Law {
  const all = namesOf(setting.disciplines)
  const high = highResource(setting.disciplines)
  const arm = (name: string, title: string, data: Mixture) => ({
    name,
    title,
    procedure: byDefault(setting, { data }),
  })
  const capped = arm('capped', 'capped shares, random repeats', {
    disciplines: all,
    shares: 'capped',
    mostEpochs,
  })
  const arms: Arm[] = [
    arm('left-out', 'low-resource disciplines left out', {
      disciplines: high,
      shares: 'proportional',
    }),
    arm('proportional', 'shares by size', { disciplines: all, shares: 'proportional' }),
    arm('equal', 'equal shares, random repeats', { disciplines: all, shares: 'equal' }),
    capped,
    arm('diverse', 'the same shares, diverse selection', {
      disciplines: all,
      shares: 'diverse',
      mostEpochs,
    }),
  ]
  if (setting.hasReserve)
    arms.push(
      arm('fresh', 'the same shares, fresh unique items', {
        disciplines: all,
        shares: { of: capped.procedure },
        fresh: true,
      }),
    )
  const possible = doses.filter((dose) => setting.canDraw(dose))
  for (const dose of possible)
    arms.push({
      ...arm(`dose-${dose}`, `capped shares, at most ${passes(dose)}`, {
        disciplines: all,
        shares: 'capped',
        mostEpochs: dose,
      }),
      seeds: 'one',
      extra: true,
    })
  const contrast = (one: string, other: string, title: string, on = all) => ({
    name: `${one} minus ${other}`,
    title,
    weights: { [one]: 1, [other]: -1 },
    on,
  })
  const missing = [
    ...(high.length < all.length ? [] : ['no discipline is low-resource']),
    ...(setting.hasReserve ? [] : ['there is no reserve of fresh items to see what repeats cost']),
  ]
  return {
    name: 'balance',
    title: 'Balance-then-Diversity',
    claim:
      'Low-resource disciplines cost the others when they are mixed in by size; upsampling them with diverse items gains more than repeats.',
    arms,
    contrasts: [
      contrast(
        'left-out',
        'proportional',
        'what mixing in low-resource disciplines costs the others',
        high,
      ),
      contrast('diverse', 'proportional', 'what diverse upsampling gains over shares by size'),
      contrast('diverse', 'capped', 'what diversity gains over random repeats'),
    ],
    preconditions: setting.hasReserve
      ? [
          {
            ...contrast('fresh', 'capped', 'what fresh items gain over repeats'),
            atLeast: setting.delta,
          },
        ]
      : [],
    gates: [],
    notes: [
      `Low-resource: ${all.filter((name) => !high.includes(name)).join(', ') || 'none'}, with fewer trained tokens than an equal share.`,
      `Capped: equal shares as far as at most ${passes(mostEpochs)} allow, fewer for a discipline of less diversity. Diverse and fresh have the same shares.`,
      ...doses
        .filter((dose) => !possible.includes(dose))
        .map((dose) => `There is no dose of ${passes(dose)}: so few do not give a run's tokens.`),
    ],
    ...(missing.length > 0 ? { missing: missing.join('; ') } : {}),
  }
}

const passes = (count: number) => (count === 1 ? '1 pass' : `${count} passes`)
