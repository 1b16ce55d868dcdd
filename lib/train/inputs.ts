import type { Adapter } from '../adapters/adapter.js'
import { Corpus, type StepStream, type StepStreamOptions } from '../data/index.js'
import { Model } from '../model.js'
import { type AdapterMethod, createAdapter } from './method.js'
import type { TrainConfig } from './options.js'
import type { RunOptions } from './run.js'

/** What a run works on: the model, the adapters that it trains, the samples. */

export async function openModel(config: TrainConfig, signal?: AbortSignal): Promise<Model> {
  const { device, threads, dtype, method, model, seed } = config
  const options = { device, threads, dtype, signal }
  return method.kind === 'full' && method.initialize
    ? await Model.initializeFrom(model, { ...options, seed })
    : await Model.load(model, options)
}

/** The adapter that a run trains; null: all weights of the model. The caller disposes it. */
export async function openAdapter(
  { device, config, decoder: { weights } }: Model,
  method: AdapterMethod | Extract<TrainConfig['method'], { kind: 'full' }>,
  { seed, data }: Pick<TrainConfig, 'seed' | 'data'>,
): Promise<Adapter | null> {
  if (method.kind === 'full') return null
  const disciplines = disciplinesOf(data.train)
  return await createAdapter({ device, config, weights }, method, { seed, disciplines })
}

export function disciplinesOf(sources: readonly { readonly discipline: string }[]): string[] {
  return [...new Set(sources.map(({ discipline }) => discipline))]
}

/** The samples that a run trains on, or is validated on. */
export async function openCorpus(
  config: TrainConfig,
  sources: TrainConfig['data']['train'],
  model: Pick<Model, 'tokenizer' | 'config'>,
  { signal, onMessage }: Pick<RunOptions, 'signal' | 'onMessage'>,
): Promise<Corpus> {
  const { data } = config
  const corpus = await Corpus.open(sources, {
    tokenizer: model.tokenizer,
    maxLength: Math.min(data.maxLength ?? Infinity, model.config.maxPositions),
    onTooLong: data.onTooLong,
    onBadRecord: data.onBadRecord,
    chatTemplate: data.chatTemplate,
    labels: data.labels,
    traits: sources === data.train && data.mixing !== undefined,
    signal,
  })
  if (corpus.numBadRecords > 0) {
    const shown = corpus.badRecords.map(({ file, line, reason }) => `${file}:${line}: ${reason}`)
    onMessage?.(
      `${corpus.numBadRecords} records were left out; the first: ${shown.slice(0, 5).join('; ')}`,
    )
  }
  return corpus
}

/** The optimiser steps of a run. @param order in place of the sources' weights */
export function stepsOf(
  config: TrainConfig,
  corpus: Corpus,
  order?: StepStreamOptions['order'],
): StepStream {
  return corpus.steps({
    batch: config.batch,
    shuffle: config.data.shuffle,
    seed: config.seed,
    epochs: config.steps === undefined ? (config.epochs ?? 1) : undefined,
    order,
  })
}

/** How many they are, if nothing ends the run before. */
export async function numStepsOf(
  { steps, epochs = 1 }: TrainConfig,
  stream: StepStream,
): Promise<number> {
  return steps ?? (await stream.stepsFor(epochs))
}
