import type { Matrix } from '../parameter.js'
import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

/**
 * The output head on the given rows alone. Not differentiable: training goes through headCrossEntropy.
 *
 * @param hidden f32 [T, D]
 * @param rows i32 [B], below T
 * @returns f32 [B, vocabulary]
 */
export function logits(pass: Pass, hidden: Tensor, rows: Tensor, head: Matrix): Tensor {
  const { device } = pass
  const numRows = rows.shape[0]
  const x = Tensor.empty(device, [numRows, head.weight.columns])
  device.run('gather_rows', { source: hidden.native, indices: rows.native, y: x.native })
  const y = Tensor.empty(device, [numRows, head.weight.rows])
  device.run('matmul', {
    layout: 'nt',
    segments: [{ x: x.native, weight: head.weight.native }],
    y: y.native,
  })
  return y
}
