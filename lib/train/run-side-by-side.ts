import { mkdir } from 'node:fs/promises'
import { join } from 'node:path'
import type { Adapter } from '../adapters/adapter.js'
import { saveAdapter } from '../adapters/peft.js'
import type { Corpus } from '../data/index.js'
import { AbortedError, ConfigError } from '../errors.js'
import type { Model } from '../model.js'
import { findCheckpoint, saveCheckpoint } from './checkpoint.js'
import { disciplinesOf, openAdapter, openCorpus, openModel } from './inputs.js'
import { closeLanes, type Lane, type LaneWork, openLanes, plansOf, readStep } from './lanes.js'
import { methodsByDiscipline, type SideBySideMethod } from './method.js'
import { finiteOrNull, MetricsFile, stepMetrics } from './metrics.js'
import { modelFingerprint } from './model-fingerprint.js'
import type { TrainConfig } from './options.js'
import type { RunOptions, RunResult } from './run.js'
import { type Json, metricsName, openRunFolder, type RunFolder, withWayOn } from './run-folder.js'
import { SideBySideTrainer } from './side-by-side.js'
import { restoreTrainingState, saveTrainingState, trainingStateBytes } from './state.js'
import type { StepReport } from './step-report.js'
import { validationLoss, type ValidationLoss } from './validation.js'

type SideBySideConfig = TrainConfig & { readonly method: SideBySideMethod }

/** What a checkpoint remembers of one adapter beside values and moments. */
interface LaneState {
  readonly updates: number
  readonly totalTokens: number
  readonly skippedInRow: number
  readonly lastLoss: number | null
  readonly stream: Json
}

/**
 * A run folder in which every discipline trains an adapter of its own, all of them on one pass through the model:
 * `adapters/NAME` at the end, and in each checkpoint a folder for every adapter. Each adapter has the bits of a run of its
 * own with the same options on its discipline's files.
 *
 * @throws as `runTraining`
 */
export async function runSideBySide(
  config: SideBySideConfig,
  options: RunOptions,
): Promise<RunResult> {
  const names = disciplinesOf(config.data.train)
  const methods = methodsByDiscipline(config.method, names)
  checkOptions(config, names)
  await using folder = await openRunFolder(config, options)
  await using model = await openModel(config, options.signal)
  const adapters = new Map<string, Adapter>()
  const validation = new Map<string, Corpus>()
  let lanes: readonly Lane[] = []
  let trainer: SideBySideTrainer | null = null
  try {
    for (const [name, method] of methods) {
      const train = config.data.train.filter(({ discipline }) => discipline === name)
      const own = { ...config, data: { ...config.data, train } }
      adapters.set(name, (await openAdapter(model, method, own))!)
    }
    lanes = await openLanes(model, config, names, options)
    for (const name of names) {
      const sources = config.data.validation.filter(({ discipline }) => discipline === name)
      if (sources.length > 0)
        validation.set(name, await openCorpus(config, sources, model, options))
    }
    await folder.begin({
      ...(config as unknown as Record<string, Json>),
      baseModel: await modelFingerprint(config.model),
      corpus: fingerprints(lanes.map(({ name, corpus }) => [name, corpus])),
      validationCorpus: fingerprints(validation),
    })
    trainer = new SideBySideTrainer(model.decoder, adapters, {
      ...config.optimizer,
      checkpointing: config.activationCheckpointing,
    })
    const parts = { config, options, folder, model, trainer, adapters, lanes, validation }
    return await new SideBySideRun(parts).go()
  } finally {
    trainer?.dispose()
    for (const adapter of adapters.values()) adapter.dispose()
    for (const corpus of validation.values()) await corpus.close()
    await closeLanes(lanes)
  }
}

function checkOptions({ data, evaluation }: TrainConfig, names: readonly string[]): void {
  if (evaluation.patience !== undefined)
    throw new ConfigError(
      'evaluation.patience stops a run of one adapter, and is not for adapters side by side: leave it out',
      { details: { key: 'evaluation.patience', received: evaluation.patience } },
    )
  for (const { discipline } of data.validation)
    if (!names.includes(discipline))
      throw new ConfigError(
        `data.validation: the discipline ${JSON.stringify(discipline)} trains no adapter; data.train has ${names.join(', ')}`,
        { details: { key: 'data.validation', received: discipline, allowed: names } },
      )
}

function fingerprints(corpora: Iterable<readonly [string, Corpus]>): Record<string, string> {
  return Object.fromEntries(Array.from(corpora, ([name, { fingerprint }]) => [name, fingerprint]))
}

interface RunParts {
  readonly config: SideBySideConfig
  readonly options: RunOptions
  readonly folder: RunFolder
  readonly model: Model
  readonly trainer: SideBySideTrainer
  readonly adapters: ReadonlyMap<string, Adapter>
  readonly lanes: readonly Lane[]
  readonly validation: ReadonlyMap<string, Corpus>
}

class SideBySideRun {
  readonly #config: SideBySideConfig
  readonly #options: RunOptions
  readonly #folder: RunFolder
  readonly #model: Model
  readonly #trainer: SideBySideTrainer
  readonly #adapters: ReadonlyMap<string, Adapter>
  readonly #lanes: readonly Lane[]
  readonly #validation: ReadonlyMap<string, Corpus>
  readonly #totalSteps: number
  readonly #tokens = new Map<string, number>()
  readonly #lastLoss = new Map<string, number>()
  #step = 0
  /** The step of the newest checkpoint. */
  #saved = 0

  constructor(parts: RunParts) {
    this.#config = parts.config
    this.#options = parts.options
    this.#folder = parts.folder
    this.#model = parts.model
    this.#trainer = parts.trainer
    this.#adapters = parts.adapters
    this.#lanes = parts.lanes
    this.#validation = parts.validation
    this.#totalSteps = Math.max(...parts.lanes.map(({ totalSteps }) => totalSteps))
  }

  async go(): Promise<RunResult> {
    if (this.#options.resume) await this.#resume()
    const metrics = await MetricsFile.open(this.#folder.file(metricsName), this.#step)
    const sum = (of: (corpus: Corpus) => number) =>
      this.#lanes.reduce((total, { corpus }) => total + of(corpus), 0)
    try {
      this.#options.onStart?.({
        firstStep: this.#step + 1,
        totalSteps: this.#totalSteps,
        numSamples: sum(({ numSamples }) => numSamples),
        numTokens: sum(({ numTokens }) => numTokens),
        trainedParameters: this.#trainer.numParameters,
      })
      const validation = await this.#train(metrics)
      const output = this.#folder.file('adapters')
      for (const [name, adapter] of this.#adapters)
        await this.#saveAdapter(adapter, join(output, name))
      const losses = [...this.#lastLoss.values()]
      const lastLoss = losses.reduce((total, loss) => total + loss, 0) / losses.length
      return { steps: this.#step, lastLoss, validation, output }
    } catch (error) {
      throw withWayOn(error, this.#saved)
    } finally {
      await metrics.close()
    }
  }

  async #train(metrics: MetricsFile): Promise<ValidationLoss | null> {
    const { checkpoint, evaluation, schedule } = this.#config
    let validation: ValidationLoss | null = null
    // The next step's samples are read while the device works on this one.
    let upcoming = this.#read(this.#step)
    while (upcoming) {
      const started = performance.now()
      const { work, stateAfter } = await upcoming
      const step = this.#step + 1
      const running = this.#trainer.step(plansOf(work, step, schedule), step)
      upcoming = this.#read(step)
      const reports = await running
      this.#step = step
      await this.#report(reports, (performance.now() - started) / 1000, metrics)
      for (const { lane, plan } of work) lane.skipped.count(reports.get(lane.name)!, plan.samples)
      const isLast = step === this.#totalSteps
      if (this.#validation.size > 0 && (isLast || step % evaluation.every === 0))
        validation = await this.#evaluate(metrics)
      const aborted = this.#options.signal?.aborted ?? false
      if (isLast || aborted || step % checkpoint.every === 0) await this.#save(stateAfter, metrics)
      if (aborted && !isLast)
        throw new AbortedError(
          `stopped after step ${step}, which is saved in ${this.#folder.path}`,
          { cause: this.#options.signal?.reason },
        )
    }
    return validation
  }

  /** The samples of the step after `step`, and where the streams stand then; null after the last. */
  #read(step: number): Promise<{ work: LaneWork[]; stateAfter: Map<string, Json> }> | null {
    if (step >= this.#totalSteps) return null
    const next = readStep(this.#lanes, step + 1)
    const stateAfter = new Map(
      this.#lanes.map(({ name, stream }) => [name, stream.state as unknown as Json]),
    )
    const read = next.then((work) => ({ work, stateAfter }))
    // A failure waits until its step's turn has come.
    read.catch(() => undefined)
    return read
  }

  async #report(
    reports: ReadonlyMap<string, StepReport>,
    seconds: number,
    metrics: MetricsFile,
  ): Promise<void> {
    const speed = [...reports.values()].reduce((sum, { tokens }) => sum + tokens, 0) / seconds
    for (const [name, report] of reports) {
      const total = (this.#tokens.get(name) ?? 0) + report.tokens
      this.#tokens.set(name, total)
      this.#lastLoss.set(name, report.loss)
      await metrics.append(stepMetrics(report, total, speed, name))
    }
    this.#options.onStep?.({
      ...together(reports),
      adapters: reports,
      totalSteps: this.#totalSteps,
      totalTokens: [...this.#tokens.values()].reduce((sum, tokens) => sum + tokens, 0),
      tokensPerSecond: speed,
    })
  }

  async #evaluate(metrics: MetricsFile): Promise<ValidationLoss> {
    const lossByDiscipline: Record<string, number> = {}
    for (const [name, corpus] of this.#validation) {
      const adapter = this.#adapters.get(name)!
      const { loss } = await validationLoss(this.#model.decoder, adapter, corpus.batches())
      lossByDiscipline[name] = loss
      const evaluation = {
        loss: finiteOrNull(loss),
        lossByDiscipline: { [name]: finiteOrNull(loss) },
      }
      await metrics.append({ step: this.#step, adapter: name, evaluation })
    }
    const losses = Object.values(lossByDiscipline)
    const loss = losses.reduce((sum, one) => sum + one, 0) / losses.length
    this.#options.onEvaluation?.({ loss, lossByDiscipline, step: this.#step })
    return { loss, lossByDiscipline }
  }

  async #save(streams: ReadonlyMap<string, Json>, metrics: MetricsFile): Promise<void> {
    const state: Record<string, LaneState> = {}
    let bytesNeeded = 0
    for (const { name, skipped } of this.#lanes) {
      state[name] = {
        updates: this.#trainer.optimizer(name).updates,
        totalTokens: this.#tokens.get(name) ?? 0,
        skippedInRow: skipped.inRow,
        lastLoss: finiteOrNull(this.#lastLoss.get(name) ?? NaN),
        stream: streams.get(name)!,
      }
      bytesNeeded += trainingStateBytes(this.#trained(name))
    }
    await metrics.sync()
    const { notRemoved } = await saveCheckpoint(
      this.#folder,
      this.#step,
      async (path) => {
        for (const [name, adapter] of this.#adapters) {
          await mkdir(join(path, name))
          await saveTrainingState(this.#trained(name), join(path, name))
          await this.#saveAdapter(adapter, join(path, name, 'adapter'))
        }
      },
      state as unknown as Json,
      { keep: this.#config.checkpoint.keep, bytesNeeded },
    )
    this.#saved = this.#step
    for (const { folder, reason } of notRemoved)
      this.#options.onMessage?.(`${folder} could not be removed: ${reason}`)
  }

  async #resume(): Promise<void> {
    const found = await findCheckpoint(this.#folder, { signal: this.#options.signal })
    if (!found) return
    for (const { folder, reason } of found.skipped)
      this.#options.onMessage?.(`${folder} is damaged and was passed over: ${reason}`)
    const states = found.state as unknown as Record<string, LaneState>
    this.#step = this.#saved = found.step
    for (const { name, stream, skipped } of this.#lanes) {
      const trained = this.#trained(name)
      await restoreTrainingState(trained, join(found.folder, name))
      const state = states[name]
      trained.optimizer.updates = state.updates
      this.#tokens.set(name, state.totalTokens)
      if (state.totalTokens > 0) this.#lastLoss.set(name, state.lastLoss ?? NaN)
      skipped.inRow = state.skippedInRow
      stream.restore(state.stream as never)
    }
  }

  #trained(name: string) {
    return { adapter: this.#adapters.get(name)!, optimizer: this.#trainer.optimizer(name) }
  }

  #saveAdapter(adapter: Adapter, folder: string): Promise<void> {
    return saveAdapter(adapter, folder, { baseModel: this.#config.model })
  }
}

/** The figures of all adapters: losses weighted by their tokens, the norm of all gradients. */
function together(reports: ReadonlyMap<string, StepReport>): StepReport {
  const all = [...reports.values()]
  const sum = (of: (report: StepReport) => number) =>
    all.reduce((total, report) => total + of(report), 0)
  const trainedTokens = sum((one) => one.trainedTokens)
  return {
    step: all[0].step,
    loss: sum((one) => one.loss * one.trainedTokens) / trainedTokens,
    lossByDiscipline: Object.fromEntries(Array.from(reports, ([name, { loss }]) => [name, loss])),
    gradNorm: Math.sqrt(sum((one) => one.gradNorm ** 2)),
    learningRate: Math.max(...all.map(({ learningRate }) => learningRate)),
    tokens: sum((one) => one.tokens),
    trainedTokens,
    trainedTokensByDiscipline: Object.fromEntries(
      Array.from(reports, ([name, { trainedTokens }]) => [name, trainedTokens]),
    ),
    applied: all.every(({ applied }) => applied),
  }
}
