import type { Tape } from '../autograd.js'
import type { Device } from '../device.js'
import type { Tensor } from '../tensor.js'

/** What every operation of one forward pass needs beside its operands. T counts the packed tokens. */
export interface Pass {
  readonly device: Device
  /** Null: nothing is recorded. */
  readonly tape: Tape | null
  /** Null: no dropout (evaluation, generation). */
  readonly dropout: DropoutRows | null
}

/** The numbers that key dropout masks, so that a mask depends on the sample and never on its place in a batch. */
export interface DropoutRows {
  /** i32 [1]: the optimiser step. */
  readonly step: Tensor
  /** i32 [T]: the global index of each row's sample. */
  readonly rowSample: Tensor
  /** i32 [T]: each row's position in its sample. */
  readonly rowPosition: Tensor
}
