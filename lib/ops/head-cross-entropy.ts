import type { Matrix } from '../parameter.js'
import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

export interface HeadCrossEntropyOptions {
  /** f32 [1]: one over the trained tokens of the whole optimiser step, so that accumulation changes nothing. */
  lossScale: Tensor
  /** f32 [L], else 1 */
  rowWeight?: Tensor | null
  /** Also return the most likely token of each labelled row. */
  wantsArgmax?: boolean
}

/**
 * Output head and cross entropy on the labelled rows alone; logits never exist as a whole. The gradient is made in the
 * same pass, scaled by lossScale and rowWeight: this is where a backward pass starts.
 *
 * @param x f32 [T, D]
 * @param head [vocabulary, D]
 * @param rows i32 [L], strictly increasing, below T
 * @param labels i32 [L], below the vocabulary
 * @returns loss f32 [L]: -log p(label), in nats, neither weighted nor scaled; argmax i32 [L] if asked for
 */
export function headCrossEntropy(
  pass: Pass,
  x: Tensor,
  head: Matrix,
  rows: Tensor,
  labels: Tensor,
  options: HeadCrossEntropyOptions,
): { loss: Tensor; argmax: Tensor | null } {
  const { device, tape } = pass
  const numLabels = rows.shape[0]
  const loss = Tensor.empty(device, [numLabels])
  const argmax = options.wantsArgmax ? Tensor.empty(device, [numLabels], 'i32') : null
  const dx = tape?.tracks(x) ? Tensor.empty(device, x.shape) : null
  device.run('head_cross_entropy', {
    x: x.native,
    weight: head.weight.native,
    rows: rows.native,
    labels: labels.native,
    rowWeight: options.rowWeight?.native,
    lossScale: options.lossScale.native,
    loss: loss.native,
    argmax: argmax?.native,
    dX: dx?.native,
    dWeight: tape ? head.master?.gradient?.native : null,
  })
  if (tape && dx) tape.record({ inputs: [x], outputs: [], saved: [dx], backward: () => [dx] })
  return { loss, argmax }
}
