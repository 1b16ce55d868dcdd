import { join } from 'node:path'
import type { Adapter } from '../adapters/adapter.js'
import { saveAdapter } from '../adapters/peft.js'
import type { Corpus, CorpusStep, StepStream, StepStreamState } from '../data/index.js'
import { AbortedError } from '../errors.js'
import type { Model } from '../model.js'
import { saveModel } from '../models/save.js'
import { findCheckpoint, saveCheckpoint } from './checkpoint.js'
import { stageOf, weighByDifficulty } from './difficulty.js'
import { numStepsOf, openAdapter, openCorpus, openModel, stepsOf } from './inputs.js'
import { requireRoom } from './memory-plan.js'
import { finiteOrNull, MetricsFile, stepMetrics } from './metrics.js'
import { MixedRun } from './mixed-run.js'
import { dependsOnLength, mixesDisciplines, plannedDraws } from './mixing.js'
import type { TrainConfig } from './options.js'
import { type Json, metricsName, openRunFolder, type RunFolder, withWayOn } from './run-folder.js'
import { runSideBySide } from './run-side-by-side.js'
import { scheduleFactor } from './schedule.js'
import { SkippedSteps } from './skipped-steps.js'
import { restoreTrainingState, saveTrainingState, trainingStateBytes } from './state.js'
import type { StepReport } from './step-report.js'
import { Trainer } from './trainer.js'
import { validationLoss, type ValidationLoss } from './validation.js'
import { modelFingerprint } from './model-fingerprint.js'

export interface RunOptions {
  /** Continue the run that the output folder holds, or start one if it holds none. */
  resume?: boolean
  /** The current step is finished and a checkpoint saved, then AbortedError is thrown. */
  signal?: AbortSignal
  onStart?: (plan: RunPlan) => void
  onStep?: (report: RunStepReport) => void
  onEvaluation?: (report: ValidationLoss & { step: number }) => void
  /** What a user should know: skipped records, skipped checkpoints, skipped steps. */
  onMessage?: (message: string) => void
}

/** What a run is about to do. */
export interface RunPlan {
  readonly firstStep: number
  readonly totalSteps: number
  readonly numSamples: number
  readonly numTokens: number
  readonly trainedParameters: number
}

export interface RunStepReport extends StepReport {
  /** What each adapter did, where several are trained side by side; the rest is of them all. */
  readonly adapters?: ReadonlyMap<string, StepReport>
  readonly totalSteps: number
  /** Since the run began, over all its parts. */
  readonly totalTokens: number
  readonly tokensPerSecond: number
}

export interface RunResult {
  readonly steps: number
  readonly lastLoss: number
  readonly validation: ValidationLoss | null
  /** Where the adapter, or the fine-tuned model, was written; of adapters side by side the folder that they are in. */
  readonly output: string
}

/** What a checkpoint remembers beside values and moments. */
interface RunState {
  readonly updates: number
  readonly totalTokens: number
  readonly skippedInRow: number
  readonly lastLoss: number | null
  readonly stream: StepStreamState
  readonly bestLoss: number | null
  readonly sinceBest: number
}

/**
 * A whole training run in a folder: metrics.jsonl, checkpoints `step-N`, and at the end `adapter`, `adapters/NAME` of each
 * discipline, or `model`.
 *
 * @param config as parseTrainConfig returns it
 * @throws ConfigError, DataError, CheckpointError, DeviceError; AbortedError after a signal
 */
export async function runTraining(
  config: TrainConfig,
  options: RunOptions = {},
): Promise<RunResult> {
  const { method } = config
  if (method.kind === 'side-by-side') return await runSideBySide({ ...config, method }, options)
  await using folder = await openRunFolder(config, options)
  await using model = await openModel(config, options.signal)
  using adapter = await openAdapter(model, method, config)
  await using training = await openCorpus(config, config.data.train, model, options)
  await using validation =
    config.data.validation.length > 0
      ? await openCorpus(config, config.data.validation, model, options)
      : null
  if (folder.saved === null) await requireRoom(config, model, training)
  const begin = async () => {
    await folder.begin({
      ...(config as unknown as Record<string, Json>),
      baseModel: await modelFingerprint(config.model),
      corpus: training.fingerprint,
      validationCorpus: validation?.fingerprint ?? null,
      ...(mixesDisciplines(config) && dependsOnLength(config.data.mixing)
        ? { plannedDraws: plannedDraws(config, training) }
        : {}),
    })
  }
  // A run that goes on must be the same run; a new one is written down when it is known that it can be done.
  if (folder.saved) await begin()
  const mixing = mixesDisciplines(config)
    ? await MixedRun.open(folder, config, training, model, options)
    : null
  if (!folder.saved) await begin()
  await mixing?.save()
  const trainer = new Trainer(model.decoder, adapter, {
    ...config.optimizer,
    checkpointing: config.activationCheckpointing,
  })
  try {
    const run = new Run(config, options, folder, model, trainer, training, validation, mixing)
    return await run.go()
  } finally {
    trainer.dispose()
  }
}

class Run {
  readonly #config: TrainConfig
  readonly #options: RunOptions
  readonly #folder: RunFolder
  readonly #model: Model
  readonly #trainer: Trainer
  readonly #validation: Corpus | null
  readonly #training: Corpus
  readonly #skipped: SkippedSteps
  readonly #mixing: MixedRun | null
  readonly #stream: StepStream
  #step = 0
  /** The step of the newest checkpoint. */
  #saved = 0
  #totalTokens = 0
  #lastLoss = NaN
  #bestLoss = Infinity
  #sinceBest = 0

  constructor(
    config: TrainConfig,
    options: RunOptions,
    folder: RunFolder,
    model: Model,
    trainer: Trainer,
    training: Corpus,
    validation: Corpus | null,
    mixing: MixedRun | null,
  ) {
    this.#config = config
    this.#options = options
    this.#folder = folder
    this.#model = model
    this.#trainer = trainer
    this.#training = training
    this.#validation = validation
    this.#mixing = mixing
    this.#skipped = new SkippedSteps(options.onMessage)
    this.#stream = stepsOf(config, training, mixing ? () => mixing.order() : undefined)
  }

  async go(): Promise<RunResult> {
    const totalSteps = await numStepsOf(this.#config, this.#stream)
    if (this.#options.resume) await this.#resume()
    const metrics = await MetricsFile.open(this.#folder.file(metricsName), this.#step)
    try {
      this.#options.onStart?.({
        firstStep: this.#step + 1,
        totalSteps,
        numSamples: this.#training.numSamples,
        numTokens: this.#training.numTokens,
        trainedParameters: this.#trainer.numParameters,
      })
      const validation = await this.#train(totalSteps, metrics)
      const output = this.#keepsBest ? this.#resultFolder : await this.#saveResult()
      return { steps: this.#step, lastLoss: this.#lastLoss, validation, output }
    } catch (error) {
      throw withWayOn(error, this.#saved)
    } finally {
      await metrics.close()
    }
  }

  async #train(totalSteps: number, metrics: MetricsFile): Promise<ValidationLoss | null> {
    const { checkpoint, evaluation, schedule } = this.#config
    let validation: ValidationLoss | null = null
    // The next step's samples are read while the device works on this one.
    let upcoming = this.#read(this.#step, totalSteps)
    while (upcoming) {
      const started = performance.now()
      // Where a resumed run must go on from, if this step is the last one saved.
      const { plan: read, stateAfter } = await upcoming
      const step = this.#step + 1
      const factor = scheduleFactor(schedule, step, totalSteps)
      const plan = await this.#weigh(read, step, totalSteps)
      const running = this.#trainer.step(plan, step, factor)
      upcoming = this.#read(step, totalSteps)
      const report = await running
      this.#step = step
      this.#totalTokens += report.tokens
      this.#lastLoss = report.loss
      const seconds = (performance.now() - started) / 1000
      await this.#report(report, totalSteps, seconds, stateAfter, metrics)
      this.#skipped.count(report, plan.samples)
      const isLast = step === totalSteps
      let stop = false
      if (this.#validation && (isLast || step % evaluation.every === 0)) {
        validation = await this.#evaluate(metrics)
        stop = await this.#shouldStop(validation.loss, evaluation.patience)
      }
      const aborted = this.#options.signal?.aborted ?? false
      if (isLast || stop || aborted || step % checkpoint.every === 0)
        await this.#save(stateAfter, metrics)
      if (isLast || stop || aborted) await this.#mixing?.saveRealised(stateAfter)
      if (stop) {
        this.#options.onMessage?.(
          `stopped after step ${step}: the validation loss has not fallen for ${evaluation.patience} evaluations`,
        )
        break
      }
      if (aborted && !isLast)
        throw new AbortedError(
          `stopped after step ${step}, which is saved in ${this.#folder.path}`,
          {
            cause: this.#options.signal?.reason,
          },
        )
    }
    return validation
  }

  /** The samples of the step after `step`, and where the stream stands then; null after the last. */
  #read(
    step: number,
    totalSteps: number,
  ): Promise<{ plan: CorpusStep; stateAfter: StepStreamState }> | null {
    if (step >= totalSteps) return null
    const next = this.#stream.next()
    // The choice is made before the first await, so the state is that after this step.
    const stateAfter = this.#stream.state
    const read = next.then((plan) => ({ plan, stateAfter }))
    // A failure waits until its step's turn has come.
    read.catch(() => undefined)
    return read
  }

  async #report(
    report: StepReport,
    totalSteps: number,
    seconds: number,
    stateAfter: StepStreamState,
    metrics: MetricsFile,
  ): Promise<void> {
    const tokensPerSecond = report.tokens / seconds
    await metrics.append({
      ...stepMetrics(report, this.#totalTokens, tokensPerSecond),
      ...(this.#mixing ? { epochs: this.#mixing.epochs(stateAfter) } : {}),
    })
    this.#options.onStep?.({
      ...report,
      totalSteps,
      totalTokens: this.#totalTokens,
      tokensPerSecond,
    })
  }

  async #weigh(plan: CorpusStep, step: number, totalSteps: number): Promise<CorpusStep> {
    const { difficulty } = this.#config
    if (difficulty === undefined) return plan
    const stage = stageOf(difficulty, step, totalSteps)
    return await weighByDifficulty(this.#model.decoder, this.#trainer.adapter, plan, stage)
  }

  async #evaluate(metrics: MetricsFile): Promise<ValidationLoss> {
    const report = await validationLoss(
      this.#model.decoder,
      this.#trainer.adapter,
      this.#validation!.batches(),
    )
    const { loss, lossByDiscipline } = report
    await metrics.append({
      step: this.#step,
      evaluation: { loss: finiteOrNull(loss), lossByDiscipline },
    })
    this.#options.onEvaluation?.({ ...report, step: this.#step })
    return report
  }

  async #shouldStop(loss: number, patience: number | undefined): Promise<boolean> {
    if (loss < this.#bestLoss) {
      this.#bestLoss = loss
      this.#sinceBest = 0
      // With early stopping the result is the best so far, not the last.
      if (patience !== undefined) await this.#saveResult()
      return false
    }
    this.#sinceBest++
    return patience !== undefined && this.#sinceBest >= patience
  }

  async #save(stream: StepStreamState, metrics: MetricsFile): Promise<void> {
    const state: RunState = {
      updates: this.#trainer.optimizer.updates,
      totalTokens: this.#totalTokens,
      skippedInRow: this.#skipped.inRow,
      lastLoss: finiteOrNull(this.#lastLoss),
      stream,
      bestLoss: finiteOrNull(this.#bestLoss),
      sinceBest: this.#sinceBest,
    }
    await metrics.sync()
    const { notRemoved } = await saveCheckpoint(
      this.#folder,
      this.#step,
      async (path) => {
        await saveTrainingState(this.#trainer, path)
        if (this.#trainer.adapter)
          await this.#saveAdapter(this.#trainer.adapter, join(path, 'adapter'))
      },
      state as unknown as Json,
      { keep: this.#config.checkpoint.keep, bytesNeeded: trainingStateBytes(this.#trainer) },
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
    await restoreTrainingState(this.#trainer, found.folder)
    const state = found.state as unknown as RunState
    this.#step = this.#saved = found.step
    this.#trainer.optimizer.updates = state.updates
    this.#totalTokens = state.totalTokens
    this.#skipped.inRow = state.skippedInRow
    this.#lastLoss = state.lastLoss ?? NaN
    this.#bestLoss = state.bestLoss ?? Infinity
    this.#sinceBest = state.sinceBest
    this.#stream.restore(state.stream)
  }

  get #keepsBest(): boolean {
    return this.#config.evaluation.patience !== undefined && Number.isFinite(this.#bestLoss)
  }

  get #resultFolder(): string {
    return this.#folder.file(this.#trainer.adapter ? 'adapter' : 'model')
  }

  async #saveResult(): Promise<string> {
    const { adapter } = this.#trainer
    const output = this.#resultFolder
    if (adapter) await this.#saveAdapter(adapter, output)
    else
      await saveModel(output, {
        config: this.#model.config,
        weights: this.#model.decoder.weights,
        tokenizerFrom: this.#config.model,
        replace: true,
      })
    return output
  }

  #saveAdapter(adapter: Adapter, folder: string): Promise<void> {
    return saveAdapter(adapter, folder, { baseModel: this.#config.model })
  }
}
