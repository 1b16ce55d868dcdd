import { byDefault } from './design.js'
import { type Arm, equalTokens, type Law, namesOf, type Setting } from './law.js'
import type { Mixture } from '../procedure.js'

/** Of each discipline's items, drawn anew by each run's seed. */
const subset = 0.8

/** The paper's headline: runs over several disciplines vary more than runs over one. The definition is ours. */
export function declareVariability(setting: Setting): Law {
  const names = namesOf(setting.disciplines)
  const tokens = equalTokens(setting)
  const over = (disciplines: readonly string[], share: number): Arm['procedure'] => {
    const data: Mixture = { disciplines, shares: 'equal', subset }
    return byDefault(setting, { data, tokens: share })
  }
  const multi: Arm = {
    name: 'multi',
    title: 'one run over all disciplines',
    procedure: over(names, setting.tokens),
  }
  const singles = names.map((name): Arm => ({
    name: `single ${name}`,
    title: `runs over ${name} alone, with its tokens of the other`,
    procedure: over([name], tokens[name]),
  }))
  // With the seed and the items of the first run over all: who is beside a discipline is all that differs.
  const among =
    names.length < 3
      ? []
      : names.map((name): Arm => {
          const others = names.filter((other) => other !== name)
          return {
            name: `multi without ${name}`,
            title: `one run over the others, with their tokens of ${multi.name}`,
            procedure: over(
              others,
              others.reduce((sum, other) => sum + tokens[other], 0),
            ),
            seeds: 'one',
            extra: true,
            without: name,
          }
        })
  return {
    name: 'variability',
    title: 'Variability',
    claim:
      'Runs over several disciplines vary more from seed to seed and subset to subset than runs over one.',
    arms: [
      multi,
      ...singles,
      {
        name: 'multi, tokens of a single',
        title: 'one run over all disciplines, with as many tokens in all as a mean single',
        procedure: over(names, Math.round(setting.tokens / names.length)),
        extra: true,
      },
      ...among,
    ],
    contrasts: [],
    preconditions: [],
    gates: [],
    notes: [
      `Each run has its own seed and ${100 * subset}% of every discipline's items, the same in both conditions.`,
      'Outcome: log-likelihood of the right answer per token. The spread of accuracy depends on its level.',
      'The definition of variability is ours.',
    ],
    variability: {
      runs: setting.variabilityRuns,
      multi: multi.name,
      singles: Object.fromEntries(names.map((name, i) => [name, singles[i].name])),
    },
  }
}
