import type { StepPlan } from '../data/packed-batch.js'
import type { Tensor } from '../tensor.js'
import { LossSums } from './loss-sums.js'
import type { AdamW } from './optimizer.js'
import type { RoutingMonitor, RoutingReport } from './routing.js'

/** What one optimiser step did. */
export interface StepReport {
  /** From 1. */
  readonly step: number
  /** Mean loss in nats over the step's trained tokens, before the update; weights of tokens do not count in it. */
  readonly loss: number
  /** The same by discipline, for the disciplines that were in the step. */
  readonly lossByDiscipline: Readonly<Record<string, number>>
  /** Global norm before clipping. */
  readonly gradNorm: number
  readonly learningRate: number
  /** Tokens that went through the model. */
  readonly tokens: number
  readonly trainedTokens: number
  readonly trainedTokensByDiscipline: Readonly<Record<string, number>>
  /** False if a loss or gradient was not finite: nothing was changed. */
  readonly applied: boolean
  /** What the routers did; only where there are any. */
  readonly routing?: RoutingReport
}

/** A step whose micro-batches have been queued. */
interface QueuedStep {
  readonly step: number
  readonly plan: StepPlan
  readonly tokens: number
  /** f32 [trained tokens], in the order of the micro-batches; stays the caller's. */
  readonly losses: Tensor
  /** Null: nothing is routed. */
  readonly monitor: RoutingMonitor | null
}

/**
 * The step's update, and what it did once all of it is known.
 *
 * @param learningRate of the whole run; the schedule makes `factor` times that of it
 * @param onLosses gets the losses as they are read
 */
export async function finishStep(
  { step, plan, tokens, losses, monitor }: QueuedStep,
  optimizer: AdamW,
  { factor, learningRate }: { readonly factor: number; readonly learningRate: number },
  onLosses?: (losses: Float32Array) => void,
): Promise<StepReport> {
  const reading = losses.readFloats()
  const updating = optimizer.step(factor, losses)
  const routing = monitor?.report(updating.then(({ applied }) => applied))
  const [{ gradientNorm, applied }, values, routed] = await Promise.all([
    updating,
    reading,
    routing,
  ])
  onLosses?.(values)
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
    learningRate: learningRate * factor,
    tokens,
    trainedTokens: plan.trainedTokens,
    trainedTokensByDiscipline: sums.counts(),
    applied,
    ...(routed ? { routing: routed } : {}),
  }
}
