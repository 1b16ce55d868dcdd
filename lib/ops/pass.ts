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
  /** What mixtures know of the rows beside x; absent: nothing. */
  readonly routing?: RoutingRows | null
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

/** What gates by discipline, routers' losses and their statistics need. */
export interface RoutingRows {
  /** i32 [T]: the discipline of each row, as the adapter numbers them. */
  readonly rowDiscipline: Tensor
  /** i32 [T]: the expert that each row should be sent to, or -1; null: any. */
  readonly rowExpert: Tensor | null
  /** f32 [1]: what one row counts in the routers' own losses: one over the tokens of the step and over the routers. */
  readonly lossScale: Tensor | null
}

/** The same pass for rows begin … end - 1 alone. */
export function rowsOfPass(pass: Pass, begin: number, end: number): Pass {
  const cut = (rows: Tensor) => rows.slice(0, begin, end)
  const { dropout, routing } = pass
  return {
    ...pass,
    dropout: dropout && {
      step: dropout.step,
      rowSample: cut(dropout.rowSample),
      rowPosition: cut(dropout.rowPosition),
    },
    routing: routing && {
      rowDiscipline: cut(routing.rowDiscipline),
      rowExpert: routing.rowExpert && cut(routing.rowExpert),
      lossScale: routing.lossScale,
    },
  }
}
