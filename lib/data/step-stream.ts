import type { CorpusGroup } from './corpus.js'
import { type OrderState, SampleOrder } from './order.js'
import { packBatch, type StepPlan } from './packed-batch.js'

export interface BatchOptions {
  /** Sequences a micro-batch; default 8. */
  readonly size?: number
  /** Or: as many sequences as fit in this many tokens, at least one. */
  readonly maxTokens?: number
  /** Micro-batches an optimiser step. */
  readonly accumulation: number
}

export interface StepStreamOptions {
  readonly batch: BatchOptions
  readonly shuffle: boolean
  readonly seed: number
}

const defaultSize = 8

interface Chosen {
  readonly group: number
  readonly index: number
  readonly sampleIndex: number
}

/** A step's micro-batches, and which samples of which files are in them. */
export interface CorpusStep extends StepPlan {
  readonly samples: readonly { readonly file: string; readonly line: number }[]
}

/** The endless stream of a run's optimiser steps. What comes next depends on the state alone. */
export class StepStream {
  readonly #groups: readonly CorpusGroup[]
  readonly #disciplineNames: readonly string[]
  readonly #options: StepStreamOptions
  readonly #order: SampleOrder
  /** Chosen but not yet used, because it did not fit in the last micro-batch. */
  #waiting: Chosen | null = null

  constructor(
    groups: readonly CorpusGroup[],
    disciplineNames: readonly string[],
    options: StepStreamOptions,
  ) {
    this.#groups = groups
    this.#disciplineNames = disciplineNames
    this.#options = options
    this.#order = orderOf(groups, options)
  }

  /** Where the next step begins. */
  get state(): OrderState & { readonly waiting: Chosen | null } {
    return { ...this.#order.state, waiting: this.#waiting }
  }

  restore(state: OrderState & { readonly waiting: Chosen | null }): void {
    this.#order.restore(state)
    this.#waiting = state.waiting
  }

  /** How many steps it takes until `epochs` times the weighted number of samples have been seen. */
  stepsFor(epochs: number): number {
    const wanted = epochs * this.#groups.reduce((sum, g) => sum + g.store.size * g.source.weight, 0)
    const { batch } = this.#options
    if (batch.maxTokens === undefined)
      return Math.max(
        1,
        Math.ceil(wanted / ((batch.size ?? defaultSize) * batch.accumulation) - 1e-9),
      )
    const rehearsal = new StepStream(this.#groups, this.#disciplineNames, this.#options)
    let steps = 0
    for (let samples = 0; samples < wanted - 1e-9; steps++)
      samples += rehearsal.#chooseStep().reduce((sum, chosen) => sum + chosen.length, 0)
    return Math.max(1, steps)
  }

  async next(): Promise<CorpusStep> {
    const chosen = this.#chooseStep()
    const batches = await Promise.all(
      chosen.map(async (batch) => {
        const samples = await Promise.all(
          batch.map(async ({ group, index, sampleIndex }) => {
            const { store, discipline } = this.#groups[group]
            return { example: { ...(await store.read(index)), discipline }, sampleIndex }
          }),
        )
        return packBatch(samples, this.#disciplineNames)
      }),
    )
    return {
      batches,
      trainedTokens: batches.reduce((sum, { labels }) => sum + labels.length, 0),
      samples: chosen.flat().map(({ group, index }) => ({
        file: this.#groups[group].source.path,
        line: this.#groups[group].lines[index],
      })),
    }
  }

  #chooseStep(): Chosen[][] {
    return Array.from({ length: this.#options.batch.accumulation }, () => this.#chooseBatch())
  }

  #chooseBatch(): Chosen[] {
    const { size, maxTokens } = this.#options.batch
    if (maxTokens === undefined)
      return Array.from({ length: size ?? defaultSize }, () => this.#choose())
    const chosen: Chosen[] = []
    let numTokens = 0
    for (;;) {
      const next = this.#waiting ?? this.#choose()
      this.#waiting = null
      const length = this.#groups[next.group].store.length(next.index)
      if (chosen.length > 0 && numTokens + length > maxTokens) {
        this.#waiting = next
        return chosen
      }
      chosen.push(next)
      numTokens += length
    }
  }

  #choose(): Chosen {
    // Philox takes 32 bits; a run of more samples repeats masks, not data.
    const sampleIndex = this.#order.state.position | 0
    return { ...this.#order.next(), sampleIndex }
  }
}

function orderOf(
  groups: readonly CorpusGroup[],
  { shuffle, seed }: StepStreamOptions,
): SampleOrder {
  const sizes = groups.map(({ store, source }) => ({ size: store.size, weight: source.weight }))
  return new SampleOrder(sizes, { shuffle, seed })
}
