import { defaultMethod, training, tuned } from './design.js'
import type { Law, Setting } from './law.js'
import type { ChoiceProcedure, Method, TrainProcedure } from '../procedure.js'

/** The sizes that are compared. */
export const ranks = [4, 16, 64] as const
const [smallest, , largest] = ranks

/**
 * What is tried beside the setting's learning rates, the default design among it; all with rsLoRA's scale, so that alpha goes
 * with every rank.
 */
const alphas = [4, 8, 16] as const
const choices: readonly Partial<Method>[] = [
  {},
  { dropout: 0.1 },
  { targets: ['q_proj', 'k_proj', 'v_proj', 'o_proj'] },
]
/** Parts of a run's tokens at each rung, and how many go on. */
const halving = [
  { share: 1 / 8, keep: 6 },
  { share: 1 / 4, keep: 2 },
  { share: 1 / 2, keep: 1 },
] as const

/**
 * Designs at one rank: learning rate, alpha, targets and dropout, by successive halving on validation.
 *
 * @param more changes of the default that are tried beside
 */
export function designSearch(
  setting: Setting,
  rank: number,
  more: readonly object[] = [],
): ChoiceProcedure {
  const candidates = setting.learningRates.flatMap((rate) =>
    alphas.flatMap((alpha) =>
      [...choices, ...more].map((choice) => {
        const method = { ...defaultMethod(rank), alpha, ...choice } as Method
        return training(setting, method, rate)
      }),
    ),
  )
  return {
    kind: 'choice',
    candidates,
    rungs: halving.map(({ share, keep }) => ({
      tokens: Math.round(share * setting.tokens),
      keep,
    })),
    seed: setting.searchSeed,
  }
}

/** Law 3, Optimize-then-Scale. "Scale" is trainable parameters: our reading. */
export function declareOptimize(setting: Setting): Law {
  const found = designSearch(setting, smallest)
  const withDesign = (by: ChoiceProcedure, rank: number): TrainProcedure =>
    training(setting, defaultMethod(rank), { by, what: 'design' })
  const small = `rank ${smallest}`
  const large = `rank ${largest}`
  return {
    name: 'optimize',
    title: 'Optimize-then-Scale',
    claim:
      'A design found at small size gains more than parameters do at the default design, and lets parameters gain more.',
    arms: [
      ...ranks.map((rank) => ({
        name: `default, rank ${rank}`,
        title: `the default design at rank ${rank}`,
        procedure: tuned(setting, defaultMethod(rank)),
      })),
      ...ranks.map((rank) => ({
        name: `found, rank ${rank}`,
        title: `the design found at rank ${smallest}, at rank ${rank}`,
        procedure: withDesign(found, rank),
      })),
      {
        name: `searched, rank ${largest}`,
        title: `the design found at rank ${largest} by as large a search`,
        procedure: withDesign(designSearch(setting, largest), largest),
      },
    ],
    contrasts: [
      {
        name: 'design gain minus scale gain',
        title: `(found minus default at rank ${smallest}) minus (rank ${largest} minus rank ${smallest} at the default)`,
        // The default at the smallest rank is in both, and goes out.
        weights: { [`found, ${small}`]: 1, [`default, ${large}`]: -1 },
        on: setting.disciplines.map(({ name }) => name),
      },
      {
        name: 'scale gain, found minus default',
        title: `what rank ${largest} gains over rank ${smallest}, at the found design less at the default`,
        weights: {
          [`found, ${large}`]: 1,
          [`found, ${small}`]: -1,
          [`default, ${large}`]: -1,
          [`default, ${small}`]: 1,
        },
        on: setting.disciplines.map(({ name }) => name),
      },
    ],
    preconditions: [],
    gates: [],
    notes: [
      '"Scale" is read as trainable parameters.',
      `The default design, written in advance: rsLoRA's scale, all linear layers, the best of ${setting.learningRates.length} learning rates at each rank.`,
    ],
  }
}
