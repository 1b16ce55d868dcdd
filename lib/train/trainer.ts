import type { Adapter, TrainedParameter } from '../adapters/adapter.js'
import type { StepPlan } from '../data/packed-batch.js'
import type { Decoder } from '../models/index.js'
import { unfreezeWeights } from '../models/load.js'
import { Scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { MicroBatches } from './micro-batches.js'
import { AdamW, type AdamWOptions } from './optimizer.js'
import { countRouters, RoutingMonitor } from './routing.js'
import type { MicroBatchOptions } from './step.js'
import { finishStep, type StepReport } from './step-report.js'

export interface TrainerOptions extends AdamWOptions, MicroBatchOptions {
  /** Called in every step with the loss of each trained token in nats, in the order of the micro-batches. */
  onLosses?: (losses: Float32Array) => void
}

/** Trains an adapter, or all weights of a model, one optimiser step at a time. */
export class Trainer {
  readonly decoder: Decoder
  /** Null: full fine-tuning. */
  readonly adapter: Adapter | null
  readonly optimizer: AdamW
  readonly #options: TrainerOptions
  readonly #step: Tensor
  readonly #lossScale: Tensor
  readonly #routerScale: Tensor
  readonly #microBatches: MicroBatches
  #monitor: RoutingMonitor | null = null

  constructor(decoder: Decoder, adapter: Adapter | null, options: TrainerOptions) {
    this.decoder = decoder
    this.adapter = adapter
    this.#options = options
    const parameters = adapter ? adapter.parameters() : weightsOf(decoder)
    this.optimizer = new AdamW(decoder.device, parameters, options)
    this.#step = Scope.detach(Tensor.empty(decoder.device, [1], 'i32'))
    this.#lossScale = Scope.detach(Tensor.empty(decoder.device, [1]))
    this.#routerScale = Scope.detach(Tensor.empty(decoder.device, [1]))
    const inputs = {
      step: this.#step,
      lossScale: this.#lossScale,
      routerScale: this.#routerScale,
    }
    this.#microBatches = new MicroBatches(decoder, adapter, inputs, options)
  }

  get numParameters(): number {
    return this.optimizer.numParameters
  }

  /** One update from all micro-batches of a plan; the loss is normalised by the trained tokens of them all, whatever they count. */
  async step(plan: StepPlan, step: number, factor: number): Promise<StepReport> {
    const { decoder } = this
    const { device } = decoder
    const losses = Scope.detach(Tensor.empty(device, [plan.trainedTokens]))
    try {
      this.#step.write(Int32Array.of(step))
      this.#lossScale.write(Float32Array.of(1 / plan.trainedTokens))
      const tokens = plan.batches.reduce((sum, batch) => sum + batch.inputIds.length, 0)
      this.#startRouting(plan, tokens)
      let begin = 0
      for (const batch of plan.batches) {
        const end = begin + batch.labels.length
        const part = Scope.detach(losses.slice(0, begin, end))
        try {
          this.#microBatches.run(batch, part)
        } finally {
          part.release()
        }
        begin = end
        // Queueing takes time in proportion to the layers: let the event loop breathe between micro-batches.
        await new Promise((resolve) => setImmediate(resolve))
      }
      return await finishStep(
        { step, plan, tokens, losses, monitor: this.#monitor },
        this.optimizer,
        { factor, learningRate: this.#options.learningRate },
        this.#options.onLosses,
      )
    } finally {
      losses.release()
    }
  }

  #startRouting(plan: StepPlan, tokens: number): void {
    if (!this.adapter) return
    const numRouters = countRouters(this.adapter)
    if (numRouters === 0) return
    this.#routerScale.write(Float32Array.of(1 / (tokens * numRouters)))
    this.#monitor ??= RoutingMonitor.create(this.adapter, plan.batches[0].disciplineNames)
  }

  dispose(): void {
    this.#monitor?.dispose()
    this.#microBatches.dispose()
    this.#routerScale.release()
    this.optimizer.dispose()
    this.#step.release()
    this.#lossScale.release()
  }
}

function* weightsOf(decoder: Decoder): Generator<TrainedParameter> {
  for (const parameter of unfreezeWeights(decoder.device, decoder.weights))
    yield { parameter, learningRateScale: 1, decays: parameter.value.rank > 1 }
}
