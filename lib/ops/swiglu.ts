import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

/**
 * y = gate · sigmoid(gate) · up (Shazeer 2020).
 *
 * @param gate f32 [T, I]
 * @param up f32 [T, I]
 */
export function swiglu(pass: Pass, gate: Tensor, up: Tensor): Tensor {
  const { device, tape } = pass
  const forward = () => {
    const y = Tensor.empty(device, gate.shape)
    device.run('swiglu', { gate: gate.native, up: up.native, y: y.native })
    return y
  }
  const y = forward()
  if (tape !== null && (tape.tracks(gate) || tape.tracks(up)))
    tape.record({
      inputs: [gate, up],
      outputs: [y],
      saved: [gate, up],
      remake: forward,
      backward([dy]) {
        if (!dy) return [null, null]
        const dGate = Tensor.empty(device, gate.shape)
        const dUp = Tensor.empty(device, up.shape)
        device.run('swiglu_backward', {
          dy: dy.native,
          gate: gate.native,
          up: up.native,
          dGate: dGate.native,
          dUp: dUp.native,
        })
        return [dGate, dUp]
      },
    })
  return y
}
