import { Adapter } from '../adapters/adapter.js'
import type { LoraDeclaration } from '../adapters/declaration.js'
import { Corpus } from '../data/index.js'
import { AbortedError, ConfigError } from '../errors.js'
import type { Model } from '../model.js'
import { parseTrainConfig, type TrainConfig } from './options.js'
import { scheduleFactor } from './schedule.js'
import { type LanePlan, SideBySideTrainer } from './side-by-side.js'
import { SkippedSteps } from './skipped-steps.js'
import type { TrainOptions } from './train.js'
import type { StepReport } from './trainer.js'

export interface TrainSideBySideOptions extends Omit<TrainOptions, 'data' | 'onStep'> {
  /** Files by discipline: each discipline trains an adapter of its own. */
  data: Exclude<TrainOptions['data'], string>
  /** One for all disciplines, or one for each by name. */
  adapters: LoraDeclaration | Readonly<Record<string, LoraDeclaration>>
  /** What the adapters did that were in a step, by discipline. */
  onStep?: (reports: ReadonlyMap<string, StepReport>, step: number) => void
}

interface LaneRun {
  readonly name: string
  readonly corpus: Corpus
  readonly stream: ReturnType<Corpus['steps']>
  readonly totalSteps: number
  readonly skipped: SkippedSteps
}

/**
 * Trains an adapter for each discipline, all of them on one pass through the model. Each ends with the bits of `train`
 * on its discipline's files alone: the batch, the schedule, clipping and skipped steps are its own. One with fewer steps
 * sits out the rest. In memory: nothing is written.
 *
 * @returns the adapters by discipline; they are the caller's to save, attach and dispose
 * @throws ConfigError, DataError; DeviceError after three steps of one adapter in a row that were not finite; AbortedError
 */
export async function trainSideBySide(
  model: Model,
  options: TrainSideBySideOptions,
): Promise<Map<string, Adapter>> {
  const { data, adapters: declared, signal, onStep, onMessage, ...rest } = options
  const config = parseTrainConfig({
    ...rest,
    model: model.folder ?? 'model',
    output: 'memory',
    method: { kind: 'full' },
    data: Array.isArray(data) ? { train: data } : data,
  })
  const names = [...new Set(config.data.train.map(({ discipline }) => discipline))]
  const lanes: LaneRun[] = []
  const adapters = new Map<string, Adapter>()
  let trainer: SideBySideTrainer | null = null
  let finished = false
  try {
    for (const name of names) lanes.push(await openLane(model, config, name, { signal, onMessage }))
    for (const name of names) {
      const adapter = Adapter.create(model.device, model.config, declarationOf(declared, name))
      adapters.set(name, adapter)
      await adapter.bind(model.decoder.weights)
    }
    trainer = new SideBySideTrainer(model.decoder, adapters, {
      ...config.optimizer,
      checkpointing: config.activationCheckpointing,
    })
    const last = Math.max(...lanes.map(({ totalSteps }) => totalSteps))
    for (let step = 1; step <= last; step++) {
      if (signal?.aborted)
        throw new AbortedError(`training stopped before step ${step}`, { cause: signal.reason })
      const active = lanes.filter(({ totalSteps }) => step <= totalSteps)
      const plans = await Promise.all(active.map(({ stream }) => stream.next()))
      const work = new Map<string, LanePlan>(
        active.map(({ name, totalSteps }, i) => [
          name,
          { plan: plans[i], factor: scheduleFactor(config.schedule, step, totalSteps) },
        ]),
      )
      const reports = await trainer.step(work, step)
      active.forEach(({ name, skipped }, i) => {
        skipped.count(reports.get(name)!, plans[i].samples)
      })
      onStep?.(reports, step)
    }
    finished = true
    return adapters
  } finally {
    trainer?.dispose()
    if (!finished) for (const adapter of adapters.values()) adapter.dispose()
    for (const { corpus } of lanes) await corpus.close()
  }
}

function declarationOf(
  declared: TrainSideBySideOptions['adapters'],
  name: string,
): LoraDeclaration {
  if ('form' in declared) return declared as LoraDeclaration
  if (!Object.hasOwn(declared, name))
    throw new ConfigError(
      `adapters names no adapter for the discipline ${JSON.stringify(name)}, only for ${Object.keys(declared).join(', ')}`,
      { details: { key: 'adapters', received: name } },
    )
  return declared[name]
}

/** A discipline's own corpus and stream: what a run on its files alone would have. */
async function openLane(
  model: Model,
  config: TrainConfig,
  name: string,
  { signal, onMessage }: Pick<TrainSideBySideOptions, 'signal' | 'onMessage'>,
): Promise<LaneRun> {
  const sources = config.data.train.filter(({ discipline }) => discipline === name)
  const corpus = await Corpus.open(sources, {
    ...config.data,
    tokenizer: model.tokenizer,
    maxLength: Math.min(config.data.maxLength ?? Infinity, model.config.maxPositions),
    signal,
  })
  try {
    for (const { file, line, reason } of corpus.badRecords)
      onMessage?.(`${file}:${line}: ${reason}`)
    const stream = corpus.steps({
      batch: config.batch,
      shuffle: config.data.shuffle,
      seed: config.seed,
      epochs: config.steps === undefined ? (config.epochs ?? 1) : undefined,
    })
    const totalSteps = config.steps ?? (await stream.stepsFor(config.epochs ?? 1))
    const skipped = new SkippedSteps((message) => onMessage?.(`${name}: ${message}`))
    return { name, corpus, stream, totalSteps, skipped }
  } catch (error) {
    await corpus.close()
    throw error
  }
}
