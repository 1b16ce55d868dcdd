import { Tape } from '../../lib/autograd.js'
import type { Device } from '../../lib/device.js'
import type { DropoutRows, Pass } from '../../lib/ops/pass.js'
import { Parameter } from '../../lib/parameter.js'
import { Tensor } from '../../lib/tensor.js'

/** A pass without a tape: nothing is recorded. */
export function forwardPass(device: Device): Pass {
  return { device, tape: null, dropout: null }
}

/**
 * Runs `forward` on a tape, gives its outputs the cotangents (null: nothing reaches that output), and walks back.
 *
 * @param inputs tracked; null is skipped
 * @returns the outputs, and the gradient of each input (null for a null input)
 */
export function forwardBackward(
  device: Device,
  inputs: readonly (Tensor | null)[],
  forward: (pass: Pass) => readonly Tensor[],
  cotangents: readonly (Float32Array | null)[],
  dropout: DropoutRows | null = null,
): { outputs: readonly Tensor[]; gradients: (Tensor | null)[] } {
  using tape = new Tape()
  for (const input of inputs) if (input) tape.track(input)
  const outputs = forward({ device, tape, dropout })
  outputs.forEach((output, i) => {
    const cotangent = cotangents[i]
    if (cotangent) tape.accumulate(output, Tensor.from(device, cotangent, output.shape))
  })
  tape.backward()
  return { outputs, gradients: inputs.map((input) => input && tape.takeGradient(input)) }
}

/** A parameter whose gradient starts at `gradient`: rules must add to it. Scoped tensors. */
export function trainedParameter(
  device: Device,
  value: Float32Array,
  shape: readonly number[],
  gradient: Float32Array,
): Parameter {
  const parameter = new Parameter('parameter', Tensor.from(device, value, shape))
  parameter.gradient = Tensor.from(device, gradient, shape)
  return parameter
}

/** A parameter without a gradient. Scoped tensor. */
export function frozenParameter(
  device: Device,
  value: Float32Array,
  shape: readonly number[] = [value.length],
): Parameter {
  return new Parameter('parameter', Tensor.from(device, value, shape))
}
