import type { Tensor } from './tensor.js'
import type { Weight } from './weight.js'

/**
 * A named float32 value of a model or an adapter. Frozen until a gradient buffer is attached; backward rules add to
 * `gradient` and never overwrite it, so accumulation over micro-batches needs nothing more.
 */
export class Parameter {
  readonly name: string
  readonly value: Tensor
  gradient: Tensor | null = null
  /** The packed copy that the products read; whoever changes `value` repacks it. */
  readonly packed: Weight | null

  /** Takes over one ownership of `value`. */
  constructor(name: string, value: Tensor, packed: Weight | null = null) {
    this.name = name
    this.value = value
    this.packed = packed
  }

  dispose(): void {
    this.gradient?.release()
    this.gradient = null
    this.value.release()
  }
}

/** The matrix of a linear layer or an embedding: packed for the products; `master` exists only where it is trained. */
export interface Matrix {
  readonly name: string
  /** [rows, columns]: [out, in] of a linear layer, [vocabulary, hidden] of an embedding. */
  weight: Weight
  master: Parameter | null
}

/** y = x Wᵀ + bias */
export interface Linear {
  readonly matrix: Matrix
  readonly bias: Parameter | null
}
