import type { Parameter } from '../parameter.js'
import { Tensor } from '../tensor.js'
import type { Gates, RouterLosses, RouterState } from './gate.js'
import type { Pass } from './pass.js'

/**
 * MoLE's gate (Wu et al. 2024): softmax(scale · e · norm(E_1 ⊕ … ⊕ E_E)) of what the experts say, E_e = S_e B_eᵀ, with the
 * norm of RMSNorm. Experts are frozen, so their outputs, [T, E out], are known by far fewer coordinates: z = S K, K being
 * the root of the block-diagonal BᵀB, has their lengths and angles, and e is learned in that basis.
 */
export interface OutputGate {
  readonly kind: 'outputs'
  readonly experts: number
  readonly scale: number
  /** One a mixture. */
  readonly readers: readonly OutputReader[]
  readonly losses: RouterLosses
  readonly state: RouterState
}

export interface OutputReader {
  /** f32 [E, E r] */
  readonly weights: Parameter
  /** f32 [E r, E r], symmetric: K. */
  readonly basis: Tensor
  /** f32 [E r]: ones, which RMSNorm wants. */
  readonly ones: Tensor
}

const epsilon = 1e-6

/**
 * @param inner S of each mixture, f32 [T, E r], with a scaling of 1
 */
export function outputGates(pass: Pass, gate: OutputGate, inner: readonly Tensor[]): Gates {
  const { device, routing } = pass
  const { experts, scale, readers, losses, state } = gate
  const numTokens = inner[0].shape[0]
  const shape = [numTokens, readers.length, experts]
  const logits = Tensor.empty(device, shape)
  const cut = (of: Tensor, m: number) => of.slice(1, m, m + 1).view([numTokens, experts])
  const read = readers.map(({ weights, basis, ones }, m) => {
    const width = basis.shape[0]
    const z = Tensor.empty(device, [numTokens, width])
    device.run('matmul', {
      layout: 'nt',
      segments: [{ x: inner[m].native, w: basis.native }],
      y: z.native,
    })
    const n = Tensor.empty(device, z.shape)
    const rstd = Tensor.empty(device, [numTokens, 1])
    const heads = [numTokens, 1, width]
    device.run('rms_norm', {
      x: z.view(heads).native,
      weight: ones.native,
      epsilon,
      y: n.view(heads).native,
      rstd: rstd.native,
    })
    device.run('matmul', {
      layout: 'nt',
      segments: [{ x: n.native, w: weights.value.native }],
      y: cut(logits, m).native,
    })
    return { z, n, rstd, heads }
  })
  const g = Tensor.empty(device, shape)
  const how = { scale, absolute: false, topK: experts }
  device.run('router', { logits: logits.native, ...how, gate: g.native })
  return {
    of: (mixture) => cut(g, mixture),
    saved: [
      logits,
      g,
      ...read.flatMap(({ z, n, rstd }) => [z, n, rstd]),
      ...(routing ? [routing.rowDiscipline, routing.lossScale].filter((one) => one !== null) : []),
    ],
    backward(_, dGate, t) {
      if (routing && state.statistics)
        device.run('router_statistics', {
          logits: logits.native,
          gate: g.native,
          ...how,
          rowGroup: routing.rowDiscipline.native,
          statistics: state.statistics.native,
        })
      device.run('router_backward', {
        dGate: dGate.native,
        logits: logits.native,
        gate: g.native,
        ...how,
        ...losses,
        lossScale: routing?.lossScale?.native,
        dLogits: dGate.native,
      })
      read.forEach(({ z, n, rstd, heads }, m) => {
        const { weights, basis, ones } = readers[m]
        const dLogits = cut(dGate, m)
        if (weights.gradient)
          device.run('matmul', {
            layout: 'tn',
            segments: [{ x: dLogits.native, w: n.native }],
            residual: weights.gradient.native,
            y: weights.gradient.native,
          })
        const dN = Tensor.empty(device, z.shape)
        device.run('matmul', {
          layout: 'nn',
          segments: [{ x: dLogits.native, w: weights.value.native }],
          y: dN.native,
        })
        device.run('rms_norm_backward', {
          dy: dN.view(heads).native,
          x: z.view(heads).native,
          weight: ones.native,
          rstd: rstd.native,
          dx: dN.view(heads).native,
        })
        // K is its own transpose; S has no scaling to give back.
        device.run('matmul', {
          layout: 'nn',
          segments: [{ x: dN.native, w: basis.native }],
          residual: t[m].native,
          y: t[m].native,
        })
      })
      return null
    },
  }
}
