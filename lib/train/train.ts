import type { EmbeddingMemory } from '../data/balance/embedding.js'
import { MixedOrder } from '../data/balance/mixed-order.js'
import { Pool } from '../data/balance/pool.js'
import { Corpus, type CorpusMemory } from '../data/index.js'
import { AbortedError } from '../errors.js'
import type { Model } from '../model.js'
import { stageOf, weighByDifficulty } from './difficulty.js'
import { mixesDisciplines, mixRun } from './mixing.js'
import { parseTrainConfig, type TrainConfigInput } from './options.js'
import { scheduleFactor } from './schedule.js'
import { SkippedSteps } from './skipped-steps.js'
import type { StepReport } from './step-report.js'
import { Trainer } from './trainer.js'

/** The keys of a training configuration that say how, not where. */
type SharedOptions = Omit<
  TrainConfigInput,
  | 'model'
  | 'output'
  | 'method'
  | 'data'
  | 'checkpoint'
  | 'evaluation'
  | 'device'
  | 'threads'
  | 'dtype'
>

export interface TrainOptions extends SharedOptions {
  /** A file, or files by discipline: JSONL, CSV or Parquet. */
  data: string | TrainConfigInput['data']['train'] | TrainConfigInput['data']
  signal?: AbortSignal
  onStep?: (report: StepReport & { totalSteps: number }) => void
  /** Records that were left out, steps that were skipped. */
  onMessage?: (message: string) => void
  /** Remembers what `data.mixing` embeds, for more runs on the same frozen model. */
  memory?: EmbeddingMemory
  /** Remembers the data, for more runs on the same files. */
  corpora?: CorpusMemory
}

/**
 * Trains the adapter that is attached to a model, or all of its weights if none is, in memory: nothing is written. For a
 * run in a folder, with checkpoints and metrics, see runTraining.
 *
 * @throws ConfigError, DataError; DeviceError after three steps in a row that were not finite; AbortedError after a signal, with the steps made so far kept
 */
export async function train(model: Model, options: TrainOptions): Promise<{ steps: number }> {
  const { data, signal, onStep, onMessage, memory, corpora, ...rest } = options
  const config = parseTrainConfig({
    ...rest,
    model: model.folder ?? 'model',
    output: 'memory',
    method: { kind: 'full' },
    data: dataOf(data),
  })
  await using corpus = await Corpus.open(config.data.train, {
    ...config.data,
    tokenizer: model.tokenizer,
    maxLength: Math.min(config.data.maxLength ?? Infinity, model.config.maxPositions),
    traits: config.data.mixing !== undefined,
    memory: corpora,
    signal,
  })
  for (const { file, line, reason } of corpus.badRecords) onMessage?.(`${file}:${line}: ${reason}`)
  const mixing = mixesDisciplines(config)
    ? await mixRun(config, corpus, model, { signal, onMessage, memory })
    : null
  const pools = Pool.all(corpus)
  const stream = corpus.steps({
    batch: config.batch,
    shuffle: config.data.shuffle,
    seed: config.seed,
    epochs: config.steps === undefined ? (config.epochs ?? 1) : undefined,
    order: mixing ? () => new MixedOrder(pools, mixing.plan, config.seed) : undefined,
  })
  const totalSteps = config.steps ?? (await stream.stepsFor(config.epochs ?? 1))
  const trainer = new Trainer(model.decoder, model.adapter, {
    ...config.optimizer,
    checkpointing: config.activationCheckpointing,
  })
  const skipped = new SkippedSteps(onMessage)
  // The next step's samples are read while the device works on this one; a failure waits until its turn has come.
  const read = () => {
    const next = stream.next()
    next.catch(() => undefined)
    return next
  }
  try {
    let upcoming = read()
    for (let step = 1; step <= totalSteps; step++) {
      if (signal?.aborted)
        throw new AbortedError(`training stopped before step ${step}`, { cause: signal.reason })
      const plan = await upcoming
      const factor = scheduleFactor(config.schedule, step, totalSteps)
      const weighed = config.difficulty
        ? await weighByDifficulty(
            model.decoder,
            model.adapter,
            plan,
            stageOf(config.difficulty, step, totalSteps),
          )
        : plan
      const running = trainer.step(weighed, step, factor)
      if (step < totalSteps) upcoming = read()
      const report = await running
      skipped.count(report, plan.samples)
      onStep?.({ ...report, totalSteps })
    }
    return { steps: totalSteps }
  } finally {
    trainer.dispose()
  }
}

function dataOf(data: TrainOptions['data']): unknown {
  if (typeof data === 'string') return { train: [{ path: data }] }
  return Array.isArray(data) ? { train: data } : data
}
