import type { StepPlan } from '../data/packed-batch.js'

export interface DomainWeightsOptions {
  /** Of the exponent. */
  readonly stepSize: number
  /** Part of the uniform weights that is mixed in after each step. */
  readonly smoothing: number
}

/**
 * DoReMi's weights of disciplines while a proxy trains. After each step a weight grows by exp(stepSize · excess), the
 * excess being the mean of max(0, proxy's loss - reference's) over the discipline's tokens; then all are divided by their
 * sum, and a little of the uniform weights is mixed in. A discipline without a token has no excess.
 */
export class DomainWeights {
  readonly #names: readonly string[]
  readonly #options: DomainWeightsOptions
  readonly #weights: Map<string, number>
  readonly #sums: Map<string, number>
  #steps = 0

  constructor(names: readonly string[], options: DomainWeightsOptions) {
    this.#names = names
    this.#options = options
    this.#weights = new Map(names.map((name) => [name, 1 / names.length]))
    this.#sums = new Map(names.map((name) => [name, 0]))
  }

  /** The step's loss becomes Σ weight · mean loss of the discipline's tokens. */
  weigh<T extends StepPlan>(plan: T): T {
    const counts = new Map<string, number>()
    for (const { labelDiscipline, disciplineNames } of plan.batches)
      for (const one of labelDiscipline)
        counts.set(disciplineNames[one], (counts.get(disciplineNames[one]) ?? 0) + 1)
    return {
      ...plan,
      batches: plan.batches.map((batch) => ({
        ...batch,
        labelWeight: Float32Array.from(batch.labelDiscipline, (one) => {
          const name = batch.disciplineNames[one]
          return (this.#weights.get(name)! * plan.trainedTokens) / counts.get(name)!
        }),
      })),
    }
  }

  /** @param losses of all trained tokens of the step, the proxy's; @param expected likewise, the reference's */
  update(plan: StepPlan, losses: Float32Array, expected: Float32Array): void {
    for (const name of this.#names)
      this.#sums.set(name, this.#sums.get(name)! + this.#weights.get(name)!)
    this.#steps++
    const excess = new Map(this.#names.map((name) => [name, { sum: 0, count: 0 }]))
    let at = 0
    for (const { labelDiscipline, disciplineNames } of plan.batches)
      for (const one of labelDiscipline) {
        const entry = excess.get(disciplineNames[one])!
        entry.sum += Math.max(0, losses[at] - expected[at])
        entry.count++
        at++
      }
    // A step that was not finite says nothing.
    if ([...excess.values()].some(({ sum }) => !Number.isFinite(sum))) return
    const { stepSize, smoothing } = this.#options
    const grown = this.#names.map((name) => {
      const { sum, count } = excess.get(name)!
      return Math.log(this.#weights.get(name)!) + (stepSize * sum) / Math.max(1, count)
    })
    const largest = Math.max(...grown)
    const total = grown.reduce((sum, one) => sum + Math.exp(one - largest), 0)
    this.#names.forEach((name, i) => {
      const share = Math.exp(grown[i] - largest) / total
      this.#weights.set(name, (1 - smoothing) * share + smoothing / this.#names.length)
    })
  }

  /** Over the steps so far, each with the weights that it was trained with; before the first, as they are. */
  mean(): Map<string, number> {
    if (this.#steps === 0) return new Map(this.#weights)
    return new Map([...this.#sums].map(([name, sum]) => [name, sum / this.#steps]))
  }
}
