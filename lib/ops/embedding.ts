import type { Matrix } from '../parameter.js'
import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

/**
 * y[t] = table[inputIds[t]]. The gradient of a trained table is a deterministic scatter-add.
 *
 * @param inputIds i32 [T], each below the table's rows
 * @returns f32 [T, columns]
 */
export function embedding(pass: Pass, inputIds: Tensor, table: Matrix): Tensor {
  const { device, tape } = pass
  const y = Tensor.empty(device, [inputIds.shape[0], table.weight.columns])
  device.run('gather_rows', {
    weight: table.weight.native,
    indices: inputIds.native,
    y: y.native,
  })
  const gradient = table.master?.gradient ?? null
  if (tape !== null && gradient !== null)
    tape.record({
      inputs: [],
      outputs: [y],
      saved: [inputIds],
      backward([dy]) {
        if (dy)
          device.run('scatter_add_rows', {
            x: dy.native,
            indices: inputIds.native,
            y: gradient.native,
          })
        return []
      },
    })
  return y
}
