import type { TrainedParameter } from '../adapters/adapter.js'
import type { Device } from '../device.js'
import { Repeated } from '../repeated.js'
import { Scope, scope } from '../scope.js'
import { Tensor } from '../tensor.js'

export interface AdamWOptions {
  /** Default 2e-4. */
  learningRate: number
  /** Default [0.9, 0.999]. */
  betas: readonly [number, number]
  /** Default 1e-8. */
  epsilon: number
  /** On matrices, not on biases or norms; default 0.01. */
  weightDecay: number
  /** Largest global norm of the gradients; 0 turns clipping off; default 1. */
  gradientClipping: number
}

interface State {
  readonly trained: TrainedParameter
  readonly gradient: Tensor
  readonly moment: Tensor
  readonly variance: Tensor
}

/**
 * AdamW over all trained parameters at once (Loshchilov and Hutter 2019), with clipping by the global norm. Moments and
 * norms are float32. A step whose loss or gradient is not finite changes nothing.
 */
export class AdamW {
  readonly #device: Device
  readonly #options: AdamWOptions
  readonly #states: readonly State[]
  readonly #learningRate: Tensor
  readonly #updateNumber: Tensor
  /** f32 [3]: gradient norm, clip factor, whether all was finite. */
  readonly #norm: Tensor
  /** What is the same in every step. */
  readonly #update: Repeated
  /** Updates made so far; skipped steps do not count. */
  updates = 0

  constructor(device: Device, parameters: Iterable<TrainedParameter>, options: AdamWOptions) {
    this.#device = device
    this.#options = options
    this.#states = Array.from(parameters, (trained) => {
      const { value } = trained.parameter
      trained.parameter.gradient ??= Scope.detach(Tensor.zeros(device, value.shape))
      return {
        trained,
        gradient: trained.parameter.gradient,
        moment: Scope.detach(Tensor.zeros(device, value.shape)),
        variance: Scope.detach(Tensor.zeros(device, value.shape)),
      }
    })
    this.#learningRate = Scope.detach(Tensor.empty(device, [1]))
    this.#updateNumber = Scope.detach(Tensor.empty(device, [1], 'i32'))
    this.#norm = Scope.detach(Tensor.empty(device, [3]))
    this.#update = new Repeated(device, () => scope(() => this.#queueUpdate()))
  }

  /**
   * Queues one update from the accumulated gradients, then clears them.
   *
   * @param factor of the schedule
   * @param losses f32 [L] of the step, watched for NaN and infinity
   * @returns gradient norm before clipping, and whether the update was made; the values are known when it resolves
   */
  async step(factor: number, losses: Tensor): Promise<{ gradientNorm: number; applied: boolean }> {
    scope(() => this.#queue(factor, losses))
    const [gradientNorm, , finite] = await this.#norm.readFloats()
    const applied = finite === 1
    if (applied) this.updates++
    return { gradientNorm, applied }
  }

  #queue(factor: number, losses: Tensor): void {
    const { learningRate, gradientClipping } = this.#options
    this.#learningRate.write(Float32Array.of(learningRate * factor))
    this.#updateNumber.write(Int32Array.of(this.updates + 1))
    this.#device.run('gradient_norm', {
      gradients: this.#states.map((state) => state.gradient.native),
      maxNorm: gradientClipping,
      watched: losses.native,
      result: this.#norm.native,
    })
    this.#update.run()
  }

  #queueUpdate(): void {
    const { betas, epsilon, weightDecay } = this.#options
    this.#device.run('adamw', {
      parameters: this.#states.map(({ trained, gradient, moment, variance }) => ({
        parameter: trained.parameter.value.native,
        gradient: gradient.native,
        moment: moment.native,
        variance: variance.native,
        learningRateScale: trained.learningRateScale,
        weightDecay: trained.decays ? weightDecay : 0,
      })),
      beta1: betas[0],
      beta2: betas[1],
      epsilon,
      learningRate: this.#learningRate.native,
      step: this.#updateNumber.native,
      gradientScale: this.#norm.slice(0, 1, 2).native,
      finite: this.#norm.slice(0, 2, 3).native,
    })
    for (const { gradient } of this.#states) gradient.fill(0)
    this.repack()
  }

  get numParameters(): number {
    return this.#states.reduce((sum, { trained }) => sum + trained.parameter.value.size, 0)
  }

  /** What a checkpoint must hold: values, first and second moments by parameter name. */
  *state(): Generator<{ name: string; value: Tensor; moment: Tensor; variance: Tensor }> {
    for (const { trained, moment, variance } of this.#states)
      yield { name: trained.parameter.name, value: trained.parameter.value, moment, variance }
  }

  /** Brings the packed copies of trained matrices up to date with their values. */
  repack(): void {
    for (const { trained } of this.#states)
      trained.parameter.packed?.update(trained.parameter.value)
  }

  dispose(): void {
    this.#update.dispose()
    for (const { trained, moment, variance } of this.#states) {
      trained.parameter.gradient?.release()
      trained.parameter.gradient = null
      moment.release()
      variance.release()
    }
    this.#learningRate.release()
    this.#updateNumber.release()
    this.#norm.release()
  }
}
