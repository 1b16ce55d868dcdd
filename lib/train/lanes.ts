import type { Corpus, CorpusStep, StepStream } from '../data/index.js'
import { ConfigError } from '../errors.js'
import type { Model } from '../model.js'
import { openCorpus } from './inputs.js'
import type { TrainConfig } from './options.js'
import type { RunOptions } from './run.js'
import { type Schedule, scheduleFactor } from './schedule.js'
import type { LanePlan } from './side-by-side.js'
import { SkippedSteps } from './skipped-steps.js'

/** A discipline's part of training side by side: the data, order and schedule that a run of its own would have. */
export interface Lane {
  readonly name: string
  readonly corpus: Corpus
  readonly stream: StepStream
  readonly totalSteps: number
  readonly skipped: SkippedSteps
}

/** The lanes of the disciplines, in the order of their names in the data. The caller closes their corpora. */
export async function openLanes(
  model: Model,
  config: TrainConfig,
  names: readonly string[],
  options: Pick<RunOptions, 'signal' | 'onMessage'>,
): Promise<Lane[]> {
  refuseMixing(config)
  const lanes: Lane[] = []
  try {
    for (const name of names) lanes.push(await openLane(model, config, name, options))
    return lanes
  } catch (error) {
    await closeLanes(lanes)
    throw error
  }
}

/** @throws ConfigError */
function refuseMixing({ data: { mixing }, difficulty }: TrainConfig): void {
  const key = mixing ? 'data.mixing' : difficulty ? 'difficulty' : null
  if (key === null) return
  throw new ConfigError(
    `${key} does not go with training side by side, where each discipline has a run of its own`,
    { details: { key } },
  )
}

export async function closeLanes(lanes: readonly Lane[]): Promise<void> {
  for (const { corpus } of lanes) await corpus.close()
}

async function openLane(
  model: Model,
  config: TrainConfig,
  name: string,
  { signal, onMessage }: Pick<RunOptions, 'signal' | 'onMessage'>,
): Promise<Lane> {
  const say = (message: string) => onMessage?.(`${name}: ${message}`)
  const sources = config.data.train.filter(({ discipline }) => discipline === name)
  const corpus = await openCorpus(config, sources, model, { signal, onMessage: say })
  try {
    const stream = corpus.steps({
      batch: config.batch,
      shuffle: config.data.shuffle,
      seed: config.seed,
      epochs: config.steps === undefined ? (config.epochs ?? 1) : undefined,
    })
    const totalSteps = config.steps ?? (await stream.stepsFor(config.epochs ?? 1))
    return { name, corpus, stream, totalSteps, skipped: new SkippedSteps(say) }
  } catch (error) {
    await corpus.close()
    throw error
  }
}

/** What the lanes that are not at their end have to do in a step. */
export interface LaneWork {
  readonly lane: Lane
  readonly plan: CorpusStep
}

/** Of step `step`, from 1; a lane with fewer steps sits out. The streams move on before the first await. */
export async function readStep(lanes: readonly Lane[], step: number): Promise<LaneWork[]> {
  const active = lanes.filter(({ totalSteps }) => step <= totalSteps)
  const plans = await Promise.all(active.map(({ stream }) => stream.next()))
  return active.map((lane, i) => ({ lane, plan: plans[i] }))
}

export function plansOf(
  work: readonly LaneWork[],
  step: number,
  schedule: Schedule,
): Map<string, LanePlan> {
  return new Map(
    work.map(({ lane, plan }) => [
      lane.name,
      { plan, factor: scheduleFactor(schedule, step, lane.totalSteps) },
    ]),
  )
}
