import { type Embedder, type EmbeddingMemory, NgramEmbedder } from '../data/balance/embedding.js'
import { ModelEmbedder } from '../data/balance/model-embedding.js'
import {
  type MixingOptions,
  type MixingPlan,
  planMixing,
  type PlanOptions,
} from '../data/balance/plan.js'
import type { Corpus } from '../data/index.js'
import { defaultSize } from '../data/step-stream.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import type { Decoder } from '../models/index.js'
import { learnWeights, type LearnedWeights } from './doremi.js'
import type { Mixing } from './mixing-options.js'
import type { TrainConfig } from './options.js'
import { orderByTransfer, readTransfer } from './task-order.js'

/** A configuration with `data.mixing`. */
export type MixedConfig = TrainConfig & { readonly data: { readonly mixing: Mixing } }

export function mixesDisciplines(config: TrainConfig): config is MixedConfig {
  return config.data.mixing !== undefined
}

/** How a run mixes its disciplines, and what it cost to decide. */
export interface RunMixing {
  readonly plan: MixingPlan
  /** What DoReMi's reference and proxy did; null for other kinds. */
  readonly learned: LearnedWeights | null
}

/** Where a plan is computed. */
export interface MixingModel {
  readonly device: Device
  /** Null where nothing is asked of it; see {@link needsModel}. */
  readonly decoder: Decoder | null
}

/** Whether a plan is made by running the model. */
export function needsModel(mixing: Mixing): boolean {
  return mixing.kind === 'doremi' || (needsEmbedding(mixing) && mixing.embedding === 'model')
}

function needsEmbedding(mixing: Mixing): mixing is Extract<Mixing, { embedding: unknown }> {
  return mixing.kind === 'diverse' || ('caps' in mixing && mixing.caps === 'diversity')
}

export interface MixOptions {
  readonly signal?: AbortSignal
  readonly onMessage?: (message: string) => void
  /** Samples embedded so far. */
  readonly onProgress?: (done: number, total: number) => void
  /** Of the vectors that other runs on the same frozen model needed. */
  readonly memory?: EmbeddingMemory
}

/**
 * The plan that `data.mixing` asks for.
 *
 * @param corpus the training corpus, opened with `traits`
 * @throws ConfigError, DataError, AbortedError
 */
export async function mixRun(
  config: MixedConfig,
  corpus: Corpus,
  model: MixingModel,
  options: MixOptions,
): Promise<RunMixing> {
  const { mixing } = config.data
  const learned =
    mixing.kind === 'doremi'
      ? await learnWeights({ ...options, config, mixing, corpus, decoder: model.decoder! })
      : null
  const plan = await planMixing(corpus, {
    ...(await mixingOptions(mixing, learned, corpus.disciplineNames)),
    budget: plannedDraws(config, corpus),
    seed: config.seed,
    embedding: embeddingOf(mixing, model, options.memory),
    signal: options.signal,
    onProgress: options.onProgress,
  })
  return { plan, learned }
}

async function mixingOptions(
  mixing: Mixing,
  learned: LearnedWeights | null,
  names: readonly string[],
): Promise<MixingOptions> {
  const free = { temperature: Infinity, caps: null, selection: null, sequence: null }
  switch (mixing.kind) {
    case 'proportional':
      return { ...free, temperature: 1 }
    case 'temperature':
      return { ...free, temperature: mixing.temperature }
    case 'equal':
      return free
    case 'shares':
      requireDisciplines(mixing.shares, names)
      return { ...free, weights: mixing.shares }
    case 'unimax':
    case 'diverse': {
      const { temperature = Infinity, maxEpochs } = mixing
      const by = mixing.kind === 'unimax' ? mixing.caps : 'diversity'
      const selection = mixing.kind === 'diverse' ? { beta: mixing.beta } : null
      return { ...free, temperature, caps: { maxEpochs, by }, selection }
    }
    case 'doremi': {
      const { maxEpochs, caps } = mixing
      return { ...free, weights: learned!.weights, caps: { maxEpochs, by: caps } }
    }
    case 'sequence':
      return {
        ...free,
        temperature: 1,
        sequence: mixing.order ?? orderByTransfer(await readTransfer(mixing.transfer!)),
      }
  }
}

/** @throws ConfigError for a share of what is not there; one that is missing is found where shares are worked out */
function requireDisciplines(shares: Readonly<Record<string, number>>, names: readonly string[]) {
  const unknown = Object.keys(shares).find((name) => !names.includes(name))
  if (unknown === undefined) return
  throw new ConfigError(
    `data.mixing.shares: there is no discipline ${JSON.stringify(unknown)}, only ${names.join(', ')}`,
    { details: { key: 'data.mixing.shares', received: unknown, allowed: names } },
  )
}

function embeddingOf(
  mixing: Mixing,
  { decoder, device }: MixingModel,
  memory: EmbeddingMemory | undefined,
): PlanOptions['embedding'] {
  if (!needsEmbedding(mixing)) return null
  const embedder = embedderOf(mixing.embedding, decoder)
  return { embedder: memory?.around(embedder) ?? embedder, device }
}

/** @param decoder not null where it is the model that embeds */
export function embedderOf(embedding: 'model' | 'n-grams', decoder: Decoder | null): Embedder {
  return embedding === 'model' ? new ModelEmbedder(decoder!) : new NgramEmbedder()
}

/** Whether a plan holds for one length of the run only. */
export function dependsOnLength({ kind }: Mixing): boolean {
  return kind === 'unimax' || kind === 'diverse' || kind === 'doremi' || kind === 'sequence'
}

/** What the run draws: so many samples, or where batches are made by tokens, at most so many tokens. */
export function plannedDraws(
  { steps, epochs = 1, batch }: Pick<TrainConfig, 'steps' | 'epochs' | 'batch'>,
  corpus: Corpus,
): PlanOptions['budget'] {
  if (steps === undefined) return { samples: Math.max(1, Math.round(epochs * corpus.numSamples)) }
  const { size = defaultSize, accumulation, maxTokens } = batch
  if (maxTokens === undefined) return { samples: steps * accumulation * size }
  return { tokens: steps * accumulation * mostBatchTokens(maxTokens, corpus) }
}

/** A sample that is longer than `maxTokens` has a micro-batch of its own. */
export function mostBatchTokens(maxTokens: number, { groups }: Corpus): number {
  let most = maxTokens
  for (const { store } of groups)
    for (let i = 0; i < store.size; i++) most = Math.max(most, store.length(i))
  return most
}
