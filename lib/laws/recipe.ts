import { join } from 'node:path'
import { Device } from '../device.js'
import { Model } from '../model.js'
import { modelFingerprint } from '../train/model-fingerprint.js'
import { align } from './align.js'
import { Laboratory } from './laboratory.js'
import { optimize } from './optimize.js'
import { askedSize, settingOf } from './plan.js'
import { base, hashOf } from './procedure.js'
import type { RecipeResult } from './recipe-context.js'
import { specialize } from './specialize.js'
import { modelsOf, type RecipeName, type StudyConfig } from './study-config.js'
import { prepareData } from './study-data.js'
import { StudyFolder } from './study-folder.js'

export interface RecipeOptions {
  readonly signal?: AbortSignal
  readonly onMessage?: (message: string) => void
  /** A training or measurement that is done. */
  readonly onRun?: (done: number) => void
}

const recipes = { align, optimize, specialize } as const

/**
 * Carries a recipe out in the configuration's output folder, whose finished runs are not repeated, and writes the result to
 * `adapter` or `model` in it. Everything is chosen on validation data.
 *
 * @throws ConfigError, DataError before anything is trained; AbortedError
 */
export async function runRecipe(
  name: RecipeName,
  config: StudyConfig,
  { signal, onMessage, onRun }: RecipeOptions = {},
): Promise<RecipeResult> {
  const { output } = config
  using folder = await StudyFolder.open(config, name)
  const device = Device.open(config.device, { threads: config.threads })
  try {
    await using model = await Model.load(config.model, { device, dtype: config.dtype, signal })
    const data = await prepareData(config, model, join(output, 'data'), { signal })
    for (const note of data.notes) onMessage?.(note)
    const { batchTokens, dtype, metric } = config
    const models = await Promise.all(modelsOf(config).map(modelFingerprint))
    await folder.requireSame(hashOf({ models, data: data.fingerprint, batchTokens, dtype, metric }))
    const inputs = { config, data, model: model.config, modelFingerprint: models[0], survey: null }
    const setting = settingOf(inputs, askedSize(config, Infinity))
    let done = 0
    const laboratory = new Laboratory({
      config,
      data,
      device,
      tokenizer: model.tokenizer,
      folder: output,
      signal,
      onMessage,
      onRun: () => onRun?.(++done),
    })
    // First, so that no set surprises a training.
    await laboratory.run(base, config.seed, [...data.sets.keys()])
    return await recipes[name]({ config, setting, data, laboratory, seed: config.seed })
  } finally {
    await device.close()
  }
}

export type { RecipeResult, RecipeRow } from './recipe-context.js'
export type { RecipeName } from './study-config.js'
