import { DataError } from '../errors.js'
import type { CorpusGroup } from './corpus.js'
import { type Order, type OrderState, SampleOrder } from './order.js'
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
  /** The last step holds what is left of so many epochs; default: the stream has no end. */
  readonly epochs?: number
  /** Which sample comes when, anew from the first; default: the groups by their sizes and weights. */
  readonly order?: () => Order
}

export const defaultSize = 8
const stepsBetweenPauses = 64

interface Chosen {
  readonly group: number
  readonly index: number
  readonly sampleIndex: number
}

/** A step's micro-batches, and which samples of which files are in them. */
export interface CorpusStep extends StepPlan {
  readonly samples: readonly { readonly file: string; readonly line: number }[]
}

/** Where a stream stands. Small, and JSON. */
export interface StepStreamState extends OrderState {
  readonly waiting: Chosen | null
}

/** The stream of a run's optimiser steps. What comes next depends on the state alone. */
export class StepStream {
  readonly #groups: readonly CorpusGroup[]
  readonly #disciplineNames: readonly string[]
  readonly #options: StepStreamOptions
  readonly #order: Order
  /** Samples of the whole run. */
  readonly #end: number
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
    this.#order = options.order?.() ?? orderOf(groups, options)
    const { epochs = Infinity } = options
    this.#end = Math.max(1, Math.round(epochs * samplesPerEpoch(groups)))
  }

  /** Where the next step begins. */
  get state(): StepStreamState {
    return { ...this.#order.state, waiting: this.#waiting }
  }

  restore(state: StepStreamState): void {
    this.#order.restore(state)
    this.#waiting = state.waiting
  }

  /** How many steps `epochs` epochs take. In one epoch a sample of weight 1 is seen once. */
  async stepsFor(epochs: number): Promise<number> {
    const { batch } = this.#options
    const rehearsal = new StepStream(this.#groups, this.#disciplineNames, {
      ...this.#options,
      epochs,
    })
    if (batch.maxTokens === undefined)
      return Math.ceil(rehearsal.#end / ((batch.size ?? defaultSize) * batch.accumulation))
    // Batches by tokens have to be made to be counted; the event loop runs in between.
    let steps = 0
    while (rehearsal.#chooseStep().length > 0)
      if (++steps % stepsBetweenPauses === 0) await new Promise((resolve) => setImmediate(resolve))
    return steps
  }

  /** @throws DataError after the last step of a stream that has an end */
  async next(): Promise<CorpusStep> {
    const chosen = this.#chooseStep()
    if (chosen.length === 0) throw new DataError('there is no step left in the epochs of this run')
    return await this.#read(chosen)
  }

  /** Of the first `steps` steps the one with the micro-batch of the most tokens. This stream stays where it is. */
  async largestStep(steps: number): Promise<CorpusStep> {
    const rehearsal = new StepStream(this.#groups, this.#disciplineNames, this.#options)
    let largest: Chosen[][] = []
    let most = -1
    for (let step = 1; step <= steps; step++) {
      const chosen = rehearsal.#chooseStep()
      if (chosen.length === 0) break
      const tokens = Math.max(...chosen.map((batch) => this.#tokensOf(batch)))
      if (tokens > most) [largest, most] = [chosen, tokens]
      if (step % stepsBetweenPauses === 0) await new Promise((resolve) => setImmediate(resolve))
    }
    return await this.#read(largest)
  }

  /** A step of one micro-batch that no order fills with more tokens, unless it draws a sample twice. */
  async fullestStep(): Promise<CorpusStep> {
    const { size = defaultSize, maxTokens } = this.#options.batch
    const samples: Chosen[] = this.#groups.flatMap(({ store }, group) =>
      Array.from({ length: store.size }, (_, index) => ({ group, index, sampleIndex: 0 })),
    )
    const lengthOf = ({ group, index }: Chosen) => this.#groups[group].store.length(index)
    samples.sort((a, b) => lengthOf(b) - lengthOf(a))
    if (maxTokens === undefined) return await this.#read([samples.slice(0, size)])
    const batch = samples.slice(0, 1)
    let tokens = lengthOf(samples[0])
    for (const sample of samples.slice(1)) {
      if (tokens + lengthOf(sample) > maxTokens) continue
      batch.push(sample)
      tokens += lengthOf(sample)
    }
    return await this.#read([batch])
  }

  #tokensOf(batch: readonly Chosen[]): number {
    return batch.reduce((sum, { group, index }) => sum + this.#groups[group].store.length(index), 0)
  }

  async #read(chosen: readonly Chosen[][]): Promise<CorpusStep> {
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
    const batches: Chosen[][] = []
    while (batches.length < this.#options.batch.accumulation) {
      const batch = this.#chooseBatch()
      if (batch.length === 0) break
      batches.push(batch)
    }
    return batches
  }

  #chooseBatch(): Chosen[] {
    const { size = defaultSize, maxTokens } = this.#options.batch
    const chosen: Chosen[] = []
    let numTokens = 0
    while (maxTokens !== undefined || chosen.length < size) {
      const next = this.#waiting ?? this.#choose()
      this.#waiting = null
      if (next === null) break
      if (maxTokens !== undefined) {
        const length = this.#groups[next.group].store.length(next.index)
        if (chosen.length > 0 && numTokens + length > maxTokens) {
          this.#waiting = next
          break
        }
        numTokens += length
      }
      chosen.push(next)
    }
    return chosen
  }

  #choose(): Chosen | null {
    const { position } = this.#order
    if (position >= this.#end) return null
    // Philox takes 32 bits; a run of more samples repeats masks, not data.
    return { ...this.#order.next(), sampleIndex: position | 0 }
  }
}

function samplesPerEpoch(groups: readonly CorpusGroup[]): number {
  return groups.reduce((sum, { store, source }) => sum + store.size * source.weight, 0)
}

function orderOf(
  groups: readonly CorpusGroup[],
  { shuffle, seed }: StepStreamOptions,
): SampleOrder {
  const sizes = groups.map(({ store, source }) => ({ size: store.size, weight: source.weight }))
  return new SampleOrder(sizes, { shuffle, seed })
}
