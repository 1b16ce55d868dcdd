import type { DisciplineReport } from '../data/balance/plan.js'
import { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import { Model } from '../model.js'
import { readConfig } from '../models/index.js'
import { Tokenizer } from '../text/index.js'
import { openCorpus } from '../train/inputs.js'
import {
  type MixedConfig,
  mixesDisciplines,
  type MixingModel,
  type MixOptions,
  mixRun,
  needsModel,
  type RunMixing,
} from '../train/mixing.js'
import { parseTrainConfig } from '../train/options.js'
import { runTraining, type RunOptions, type RunResult } from '../train/run.js'

/**
 * Law 1, balance then diversity, as a recipe: a training configuration whose disciplines are mixed by diversity-aware
 * upsampling unless `data.mixing` says otherwise.
 *
 * @throws ConfigError
 */
export function parseBalanceRecipe(value: unknown, file = 'config'): MixedConfig {
  const { data } = (value ?? {}) as { data?: { mixing?: unknown } | null }
  // What is no object is refused below.
  const mixed =
    typeof data === 'object' && data !== null && !Array.isArray(data)
      ? { ...(value as object), data: { ...data, mixing: data.mixing ?? { kind: 'diverse' } } }
      : value
  const config = parseTrainConfig(mixed, file)
  if (mixesDisciplines(config)) return config
  throw new ConfigError(`${file}: data.mixing: must say how disciplines are mixed`, {
    details: { file, key: 'data.mixing' },
  })
}

/** Trains as a recipe says; the result is the adapter. @param config as parseBalanceRecipe returns it */
export async function balance(config: MixedConfig, options: RunOptions = {}): Promise<RunResult> {
  return await runTraining(config, options)
}

/** What a recipe would do to a discipline. */
export interface BalanceRow extends DisciplineReport {
  readonly discipline: string
  /** Part of the corpus' trained tokens, and of those that the run draws. */
  readonly shareBefore: number
  readonly shareAfter: number
  /** Samples of the run. */
  readonly draws: number
}

/** What {@link planBalance} found. */
export interface BalancePlan {
  readonly kind: string
  readonly rows: readonly BalanceRow[]
  readonly learned: RunMixing['learned']
}

/** Shows what a recipe would do, without training: DoReMi alone trains its two proxies. */
export async function planBalance(
  config: MixedConfig,
  options: MixOptions = {},
): Promise<BalancePlan> {
  const { signal } = options
  const { device: kind, threads, dtype, data } = config
  if (needsModel(data.mixing)) {
    await using model = await Model.load(config.model, { device: kind, threads, dtype, signal })
    return await plan(model, model)
  }
  const device = Device.open(kind, { threads })
  try {
    await using tokenizer = await Tokenizer.load(config.model)
    return await plan(
      { tokenizer, config: await readConfig(config.model) },
      { device, decoder: null },
    )
  } finally {
    await device.close()
  }

  async function plan(
    model: Pick<Model, 'tokenizer' | 'config'>,
    mixer: MixingModel,
  ): Promise<BalancePlan> {
    await using corpus = await openCorpus(config, data.train, model, options)
    const mixing = await mixRun(config, corpus, mixer, options)
    return { kind: data.mixing.kind, rows: rowsOf(mixing), learned: mixing.learned }
  }
}

function rowsOf({ plan }: RunMixing): BalanceRow[] {
  const meanTokens = plan.disciplines.map(
    ({ report }) => report.tokens / Math.max(1, report.unique),
  )
  const before = plan.disciplines.map(({ report }, i) => report.records * meanTokens[i])
  const after = plan.disciplines.map(({ draws }, i) => draws * meanTokens[i])
  const sum = (amounts: readonly number[]) => amounts.reduce((total, one) => total + one, 0)
  return plan.disciplines.map(({ name, draws, report }, i) => ({
    ...report,
    discipline: name,
    shareBefore: before[i] / sum(before),
    shareAfter: after[i] / sum(after),
    draws: Math.round(draws),
  }))
}
