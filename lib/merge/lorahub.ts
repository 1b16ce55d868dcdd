import { eigen } from '../adapters/factors.js'
import type { Device } from '../device.js'
import { ArgumentError } from '../errors.js'
import { RandomNumbers } from './random-numbers.js'

export interface WeightSearchOptions {
  /** Adapters, and so weights. */
  readonly count: number
  /** What is made small, such as the loss on a few examples of the task. Called one at a time. */
  readonly objective: (weights: readonly number[]) => Promise<number>
  readonly device: Device
  readonly seed?: number
  /** Most calls of the objective; default 40. */
  readonly budget?: number
  /** Weights stay within [-bound, bound]; default 1.5. */
  readonly bound?: number
  /** What a weight costs: penalty · mean |w| is added to the objective; default 0.05. */
  readonly penalty?: number
  readonly signal?: AbortSignal
}

export interface FoundWeights {
  readonly weights: readonly number[]
  /** With the penalty. */
  readonly value: number
  readonly evaluations: number
}

/**
 * LoraHub (Huang et al. 2023): the weights of a linear combination of adapters, found without a gradient from zero on, with
 * a penalty on their size. The search is CMA-ES with weighted recombination (Hansen 2016); an objective that is not finite
 * counts as the worst.
 *
 * @throws ArgumentError for options that leave nothing to search
 */
export async function searchWeights(options: WeightSearchOptions): Promise<FoundWeights> {
  const { count: n, budget = 40, bound = 1.5, penalty = 0.05, seed = 0 } = options
  if (!(Number.isInteger(n) && n > 0 && n <= 64) || !(Number.isInteger(budget) && budget > 0))
    throw new ArgumentError(
      `count must be from 1 to 64 and budget a whole number from 1, not ${n} and ${budget}`,
    )
  if (!(bound > 0 && bound < Infinity) || !(penalty >= 0 && penalty < Infinity))
    throw new ArgumentError(
      `bound must be above 0 and penalty not below it, not ${bound} and ${penalty}`,
    )
  const numbers = new RandomNumbers(options.device, seed)
  let evaluations = 0
  const evaluate = async (weights: number[]) => {
    options.signal?.throwIfAborted()
    evaluations++
    const cost = (penalty * weights.reduce((sum, weight) => sum + Math.abs(weight), 0)) / n
    const value = (await options.objective(weights)) + cost
    return { weights, value: Number.isFinite(value) ? value : Infinity }
  }
  const strategy = new Strategy(n, bound / 3)
  let best = await evaluate(new Array<number>(n).fill(0))
  while (evaluations < budget) {
    const generation: { step: number[]; value: number }[] = []
    for (let k = 0; k < strategy.population && evaluations < budget; k++) {
      const drawn = strategy.sample(await numbers.normal(n))
      const weights = drawn.map((weight) => Math.max(-bound, Math.min(bound, weight)))
      const one = await evaluate(weights)
      if (one.value < best.value) best = one
      generation.push({ step: strategy.stepTo(weights), value: one.value })
    }
    if (generation.length < strategy.population) break
    generation.sort((a, b) => a.value - b.value)
    strategy.update(generation.map(({ step }) => step))
  }
  return { ...best, evaluations }
}

/** Mean, step size and covariance of CMA-ES, with the constants of Hansen's tutorial (arXiv 1604.00772, table 1). */
class Strategy {
  readonly population: number
  readonly #n: number
  readonly #recombination: readonly number[]
  readonly #selected: number
  readonly #mean: number[]
  #sigma: number
  #covariance: number[][]
  #axes: { values: number[]; vectors: number[][] }
  #pathC: number[]
  #pathSigma: number[]
  #generations = 0

  constructor(n: number, sigma: number) {
    this.#n = n
    this.population = 4 + Math.floor(3 * Math.log(n))
    const half = Math.floor(this.population / 2)
    const raw = Array.from(
      { length: half },
      (_, i) => Math.log((this.population + 1) / 2) - Math.log(i + 1),
    )
    const total = raw.reduce((a, b) => a + b, 0)
    this.#recombination = raw.map((weight) => weight / total)
    this.#selected = 1 / this.#recombination.reduce((sum, weight) => sum + weight ** 2, 0)
    this.#sigma = sigma
    this.#mean = new Array<number>(n).fill(0)
    this.#covariance = Array.from({ length: n }, (_, i) =>
      Array.from({ length: n }, (_, j) => Number(i === j)),
    )
    this.#axes = eigen(this.#covariance)
    this.#pathC = new Array<number>(n).fill(0)
    this.#pathSigma = new Array<number>(n).fill(0)
  }

  /** mean + sigma · C^½ z */
  sample(z: readonly number[]): number[] {
    const { values, vectors } = this.#axes
    return this.#mean.map((mean, i) => {
      let sum = 0
      for (let k = 0; k < this.#n; k++)
        sum += vectors[i][k] * Math.sqrt(Math.max(0, values[k])) * z[k]
      return mean + this.#sigma * sum
    })
  }

  stepTo(point: readonly number[]): number[] {
    return point.map((value, i) => (value - this.#mean[i]) / this.#sigma)
  }

  /** @param steps of a whole generation, best first */
  update(steps: readonly (readonly number[])[]): void {
    const n = this.#n
    const mu = this.#selected
    const cSigma = (mu + 2) / (n + mu + 5)
    const dSigma = 1 + 2 * Math.max(0, Math.sqrt((mu - 1) / (n + 1)) - 1) + cSigma
    const cC = (4 + mu / n) / (n + 4 + (2 * mu) / n)
    const c1 = 2 / ((n + 1.3) ** 2 + mu)
    const cMu = Math.min(1 - c1, (2 * (mu - 2 + 1 / mu)) / ((n + 2) ** 2 + mu))
    const expected = Math.sqrt(n) * (1 - 1 / (4 * n) + 1 / (21 * n * n))
    const step = this.#mean.map((_, i) =>
      this.#recombination.reduce((sum, weight, k) => sum + weight * steps[k][i], 0),
    )
    step.forEach((value, i) => (this.#mean[i] += this.#sigma * value))
    const white = this.#whiten(step)
    const keepSigma = Math.sqrt(cSigma * (2 - cSigma) * mu)
    this.#pathSigma = this.#pathSigma.map((value, i) => (1 - cSigma) * value + keepSigma * white[i])
    const length = Math.hypot(...this.#pathSigma)
    this.#generations++
    const settled = length / Math.sqrt(1 - (1 - cSigma) ** (2 * this.#generations))
    const moves = settled < (1.4 + 2 / (n + 1)) * expected ? 1 : 0
    const keepC = moves * Math.sqrt(cC * (2 - cC) * mu)
    this.#pathC = this.#pathC.map((value, i) => (1 - cC) * value + keepC * step[i])
    const lost = (1 - moves) * c1 * cC * (2 - cC)
    this.#covariance = this.#covariance.map((row, i) =>
      row.map((value, j) => {
        const many = this.#recombination.reduce(
          (sum, weight, k) => sum + weight * steps[k][i] * steps[k][j],
          0,
        )
        const one = this.#pathC[i] * this.#pathC[j]
        return (1 - c1 - cMu + lost) * value + c1 * one + cMu * many
      }),
    )
    this.#sigma *= Math.exp((cSigma / dSigma) * (length / expected - 1))
    this.#axes = eigen(this.#covariance)
  }

  /** C^-½ x */
  #whiten(x: readonly number[]): number[] {
    const { values, vectors } = this.#axes
    return x.map((_, i) => {
      let sum = 0
      for (let k = 0; k < this.#n; k++) {
        let along = 0
        for (let j = 0; j < this.#n; j++) along += vectors[j][k] * x[j]
        sum += (vectors[i][k] * along) / Math.sqrt(Math.max(1e-30, values[k]))
      }
      return sum
    })
  }
}
