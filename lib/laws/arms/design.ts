import { namesOf, type Setting } from './law.js'
import {
  base,
  type ChoiceProcedure,
  type Method,
  type Mixture,
  type TrainProcedure,
} from '../procedure.js'

/** Of the tokens of a run: what a learning rate is tried with. */
const trialShare = 0.5

/** The default design, written in advance: all linear layers, and rsLoRA's scale, under which alpha goes with every rank. */
export function defaultMethod(rank: number): Method {
  return { kind: 'lora', rank, alpha: 8, rsLora: true, targets: 'all-linear' }
}

/** Every discipline has its share of what is trained: what arms have that differ in something else. */
export function equalShares(setting: Setting): Mixture {
  return { disciplines: namesOf(setting.disciplines), shares: 'equal' }
}

interface TrainingOptions {
  readonly from?: TrainProcedure['from']
  readonly tokens?: number
  readonly data?: Mixture
}

export function training(
  setting: Setting,
  method: Method,
  learningRate: TrainProcedure['learningRate'],
  options: TrainingOptions = {},
): TrainProcedure {
  const { from = base, tokens = setting.tokens, data = equalShares(setting) } = options
  return { kind: 'train', from, method, learningRate, data, tokens }
}

/** The setting's learning rates, tried for a method on equal shares. */
export function learningRateTrials(setting: Setting, method: Method): ChoiceProcedure {
  return {
    kind: 'choice',
    candidates: setting.learningRates.map((rate) => training(setting, method, rate)),
    rungs: [{ tokens: Math.round(trialShare * setting.tokens), keep: 1 }],
    seed: setting.searchSeed,
  }
}

/** Trains a method with the best of its own learning rates: as many trials for every arm. */
export function tuned(
  setting: Setting,
  method: Method,
  options: TrainingOptions = {},
): TrainProcedure {
  const by = learningRateTrials(setting, method)
  return training(setting, method, { by, what: 'learning rate' }, options)
}

/** The default design: the learning rate does not depend on the data, which is then all that such arms differ in. */
export function byDefault(setting: Setting, options: TrainingOptions = {}): TrainProcedure {
  return tuned(setting, defaultMethod(setting.rank), options)
}
