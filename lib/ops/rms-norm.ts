import type { Parameter } from '../parameter.js'
import { Tensor } from '../tensor.js'
import type { Pass } from './pass.js'

/**
 * y = x / sqrt(mean(x²) + epsilon) · weight, over each row (Zhang and Sennrich 2019), or over each head where the
 * weight is one head long (Qwen3's query and key norms).
 *
 * @param x f32 [T, D], D a multiple of the weight's length
 * @param weight f32 [D] or [headDim]
 */
export function rmsNorm(pass: Pass, x: Tensor, weight: Parameter, epsilon: number): Tensor {
  const { device, tape } = pass
  const [numTokens, width] = x.shape as [number, number]
  const headDim = weight.value.shape[0]
  const heads = [numTokens, width / headDim, headDim]
  const records = tape !== null && (tape.tracks(x) || weight.gradient !== null)
  const rstd = records ? Tensor.empty(device, heads.slice(0, 2)) : null
  const forward = (rstd: Tensor | null) => {
    const y = Tensor.empty(device, x.shape)
    device.run('rms_norm', {
      x: x.view(heads).native,
      weight: weight.value.native,
      epsilon,
      y: y.view(heads).native,
      rstd: rstd?.native,
    })
    return y
  }
  const y = forward(rstd)
  if (rstd === null) return y
  tape!.record({
    inputs: [x],
    outputs: [y],
    saved: [x, rstd],
    remake: () => forward(null),
    backward([dy], tape) {
      if (!dy) return [null]
      const dx = Tensor.empty(device, x.shape)
      const residual = tape.takeGradient(x)
      device.run('rms_norm_backward', {
        dy: dy.view(heads).native,
        x: x.view(heads).native,
        weight: weight.value.native,
        rstd: rstd.native,
        residual: residual?.view(heads).native,
        dx: dx.view(heads).native,
        dWeight: weight.gradient?.native,
      })
      return [dx]
    },
  })
  return y
}
