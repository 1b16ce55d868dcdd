import { ConfigError } from '../../errors.js'
import { apportion, waterFill } from './water-fill.js'

/** What a discipline holds without duplicates. */
export interface Content {
  readonly name: string
  readonly size: number
  /** Trained ones. */
  readonly tokens: number
  /** Of a sample, in tokens. */
  readonly meanLength: number
}

export interface ShareOptions {
  /** Shares go by n^(1/temperature), n being trained tokens without duplicates: 1 proportional, Infinity equal. */
  readonly temperature: number
  /** By discipline, in place of the temperature. */
  readonly weights?: Readonly<Record<string, number>>
  /** Disciplines one after another; null: at once. */
  readonly sequence: readonly string[] | null
  /** What the run draws: samples, or at most so many tokens in all. */
  readonly budget: { readonly samples: number } | { readonly tokens: number }
}

/** N_d = 1 + (N_max - 1) min(1, V_d / median V); 1 where the diversity is not known. */
export function epochCaps(
  { maxEpochs, by }: { readonly maxEpochs: number; readonly by: 'equal' | 'diversity' },
  diversity: readonly (number | null)[],
): number[] {
  if (by === 'equal') return diversity.map(() => maxEpochs)
  const known = diversity.filter((one) => one !== null).sort((a, b) => a - b)
  const middle = (known[(known.length - 1) >> 1] + known[known.length >> 1]) / 2
  return diversity.map((one) =>
    one === null ? 1 : 1 + (maxEpochs - 1) * Math.min(1, one / middle),
  )
}

/** Whole samples in so many passes over `size`. */
export function samplesWithin(epochs: number, size: number): number {
  return Math.floor(epochs * size + 1e-9)
}

/**
 * Samples to draw from each discipline: whole numbers within the caps where there is an end to plan for, else in
 * proportion. Weights are shares of trained tokens, so a discipline with shorter samples gets more of them.
 */
export function drawsOf(
  contents: readonly Content[],
  maxEpochs: readonly number[] | null,
  options: ShareOptions,
): number[] {
  const { budget, sequence } = options
  const weights = contents.map((one) =>
    one.tokens === 0 ? 0 : (weightOf(one, options) * one.size) / one.tokens,
  )
  const prices = contents.map(({ meanLength }) => ('tokens' in budget ? meanLength : 1))
  const wanted = 'tokens' in budget ? budget.tokens : budget.samples
  const caps = contents.map(({ size }, i) =>
    maxEpochs ? samplesWithin(maxEpochs[i], size) : size > 0 ? Infinity : 0,
  )
  const amounts = waterFill(weights, caps, wanted, prices)
  if (!maxEpochs && !sequence) return amounts
  const reached = amounts.reduce((sum, amount, i) => sum + prices[i] * amount, 0)
  if (reached < wanted * (1 - 1e-9))
    throw new ConfigError(
      `data.mixing: the run draws ${describeBudget(budget)}, and the caps of ${caps.map((cap, i) => `${contents[i].name} ${cap}`).join(', ')} samples allow ${Math.floor(reached)}: raise maxEpochs, or train fewer steps`,
      { details: { key: 'data.mixing', needed: wanted, allowed: reached } },
    )
  const total =
    'samples' in budget
      ? budget.samples
      : Math.min(
          caps.reduce((sum, cap) => sum + cap, 0),
          Math.ceil(amounts.reduce((sum, amount) => sum + amount, 0)),
        )
  return apportion(amounts, caps, total)
}

function weightOf({ name, tokens }: Content, { temperature, weights }: ShareOptions): number {
  if (!weights) return tokens ** (1 / temperature)
  if (!Object.hasOwn(weights, name))
    throw new ConfigError(
      `data.mixing: there is no weight for ${JSON.stringify(name)}, only for ${Object.keys(weights).join(', ')}`,
      { details: { key: 'data.mixing', received: Object.keys(weights) } },
    )
  return weights[name]
}

function describeBudget(budget: ShareOptions['budget']): string {
  return 'samples' in budget ? `${budget.samples} samples` : `up to ${budget.tokens} tokens`
}
