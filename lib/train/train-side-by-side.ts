import { Adapter } from '../adapters/adapter.js'
import type { LoraDeclaration } from '../adapters/declaration.js'
import { AbortedError, ConfigError } from '../errors.js'
import type { Model } from '../model.js'
import { disciplinesOf } from './inputs.js'
import { closeLanes, openLanes, plansOf, readStep } from './lanes.js'
import { parseTrainConfig } from './options.js'
import { SideBySideTrainer } from './side-by-side.js'
import type { TrainOptions } from './train.js'
import type { StepReport } from './step-report.js'

export interface TrainSideBySideOptions extends Omit<
  TrainOptions,
  'data' | 'onStep' | 'memory' | 'corpora'
> {
  /** Files by discipline: each discipline trains an adapter of its own. */
  data: Exclude<TrainOptions['data'], string>
  /** One for all disciplines, or one for each by name. */
  adapters: LoraDeclaration | Readonly<Record<string, LoraDeclaration>>
  /** What the adapters did that were in a step, by discipline. */
  onStep?: (reports: ReadonlyMap<string, StepReport>, step: number) => void
}

/**
 * Trains an adapter for each discipline, all of them on one pass through the model. Each ends with the bits of `train`
 * on its discipline's files alone: the batch, the schedule, clipping and skipped steps are its own. One with fewer steps
 * sits out the rest. In memory: nothing is written; in a folder, with checkpoints, `runTraining` does it.
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
  const names = disciplinesOf(config.data.train)
  const lanes = await openLanes(model, config, names, { signal, onMessage })
  const adapters = new Map<string, Adapter>()
  let trainer: SideBySideTrainer | null = null
  let finished = false
  try {
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
      const work = await readStep(lanes, step)
      const reports = await trainer.step(plansOf(work, step, config.schedule), step)
      for (const { lane, plan } of work) lane.skipped.count(reports.get(lane.name)!, plan.samples)
      onStep?.(reports, step)
    }
    finished = true
    return adapters
  } finally {
    trainer?.dispose()
    if (!finished) for (const adapter of adapters.values()) adapter.dispose()
    await closeLanes(lanes)
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
