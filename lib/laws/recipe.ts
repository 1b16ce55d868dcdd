import { join } from 'node:path'
import { Device } from '../device.js'
import { CheckpointError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { Model } from '../model.js'
import { requireOutside } from '../output-folder.js'
import { align } from './align.js'
import { Laboratory } from './laboratory.js'
import { optimize } from './optimize.js'
import { askedSize, settingOf } from './plan.js'
import type { RecipeResult } from './recipe-context.js'
import { specialize } from './specialize.js'
import type { StudyConfig } from './study-config.js'
import { prepareData } from './study-data.js'

/** A law as something to do: what comes out is an adapter, not a verdict. */
export type RecipeName = 'align' | 'optimize' | 'specialize'

export interface RecipeOptions {
  readonly signal?: AbortSignal
  readonly onMessage?: (message: string) => void
  /** A training or measurement that is done. */
  readonly onRun?: (done: number) => void
}

const recipes = { align, optimize, specialize } as const

/**
 * Carries a recipe out in the configuration's output folder, whose finished runs are not repeated, and writes the result to
 * `adapter` in it. Everything is chosen on validation data.
 *
 * @throws ConfigError, DataError before anything is trained; AbortedError
 */
export async function runRecipe(
  name: RecipeName,
  config: StudyConfig,
  { signal, onMessage, onRun }: RecipeOptions = {},
): Promise<RecipeResult> {
  const { output } = config
  await requireOutside(output, [config.model])
  await nodeFileSystem.makeFolder(output)
  const unlock = nodeFileSystem.lock(join(output, '.lock'))
  if (unlock === null)
    throw new CheckpointError(
      `${output} is in use by another process; wait until it ends, or choose another output folder`,
      { details: { path: output } },
    )
  const device = Device.open(config.device, { threads: config.threads })
  try {
    await using model = await Model.load(config.model, { device, dtype: config.dtype, signal })
    const data = await prepareData(config, model, join(output, 'data'), { signal })
    for (const note of data.notes) onMessage?.(note)
    const inputs = { config, data, model: model.config, modelFingerprint: '', survey: null }
    const setting = settingOf(inputs, askedSize(config, Infinity))
    let done = 0
    const laboratory = new Laboratory({
      config,
      data,
      device,
      folder: output,
      signal,
      onMessage,
      onRun: () => onRun?.(++done),
    })
    return await recipes[name]({ config, setting, data, laboratory, seed: config.seed })
  } finally {
    await device.close()
    unlock()
  }
}

export type { RecipeResult, RecipeRow } from './recipe-context.js'
