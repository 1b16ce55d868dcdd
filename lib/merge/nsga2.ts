import type { Device } from '../device.js'
import { ArgumentError } from '../errors.js'
import { RandomNumbers } from './random-numbers.js'

export interface ParetoSearchOptions {
  /** Adapters, and so weights. */
  readonly count: number
  /** What is made small, all at once: losses, or accuracies with their sign turned. Called one at a time. */
  readonly objectives: (weights: readonly number[]) => Promise<readonly number[]>
  readonly device: Device
  readonly seed?: number
  /** Default 16; even. */
  readonly population?: number
  /** Default 10. The objectives are called (generations + 1) · population times. */
  readonly generations?: number
  /** Of each weight; default [0, 1]. */
  readonly range?: readonly [number, number]
  readonly signal?: AbortSignal
}

/** Weights and what they give. */
export interface ParetoPoint {
  readonly weights: readonly number[]
  readonly values: readonly number[]
}

interface Individual extends ParetoPoint {
  rank: number
  crowding: number
}

// Distribution indices of crossover and mutation, and the crossover's probability, as Deb et al. use them.
const crossoverIndex = 20
const mutationIndex = 20
const crossoverProbability = 0.9

/**
 * The weights of a composition that no other found ones beat in every objective, by NSGA-II (Deb et al. 2002): sorting into
 * fronts, crowding distance, binary tournaments, simulated binary crossover and polynomial mutation. The corners are
 * among the first: each adapter alone, and all alike.
 *
 * @returns the first front, in the order of the first objective
 * @throws ArgumentError for options out of range, or objectives that differ in number or are not finite
 */
export async function searchPareto(options: ParetoSearchOptions): Promise<ParetoPoint[]> {
  const { count, population = 16, generations = 10, seed = 0 } = options
  const [low, high] = options.range ?? [0, 1]
  if (!(Number.isInteger(count) && count > 0 && count <= 64))
    throw new ArgumentError(`count must be a whole number from 1 to 64, not ${count}`)
  if (!(Number.isInteger(population) && population >= 4 && population % 2 === 0))
    throw new ArgumentError(`population must be an even number from 4, not ${population}`)
  if (!(Number.isInteger(generations) && generations >= 0) || !(low < high))
    throw new ArgumentError(
      `generations must be a whole number and range rise, not ${generations} and [${low}, ${high}]`,
    )
  const numbers = new RandomNumbers(options.device, seed)
  let width: number | null = null
  const evaluate = async (weights: readonly number[]): Promise<Individual> => {
    options.signal?.throwIfAborted()
    const values = await options.objectives(weights)
    width ??= values.length
    if (values.length !== width || width === 0 || !values.every(Number.isFinite))
      throw new ArgumentError(
        `the objectives of [${weights.join(', ')}] are [${values.join(', ')}]; ${width || 1} finite numbers are needed`,
      )
    return { weights, values, rank: 0, crowding: 0 }
  }
  let parents: Individual[] = []
  for (const weights of await firstWeights(count, population, [low, high], numbers))
    parents.push(await evaluate(weights))
  rankAll(parents)
  for (let generation = 0; generation < generations; generation++) {
    const children: Individual[] = []
    while (children.length < population) {
      const [a, b] = [await tournament(parents, numbers), await tournament(parents, numbers)]
      for (const weights of await cross(a.weights, b.weights, [low, high], numbers))
        children.push(await evaluate(await mutate(weights, [low, high], numbers)))
    }
    const all = [...parents, ...children]
    rankAll(all)
    parents = all.sort(compare).slice(0, population)
  }
  const front = parents.filter(({ rank }) => rank === 0)
  return front
    .map(({ weights, values }) => ({ weights, values }))
    .sort((a, b) => a.values[0] - b.values[0])
    .filter(({ weights }, i, list) => i === 0 || String(weights) !== String(list[i - 1].weights))
}

async function firstWeights(
  count: number,
  population: number,
  [low, high]: readonly [number, number],
  numbers: RandomNumbers,
): Promise<number[][]> {
  const known = Array.from({ length: count }, (_, k) =>
    Array.from({ length: count }, (_, i) => (i === k ? high : low)),
  )
  known.push(new Array<number>(count).fill(low + (high - low) / count))
  while (known.length < population) {
    const draws = await numbers.uniform(count)
    known.push(draws.map((value) => low + (high - low) * value))
  }
  return known.slice(0, population)
}

/** A better front first, then the emptier place in it. */
function compare(a: Individual, b: Individual): number {
  return a.rank - b.rank || b.crowding - a.crowding
}

function dominates(a: Individual, b: Individual): boolean {
  return (
    a.values.every((value, i) => value <= b.values[i]) &&
    a.values.some((value, i) => value < b.values[i])
  )
}

/** Gives every individual its front and its crowding distance there. */
function rankAll(all: readonly Individual[]): void {
  let rest = [...all]
  for (let rank = 0; rest.length > 0; rank++) {
    const front = rest.filter((one) => !rest.some((other) => dominates(other, one)))
    for (const one of front) Object.assign(one, { rank, crowding: 0 })
    for (let k = 0; k < front[0].values.length; k++) {
      const sorted = [...front].sort((a, b) => a.values[k] - b.values[k])
      const span = sorted.at(-1)!.values[k] - sorted[0].values[k]
      sorted[0].crowding = sorted.at(-1)!.crowding = Infinity
      for (let i = 1; i + 1 < sorted.length && span > 0; i++)
        sorted[i].crowding += (sorted[i + 1].values[k] - sorted[i - 1].values[k]) / span
    }
    const taken = new Set(front)
    rest = rest.filter((one) => !taken.has(one))
  }
}

async function tournament(
  parents: readonly Individual[],
  numbers: RandomNumbers,
): Promise<Individual> {
  const [a, b] = (await numbers.uniform(2)).map(
    (value) => parents[Math.floor(value * parents.length)],
  )
  return compare(a, b) <= 0 ? a : b
}

/** Simulated binary crossover within the range (Deb and Agrawal 1995). */
async function cross(
  a: readonly number[],
  b: readonly number[],
  range: readonly [number, number],
  numbers: RandomNumbers,
): Promise<[number[], number[]]> {
  const draws = await numbers.uniform(1 + 2 * a.length)
  if (draws[0] >= crossoverProbability) return [[...a], [...b]]
  const one = [...a]
  const two = [...b]
  for (let i = 0; i < a.length; i++) {
    if (draws[1 + 2 * i] < 0.5) continue
    const u = draws[2 + 2 * i]
    const spread = (u < 0.5 ? 2 * u : 1 / (2 * (1 - u))) ** (1 / (crossoverIndex + 1))
    one[i] = clamp(((1 + spread) * a[i] + (1 - spread) * b[i]) / 2, range)
    two[i] = clamp(((1 - spread) * a[i] + (1 + spread) * b[i]) / 2, range)
  }
  return [one, two]
}

/** Polynomial mutation of one weight on average. */
async function mutate(
  weights: readonly number[],
  range: readonly [number, number],
  numbers: RandomNumbers,
): Promise<number[]> {
  const draws = await numbers.uniform(2 * weights.length)
  return weights.map((weight, i) => {
    if (draws[2 * i] >= 1 / weights.length) return weight
    const u = draws[2 * i + 1]
    const power = 1 / (mutationIndex + 1)
    const shift = u < 0.5 ? (2 * u) ** power - 1 : 1 - (2 * (1 - u)) ** power
    return clamp(weight + shift * (range[1] - range[0]), range)
  })
}

function clamp(value: number, [low, high]: readonly [number, number]): number {
  return Math.max(low, Math.min(high, value))
}
