import { byDefault } from './design.js'
import { type Arm, highResource, type Law, namesOf, type Setting } from './law.js'
import type { Mixture } from '../procedure.js'

/** Most passes over a discipline; the dose curve's. */
const mostEpochs = 4
const doses = [1, 16] as const

/** Law 1, Balance-then-Diversity. */
export function declareBalance(setting: Setting): Law {
  const all = namesOf(setting.disciplines)
  const high = highResource(setting.disciplines)
  const arm = (name: string, title: string, data: Mixture): Arm => ({
    name,
    title,
    procedure: byDefault(setting, { data }),
  })
  const capped: Mixture = { disciplines: all, shares: 'capped', mostEpochs }
  const arms: Arm[] = [
    arm('left-out', 'low-resource disciplines left out', {
      disciplines: high,
      shares: 'proportional',
    }),
    arm('proportional', 'shares by size', { disciplines: all, shares: 'proportional' }),
    arm('equal', 'equal shares, random repeats', { disciplines: all, shares: 'equal' }),
    arm('capped', 'capped shares, random repeats', capped),
  ]
  if (setting.canDiversify)
    arms.push(
      arm('diverse', 'the same shares, diverse selection', { ...capped, shares: 'diverse' }),
    )
  if (setting.hasReserve)
    arms.push(arm('fresh', 'the same shares, fresh unique items', { ...capped, fresh: true }))
  for (const dose of doses)
    arms.push({
      ...arm(`dose-${dose}`, `capped shares, at most ${dose} passes`, {
        ...capped,
        mostEpochs: dose,
      }),
      seeds: 'one',
      extra: true,
    })
  const onAll = { on: all }
  const missing = [
    ...(setting.canDiversify ? [] : ['the trainer has no diverse selection']),
    ...(setting.hasReserve ? [] : ['there is no reserve of fresh items to see what repeats cost']),
  ]
  return {
    name: 'balance',
    title: 'Balance-then-Diversity',
    claim:
      'Low-resource disciplines cost the others when they are mixed in by size; upsampling them with diverse items gains more than repeats.',
    arms,
    contrasts: [
      {
        name: 'left-out minus proportional',
        title: 'what mixing in low-resource disciplines costs the others',
        weights: { 'left-out': 1, proportional: -1 },
        on: high,
      },
      ...(setting.canDiversify
        ? [
            {
              name: 'diverse minus proportional',
              title: 'what diverse upsampling gains over shares by size',
              weights: { diverse: 1, proportional: -1 },
              ...onAll,
            },
            {
              name: 'diverse minus capped',
              title: 'what diversity gains over random repeats',
              weights: { diverse: 1, capped: -1 },
              ...onAll,
            },
          ]
        : []),
    ],
    preconditions: setting.hasReserve
      ? [
          {
            name: 'fresh minus capped',
            title: 'what fresh items gain over repeats',
            weights: { fresh: 1, capped: -1 },
            ...onAll,
            atLeast: setting.delta,
          },
        ]
      : [],
    gates: [],
    notes: [
      `Low-resource: ${all.filter((name) => !high.includes(name)).join(', ') || 'none'}, with fewer trained tokens than an equal share.`,
      'Arms 3 to 5 of the plan have the same shares: UniMax under caps of whole passes.',
    ],
    ...(missing.length > 0 ? { missing: missing.join('; ') } : {}),
  }
}
