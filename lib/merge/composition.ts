/**
 * What every composition works on: the task vectors of one tensor, a few rows at a time. A task vector is what a model
 * has and its base does not: ΔW = W - W0, or s · B A of an adapter with its exact scaling. So a composition never sees
 * A and B, and cannot mix one adapter's A with another's B.
 */
export interface TaskTensor {
  readonly name: string
  /** A vector is one row. */
  readonly rows: number
  readonly columns: number
  /** Models that are merged. */
  readonly count: number
  /** Of the composition, by mergekit's names; every one that it declares is there. */
  readonly parameters: Parameters
  /** Of each model. */
  readonly each: readonly Parameters[]
  /** The whole tensor from its first row on; may be gone through any number of times. */
  chunks(): AsyncIterable<Chunk>
  /**
   * Uniform numbers in [0, 1) for elements begin … end of one model's task vector: Philox, keyed by seed, model, tensor and
   * element, so that a draw depends on nothing else.
   */
  random(model: number, begin: number, end: number): Promise<Float32Array>
}

export type Parameters = Readonly<Record<string, number>>

/** Whole rows of a tensor, and of each model's task vector. Nobody writes to them. */
export interface Chunk {
  /** Of the first element, in C order. */
  readonly begin: number
  readonly base: Float32Array
  readonly deltas: readonly Float32Array[]
  /** The diagonal of each model's Fisher information, where the recipe names it; else empty. */
  readonly information: readonly Float32Array[]
}

/** Fills `out` with the merged rows of a chunk. Chunks come in order, from the first row to the last. */
export type RowRule = (chunk: Chunk, out: Float32Array) => void | Promise<void>

/** Looks at the whole tensor as often as it must, and says how its rows are merged. */
export type Composition = (tensor: TaskTensor) => RowRule | Promise<RowRule>
