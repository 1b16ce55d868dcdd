import { Adapter } from '../adapters/adapter.js'
import { lora } from '../adapters/declaration.js'
import { MixedOrder } from '../data/balance/mixed-order.js'
import { type MixingPlan, planMixing } from '../data/balance/plan.js'
import { Pool } from '../data/balance/pool.js'
import type { Corpus, CorpusStep } from '../data/index.js'
import { AbortedError, ConfigError } from '../errors.js'
import type { Decoder } from '../models/index.js'
import { DomainWeights } from './domain-weights.js'
import type { Mixing } from './mixing-options.js'
import type { TrainConfig } from './options.js'
import { scheduleFactor } from './schedule.js'
import { SkippedSteps } from './skipped-steps.js'
import type { StepReport } from './step-report.js'
import { Trainer } from './trainer.js'
import { tokenLosses } from './validation.js'

/** What DoReMi found, and the tokens that it cost. */
export interface LearnedWeights {
  /** By discipline: the mean over the proxy's steps. They sum to 1. */
  readonly weights: Readonly<Record<string, number>>
  /** Tokens that the reference was trained on, that it scored, and that the proxy was trained on. */
  readonly tokens: { readonly reference: number; readonly scored: number; readonly proxy: number }
}

type DoReMi = Extract<Mixing, { kind: 'doremi' }>

interface Context {
  readonly config: TrainConfig
  readonly mixing: DoReMi
  readonly corpus: Corpus
  readonly decoder: Decoder
  readonly signal?: AbortSignal
  readonly onMessage?: (message: string) => void
}

/**
 * DoReMi (Xie et al. 2023) at small size. A reference adapter is trained proportionally; then a proxy from the same start,
 * on equally many sequences of each discipline in every step, whose losses count by the weights. Where the original
 * reweights the loss of the very step, here the next one's.
 *
 * @throws ConfigError where the base is not trained yet: adapters on random weights say nothing
 */
export async function learnWeights(context: Context): Promise<LearnedWeights> {
  const { config, mixing, corpus, signal } = context
  if (config.method.kind === 'full' && config.method.initialize)
    throw new ConfigError(
      'data.mixing.kind doremi trains its proxy as an adapter on the model, which method.initialize leaves at random: choose another mixing',
      { details: { key: 'data.mixing.kind', received: 'doremi' } },
    )
  const free = { temperature: 1, caps: null, selection: null, sequence: null, embedding: null }
  const budget = { samples: corpus.numSamples }
  const plan = await planMixing(corpus, { ...free, budget, seed: config.seed, signal })
  const names = plan.disciplines.filter(({ share }) => share > 0).map(({ name }) => name)
  const weights = new DomainWeights(names, mixing)
  const tokens = { reference: 0, scored: 0, proxy: 0 }
  const learned = () => ({
    weights: Object.fromEntries(
      plan.disciplines.map(({ name }) => [name, weights.mean().get(name) ?? 0]),
    ),
    tokens,
  })
  if (names.length === 1) return learned()
  using reference = new SmallRun('reference', context, plan, config.batch)
  for await (const work of reference.steps())
    tokens.reference += (await reference.train(work)).report.tokens
  // Equal shares put each discipline into every so many samples exactly once.
  const balanced = withEqualShares(plan, names.length)
  const batch = { size: mixing.sequences, accumulation: names.length }
  using proxy = new SmallRun('proxy', context, balanced, batch)
  for await (const work of proxy.steps()) {
    const expected = await reference.losses(work)
    const { report, losses } = await proxy.train(weights.weigh(work))
    weights.update(work, losses, expected)
    tokens.proxy += report.tokens
    tokens.scored += report.tokens
  }
  return learned()
}

function withEqualShares(plan: MixingPlan, count: number): MixingPlan {
  const disciplines = plan.disciplines.map((one) => ({
    ...one,
    share: one.share > 0 ? 1 / count : 0,
  }))
  return { ...plan, disciplines }
}

/** A short training of a fresh adapter on the frozen model, in memory. All start alike. */
class SmallRun {
  readonly #name: string
  readonly #context: Context
  readonly #adapter: Adapter
  readonly #trainer: Trainer
  readonly #stream: ReturnType<Corpus['steps']>
  readonly #skipped: SkippedSteps
  #step = 0
  #losses: Float32Array = new Float32Array()

  constructor(name: string, context: Context, plan: MixingPlan, batch: TrainConfig['batch']) {
    const { config, mixing, corpus, decoder, onMessage } = context
    const { seed } = config
    const pools = Pool.all(corpus)
    this.#name = name
    this.#context = context
    const order = () => new MixedOrder(pools, plan, seed)
    this.#stream = corpus.steps({ batch, shuffle: true, seed, order })
    this.#skipped = new SkippedSteps(onMessage)
    this.#adapter = Adapter.create(
      decoder.device,
      decoder.config,
      lora({ rank: mixing.rank, seed }),
    )
    this.#trainer = new Trainer(decoder, this.#adapter, {
      ...config.optimizer,
      checkpointing: config.activationCheckpointing,
      onLosses: (losses) => {
        this.#losses = losses
      },
    })
    onMessage?.(`DoReMi: training the ${name} for ${mixing.steps} steps`)
  }

  /** The work of each step. @throws AbortedError */
  async *steps(): AsyncGenerator<CorpusStep> {
    const { mixing, signal } = this.#context
    for (let step = 1; step <= mixing.steps; step++) {
      if (signal?.aborted)
        throw new AbortedError(`stopped while DoReMi was training its ${this.#name}`, {
          cause: signal.reason,
        })
      yield await this.#stream.next()
    }
  }

  /** @returns also the losses of all trained tokens, before the update */
  async train(work: CorpusStep): Promise<{ report: StepReport; losses: Float32Array }> {
    const { config, mixing } = this.#context
    const { kind, warmupSteps } = config.schedule
    // A short run warms up for a tenth of its steps at most.
    const schedule = { kind, warmupSteps: Math.min(warmupSteps, Math.floor(mixing.steps / 10)) }
    const step = ++this.#step
    const factor = scheduleFactor(schedule, step, mixing.steps)
    const report = await this.#trainer.step(work, step, factor)
    this.#skipped.count(report, work.samples)
    return { report, losses: this.#losses }
  }

  /** Losses of all trained tokens as the adapter is now. */
  async losses({ batches, trainedTokens }: CorpusStep): Promise<Float32Array> {
    const all = new Float32Array(trainedTokens)
    let at = 0
    for (const batch of batches) {
      using losses = tokenLosses(this.#trainer.decoder, this.#adapter, batch)
      all.set(await losses.readFloats(), at)
      at += batch.labels.length
    }
    return all
  }

  [Symbol.dispose](): void {
    this.#trainer.dispose()
    this.#adapter.dispose()
  }
}
