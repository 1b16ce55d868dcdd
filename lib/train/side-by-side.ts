import type { Adapter } from '../adapters/adapter.js'
import type { StepPlan } from '../data/packed-batch.js'
import { joinBatches } from '../data/side-by-side-batch.js'
import { ArgumentError } from '../errors.js'
import type { Decoder, LinearGroupName, LowRankSource } from '../models/index.js'
import type { LowRankRows } from '../ops/linear.js'
import type { RoutingRows } from '../ops/pass.js'
import { Scope, scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { AdamW } from './optimizer.js'
import { countRouters, RoutingMonitor, routingRows } from './routing.js'
import { trainMicroBatch } from './step.js'
import { finishStep, type StepReport } from './step-report.js'
import type { TrainerOptions } from './trainer.js'

/** An adapter with everything that is its own: gradients, moments, clipping, skipped steps, routers' figures. */
interface Lane {
  readonly name: string
  readonly adapter: Adapter
  readonly optimizer: AdamW
  readonly routerScale: Tensor
  monitor: RoutingMonitor | null
}

/** One lane's part of a step. */
interface LaneStep {
  readonly lane: Lane
  readonly plan: StepPlan
  readonly factor: number
  readonly tokens: number
  /** f32 [trained tokens] */
  readonly losses: Tensor
  read: number
}

/** The work of one lane in a step; null: it sits out. */
export interface LanePlan {
  readonly plan: StepPlan
  /** Of its own schedule. */
  readonly factor: number
}

/**
 * Trains several adapters on one pass through the base: each row goes through the adapter that it belongs to. Losses are
 * counted, gradients clipped and steps skipped for every adapter by itself, so that each ends with the bits of a run of
 * its own with the same data in the same order.
 */
export class SideBySideTrainer {
  readonly decoder: Decoder
  readonly #lanes: readonly Lane[]
  readonly #options: TrainerOptions
  readonly #step: Tensor
  readonly #one: Tensor

  /** @param adapters by name, on the decoder's device; they stay the caller's */
  constructor(decoder: Decoder, adapters: ReadonlyMap<string, Adapter>, options: TrainerOptions) {
    if (adapters.size === 0) throw new ArgumentError('side by side there must be an adapter')
    if (new Set(adapters.values()).size !== adapters.size)
      throw new ArgumentError('side by side every name must have an adapter of its own')
    this.decoder = decoder
    this.#options = options
    const { device } = decoder
    this.#step = Scope.detach(Tensor.empty(device, [1], 'i32'))
    this.#one = Scope.detach(Tensor.full(device, [1], 1))
    this.#lanes = Array.from(adapters, ([name, adapter]) => ({
      name,
      adapter,
      optimizer: new AdamW(device, adapter.parameters(), options),
      routerScale: Scope.detach(Tensor.empty(device, [1])),
      monitor: null,
    }))
  }

  get numParameters(): number {
    return this.#lanes.reduce((sum, { optimizer }) => sum + optimizer.numParameters, 0)
  }

  /** The optimiser of one adapter. */
  optimizer(name: string): AdamW {
    return this.#lane(name).optimizer
  }

  /**
   * One update of every adapter that has a plan. The i-th micro-batches of all plans go through the base together.
   *
   * @returns what each of them did, by name
   */
  async step(
    plans: ReadonlyMap<string, LanePlan>,
    step: number,
  ): Promise<ReadonlyMap<string, StepReport>> {
    for (const name of plans.keys()) this.#lane(name)
    const steps = this.#lanes.flatMap((lane): LaneStep[] => {
      const given = plans.get(lane.name)
      if (!given) return []
      const { plan, factor } = given
      const losses = Scope.detach(Tensor.empty(this.decoder.device, [plan.trainedTokens]))
      const tokens = plan.batches.reduce((sum, { inputIds }) => sum + inputIds.length, 0)
      return [{ lane, plan, factor, tokens, losses, read: 0 }]
    })
    try {
      this.#step.write(Int32Array.of(step))
      for (const one of steps) this.#startRouting(one)
      const most = Math.max(0, ...steps.map(({ plan }) => plan.batches.length))
      for (let i = 0; i < most; i++) {
        this.#microBatch(
          steps.filter(({ plan }) => i < plan.batches.length),
          i,
        )
        // Queueing takes time in proportion to the layers: let the event loop breathe between micro-batches.
        await new Promise((resolve) => setImmediate(resolve))
      }
      const reports = await Promise.all(
        steps.map(({ lane, plan, factor, tokens, losses }) =>
          finishStep({ step, plan, tokens, losses, monitor: lane.monitor }, lane.optimizer, {
            factor,
            learningRate: this.#options.learningRate,
          }),
        ),
      )
      return new Map(reports.map((report, i) => [steps[i].lane.name, report]))
    } finally {
      for (const { losses } of steps) losses.release()
    }
  }

  #lane(name: string): Lane {
    const lane = this.#lanes.find((one) => one.name === name)
    if (!lane)
      throw new ArgumentError(
        `there is no adapter ${JSON.stringify(name)} side by side, only ${this.#lanes.map((one) => one.name).join(', ')}`,
        { details: { received: name } },
      )
    return lane
  }

  #startRouting({ lane, plan, tokens }: LaneStep): void {
    const routers = countRouters(lane.adapter)
    if (routers === 0) return
    lane.routerScale.write(Float32Array.of(1 / (tokens * routers)))
    lane.monitor ??= RoutingMonitor.create(lane.adapter, plan.batches[0].disciplineNames)
  }

  #microBatch(steps: readonly LaneStep[], i: number): void {
    scope(() => {
      const own = steps.map(({ plan }) => plan.batches[i])
      const { batch, parts } = joinBatches(own)
      // A float32 product with 1: what a row counts has the bits that it has alone.
      const rowWeight = new Float32Array(batch.labels.length)
      parts.forEach(({ labelBegin, labelEnd }, k) => {
        const scale = 1 / steps[k].plan.trainedTokens
        rowWeight.fill(scale, labelBegin, labelEnd)
        own[k].labelWeight?.forEach((weight, i) => {
          rowWeight[labelBegin + i] = Math.fround(weight * scale)
        })
      })
      const source = new SideBySide(
        steps.map(({ lane }, k) => ({
          begin: parts[k].rowBegin,
          end: parts[k].rowEnd,
          adapter: lane.adapter,
          routing: routingRows(lane.adapter, own[k], lane.routerScale),
        })),
      )
      const losses = Tensor.empty(this.decoder.device, [batch.labels.length])
      const inputs = { step: this.#step, lossScale: this.#one, rowWeight }
      trainMicroBatch(this.decoder, source, batch, inputs, losses, this.#options)
      parts.forEach(({ labelBegin, labelEnd }, k) => {
        const one = steps[k]
        const end = one.read + labelEnd - labelBegin
        one.losses.slice(0, one.read, end).copyFrom(losses.slice(0, labelBegin, labelEnd))
        one.read = end
      })
    })
  }

  dispose(): void {
    for (const { optimizer, monitor, routerScale } of this.#lanes) {
      monitor?.dispose()
      routerScale.release()
      optimizer.dispose()
    }
    this.#step.release()
    this.#one.release()
  }
}

/** Adapters for consecutive rows of one batch. */
export class SideBySide implements LowRankSource {
  readonly #parts: readonly {
    readonly begin: number
    readonly end: number
    readonly adapter: Adapter
    readonly routing: RoutingRows | null
  }[]

  constructor(
    parts: readonly { begin: number; end: number; adapter: Adapter; routing: RoutingRows | null }[],
  ) {
    this.#parts = parts
  }

  group(layer: number, name: LinearGroupName): LowRankRows {
    return {
      rows: this.#parts.map(({ begin, end, adapter, routing }) => ({
        begin,
        end,
        routing,
        group: adapter.group(layer, name),
      })),
    }
  }
}
