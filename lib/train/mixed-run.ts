import { MixedOrder } from '../data/balance/mixed-order.js'
import { Pool } from '../data/balance/pool.js'
import { realise } from '../data/balance/realised.js'
import type { Corpus, StepStreamState } from '../data/index.js'
import { readMixing, writeMixing } from './mixing-file.js'
import {
  type MixedConfig,
  type MixingModel,
  type MixOptions,
  mixRun,
  type RunMixing,
} from './mixing.js'
import type { RunFolder } from './run-folder.js'

/** The mixing of a run in a folder: as it was when the run was started, or decided now. */
export class MixedRun {
  readonly #folder: RunFolder
  readonly #corpus: Corpus
  readonly #seed: number
  readonly #mixing: RunMixing
  readonly #isSaved: boolean

  private constructor(
    folder: RunFolder,
    corpus: Corpus,
    seed: number,
    mixing: RunMixing,
    isSaved: boolean,
  ) {
    this.#isSaved = isSaved
    this.#folder = folder
    this.#corpus = corpus
    this.#seed = seed
    this.#mixing = mixing
  }

  /** @throws ConfigError, DataError, CheckpointError, AbortedError */
  static async open(
    folder: RunFolder,
    config: MixedConfig,
    corpus: Corpus,
    model: MixingModel,
    options: MixOptions,
  ): Promise<MixedRun> {
    const saved = folder.saved && (await readMixing(folder, corpus))
    if (saved) return new MixedRun(folder, corpus, config.seed, saved, true)
    options.onMessage?.(
      `deciding how to mix ${corpus.numSamples} samples: ${config.data.mixing.kind}`,
    )
    const mixing = await mixRun(config, corpus, model, options)
    return new MixedRun(folder, corpus, config.seed, mixing, false)
  }

  /** Writes a new plan down, before the first step. @throws CheckpointError */
  async save(): Promise<void> {
    if (!this.#isSaved) await writeMixing(this.#folder, this.#mixing, null)
  }

  /** From the first sample. */
  order(): MixedOrder {
    return new MixedOrder(Pool.all(this.#corpus), this.#mixing.plan, this.#seed)
  }

  /** Passes over each discipline's unique samples. */
  epochs({ counts, waiting }: StepStreamState): Record<string, number> {
    const held = waiting ? this.#corpus.groups[waiting.group].discipline : -1
    return Object.fromEntries(
      this.#mixing.plan.disciplines.map(({ name, report }, i) => [
        name,
        (counts[i] - Number(i === held)) / Math.max(1, report.unique),
      ]),
    )
  }

  /** Writes down what came of the plan. @throws CheckpointError */
  async saveRealised({ position, waiting }: StepStreamState): Promise<void> {
    const samples = position - Number(waiting !== null)
    const realised = await realise(this.#mixing.plan, this.order(), samples)
    await writeMixing(this.#folder, this.#mixing, realised)
  }
}
