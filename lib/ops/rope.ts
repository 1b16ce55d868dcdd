import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

/** Cosines and sines of every position, f32 [maxPositions, headDim / 2] each. */
export interface RotaryTable {
  readonly cosines: Tensor
  readonly sines: Tensor
}

/**
 * Rotary position embedding (Su et al. 2021) on split halves, as Llama and Qwen store their weights.
 *
 * @param x f32 [T, numHeads · headDim]
 * @param positions i32 [T]
 */
export function rope(
  pass: Pass,
  x: Tensor,
  positions: Tensor,
  table: RotaryTable,
  numHeads: number,
): Tensor {
  const y = rotate(x, positions, table, numHeads, false)
  if (pass.tape?.tracks(x))
    pass.tape.record({
      inputs: [x],
      outputs: [y],
      saved: [positions],
      backward: ([dy]) => [dy ? rotate(dy, positions, table, numHeads, true) : null],
    })
  return y
}

function rotate(
  x: Tensor,
  positions: Tensor,
  table: RotaryTable,
  numHeads: number,
  inverse: boolean,
): Tensor {
  const [numTokens, width] = x.shape as [number, number]
  const heads = [numTokens, numHeads, width / numHeads]
  const y = Tensor.empty(x.device, x.shape)
  x.device.run('rope', {
    x: x.view(heads).native,
    positions: positions.native,
    cosines: table.cosines.native,
    sines: table.sines.native,
    inverse: inverse ? 1 : 0,
    y: y.view(heads).native,
  })
  return y
}
