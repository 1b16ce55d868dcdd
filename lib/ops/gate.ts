import type { Parameter } from '../parameter.js'
import { Tensor } from '../tensor.js'
import { type OutputGate, outputGates } from './output-gate.js'
import type { Pass } from './pass.js'

/** Where the gates g_e(x) of a group's mixtures come from. M counts the mixtures (layers), E the experts of each. */
export type Gate = RouterGate | OutputGate | TaskGate | FixedGate

export type { OutputGate } from './output-gate.js'

/** softmax(scale · x Rᵀ), all of it or the top k renormalised. */
export interface RouterGate {
  readonly kind: 'router'
  readonly experts: number
  /** f32 [M E, in]: a router for each layer of the group that has an update. */
  readonly weights: Parameter
  readonly topK: number
  readonly scale: number
  /** Routes by |x Rᵀ|: Arrow's prototypes have no sign. */
  readonly absolute: boolean
  readonly losses: RouterLosses
  readonly state: RouterState
}

/** Coefficients of the losses that a router has of its own; 0: none. */
export interface RouterLosses {
  /** E Σ f_e P_e (Fedus et al. 2022) */
  readonly balance: number
  /** var(Z) / mean(Z)² of the gates' sums (LoRAMoE, Dou et al. 2024) */
  readonly variance: number
  /** mean of log(Σ exp z)² (Zoph et al. 2022) */
  readonly z: number
  /** -log of the probability of the expert that the row's discipline asks for */
  readonly supervised: number
}

/** What changes between steps beside the weights. */
export interface RouterState {
  /** f32 [M, E], added to the probabilities when the top k are chosen (Wang et al. 2024). */
  bias: Tensor | null
  /** f32 [M, D, 3 E + 4]: sums over the rows by discipline, as `router_statistics` adds them in a backward pass. */
  statistics: Tensor | null
}

/** softmax(w_task / temperature): one gate for every discipline (MTL-LoRA, Yang et al. 2024). */
export interface TaskGate {
  readonly kind: 'task'
  readonly experts: number
  /** f32 [M, D, E] */
  readonly weights: Parameter
  readonly temperature: number
  /** The discipline of rows of which nothing is known. */
  readonly fallback: { discipline: number }
}

/** Constants, the same for every row. */
export interface FixedGate {
  readonly kind: 'fixed'
  readonly experts: number
  /** f32 [M, E] */
  readonly weights: Tensor
}

/** What `gates` computed, for the way back. */
export interface Gates {
  /** One a mixture: f32 [T, E], rows anywhere. */
  of(mixture: number): Tensor
  readonly saved: readonly Tensor[]
  /**
   * Adds to the gate's own gradients.
   *
   * @param dGate of each mixture, in one tensor f32 [T, M, E]
   * @param t dS of each mixture, to which a gate adds that reads S
   * @returns what reaches x through the router, a segment of dX's product; null: nothing does
   */
  backward(x: Tensor, dGate: Tensor, t: readonly Tensor[]): object | null
}

/**
 * The gates of every mixture of a group.
 *
 * @param x f32 [T, in], without dropout
 * @param inner S of each mixture
 */
export function gates(pass: Pass, x: Tensor, gate: Gate, inner: readonly Tensor[]): Gates {
  switch (gate.kind) {
    case 'router':
      return routerGates(pass, x, gate, inner.length)
    case 'outputs':
      return outputGates(pass, gate, inner)
    case 'task':
      return taskGates(pass, x, gate)
    case 'fixed':
      return fixedGates(x, gate)
  }
}

function routerGates(pass: Pass, x: Tensor, gate: RouterGate, mixtures: number): Gates {
  const { device } = x
  const { experts, weights, scale, absolute, topK, state, losses } = gate
  const numTokens = x.shape[0]
  const shape = [numTokens, mixtures, experts]
  const flat = [numTokens, mixtures * experts]
  const logits = Tensor.empty(device, shape)
  device.run('matmul', {
    layout: 'nt',
    segments: [{ x: x.native, w: weights.value.native }],
    y: logits.view(flat).native,
  })
  const g = Tensor.empty(device, shape)
  const how = { scale, absolute, topK }
  device.run('router', {
    logits: logits.native,
    bias: state.bias?.native,
    ...how,
    gate: g.native,
  })
  const { routing } = pass
  const rows = routing
    ? [routing.rowDiscipline, routing.rowExpert, routing.lossScale].filter((one) => one !== null)
    : []
  return {
    of: (mixture) => g.slice(1, mixture, mixture + 1).view([numTokens, experts]),
    saved: [logits, g, ...rows],
    backward(x, dGate) {
      if (routing && state.statistics)
        device.run('router_statistics', {
          logits: logits.native,
          gate: g.native,
          ...how,
          rowGroup: routing.rowDiscipline.native,
          expertOfRow: routing.rowExpert?.native,
          statistics: state.statistics.native,
        })
      device.run('router_backward', {
        dGate: dGate.native,
        logits: logits.native,
        gate: g.native,
        ...how,
        ...losses,
        lossScale: routing?.lossScale?.native,
        expertOfRow: routing?.rowExpert?.native,
        dLogits: dGate.native,
      })
      const dLogits = dGate.view(flat)
      if (weights.gradient)
        device.run('matmul', {
          layout: 'tn',
          segments: [{ x: dLogits.native, w: x.native }],
          residual: weights.gradient.native,
          y: weights.gradient.native,
        })
      return { x: dLogits.native, w: weights.value.native }
    },
  }
}

function taskGates(pass: Pass, x: Tensor, gate: TaskGate): Gates {
  const { device } = x
  const { experts, weights, temperature } = gate
  const [mixtures, disciplines] = weights.value.shape
  const flat = [mixtures * disciplines, experts]
  const soft = Tensor.empty(device, weights.value.shape)
  device.run('softmax', {
    x: weights.value.view(flat).native,
    scale: 1 / temperature,
    y: soft.view(flat).native,
  })
  const rowDiscipline = rowDisciplines(pass, x, gate)
  const softOf = (mixture: number) =>
    soft.slice(0, mixture, mixture + 1).view([disciplines, experts])
  return {
    of(mixture) {
      const g = Tensor.empty(device, [x.shape[0], experts])
      device.run('gather_rows', {
        source: softOf(mixture).native,
        indices: rowDiscipline.native,
        y: g.native,
      })
      return g
    },
    saved: [soft, rowDiscipline],
    backward(_, dGate) {
      const { gradient } = weights
      if (!gradient) return null
      const dSoft = Tensor.zeros(device, [mixtures, disciplines, experts])
      for (let m = 0; m < mixtures; m++)
        device.run('scatter_add_rows', {
          x: dGate.slice(1, m, m + 1).view([x.shape[0], experts]).native,
          indices: rowDiscipline.native,
          y: dSoft.slice(0, m, m + 1).view([disciplines, experts]).native,
        })
      const dWeights = Tensor.empty(device, flat)
      device.run('softmax_backward', {
        dy: dSoft.view(flat).native,
        y: soft.view(flat).native,
        scale: 1 / temperature,
        dx: dWeights.native,
      })
      const sum = gradient.view(flat).native
      device.run('add', { a: sum, b: dWeights.native, alpha: 1, beta: 1, y: sum })
      return null
    },
  }
}

function fixedGates(x: Tensor, { experts, weights }: FixedGate): Gates {
  const { device } = x
  const zeros = Tensor.zeros(device, [x.shape[0]], 'i32')
  return {
    of(mixture) {
      const g = Tensor.empty(device, [x.shape[0], experts])
      device.run('gather_rows', {
        source: weights.slice(0, mixture, mixture + 1).native,
        indices: zeros.native,
        y: g.native,
      })
      return g
    },
    saved: [zeros],
    backward: () => null,
  }
}

/** i32 [T]: the pass's own, or the fallback for every row. */
export function rowDisciplines(
  { routing }: Pass,
  x: Tensor,
  { fallback }: Pick<TaskGate, 'fallback'>,
): Tensor {
  return routing?.rowDiscipline ?? Tensor.full(x.device, [x.shape[0]], fallback.discipline, 'i32')
}
