import type { Adapter, TrainedParameter } from '../adapters/adapter.js'
import type { StepPlan } from '../data/packed-batch.js'
import type { Decoder } from '../models/index.js'
import { unfreezeWeights } from '../models/load.js'
import { Scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { LossSums } from './loss-sums.js'
import { AdamW, type AdamWOptions } from './optimizer.js'
import { type MicroBatchOptions, trainMicroBatch } from './step.js'

/** What one optimiser step did. */
export interface StepReport {
  /** From 1. */
  readonly step: number
  /** Mean loss in nats over the step's trained tokens, before the update. */
  readonly loss: number
  /** The same by discipline, for the disciplines that were in the step. */
  readonly lossByDiscipline: Readonly<Record<string, number>>
  /** Global norm before clipping. */
  readonly gradNorm: number
  readonly learningRate: number
  /** Tokens that went through the model. */
  readonly tokens: number
  readonly trainedTokens: number
  /** False if a loss or gradient was not finite: nothing was changed. */
  readonly applied: boolean
}

export interface TrainerOptions extends AdamWOptions, MicroBatchOptions {}

/** Trains an adapter, or all weights of a model, one optimiser step at a time. */
export class Trainer {
  readonly decoder: Decoder
  /** Null: full fine-tuning. */
  readonly adapter: Adapter | null
  readonly optimizer: AdamW
  readonly #options: TrainerOptions
  readonly #step: Tensor
  readonly #lossScale: Tensor

  constructor(decoder: Decoder, adapter: Adapter | null, options: TrainerOptions) {
    this.decoder = decoder
    this.adapter = adapter
    this.#options = options
    const parameters = adapter ? adapter.parameters() : weightsOf(decoder)
    this.optimizer = new AdamW(decoder.device, parameters, options)
    this.#step = Scope.detach(Tensor.empty(decoder.device, [1], 'i32'))
    this.#lossScale = Scope.detach(Tensor.empty(decoder.device, [1]))
  }

  get numParameters(): number {
    return this.optimizer.numParameters
  }

  /** One update from all micro-batches of a plan; the loss is normalised by the trained tokens of them all. */
  async step(plan: StepPlan, step: number, factor: number): Promise<StepReport> {
    const { decoder } = this
    const { device } = decoder
    const losses = Scope.detach(Tensor.empty(device, [plan.trainedTokens]))
    try {
      this.#step.write(Int32Array.of(step))
      this.#lossScale.write(Float32Array.of(1 / plan.trainedTokens))
      let begin = 0
      for (const batch of plan.batches) {
        const end = begin + batch.labels.length
        const part = Scope.detach(losses.slice(0, begin, end))
        trainMicroBatch(
          decoder,
          this.adapter,
          batch,
          { step: this.#step, lossScale: this.#lossScale },
          part,
          this.#options,
        )
        part.release()
        begin = end
        // Queueing takes time in proportion to the layers: let the event loop breathe between micro-batches.
        await new Promise((resolve) => setImmediate(resolve))
      }
      const reading = losses.readFloats()
      const [{ gradientNorm, applied }, values] = await Promise.all([
        this.optimizer.step(factor, losses),
        reading,
      ])
      const sums = new LossSums()
      let read = 0
      for (const batch of plan.batches) {
        sums.add(batch, values.subarray(read))
        read += batch.labels.length
      }
      return {
        step,
        ...sums.means(),
        gradNorm: gradientNorm,
        learningRate: this.#options.learningRate * factor,
        tokens: plan.batches.reduce((sum, batch) => sum + batch.inputIds.length, 0),
        trainedTokens: plan.trainedTokens,
        applied,
      }
    } finally {
      losses.release()
    }
  }

  dispose(): void {
    this.optimizer.dispose()
    this.#step.release()
    this.#lossScale.release()
  }
}

function* weightsOf(decoder: Decoder): Generator<TrainedParameter> {
  for (const parameter of unfreezeWeights(decoder.device, decoder.weights))
    yield { parameter, learningRateScale: 1, decays: parameter.value.rank > 1 }
}
