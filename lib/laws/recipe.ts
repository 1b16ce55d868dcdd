import { join } from 'node:path'
import { Device } from '../device.js'
import { CheckpointError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { mergeAdapters, parseRecipe } from '../merge/index.js'
import { Model } from '../model.js'
import { requireOutside } from '../output-folder.js'
import { align } from './align.js'
import type { Setting } from './arms/law.js'
import { Laboratory } from './laboratory.js'
import { optimize } from './optimize.js'
import { settingOf, wholeSize } from './plan.js'
import { base, type Procedure } from './procedure.js'
import type { RunRecord } from './run-record.js'
import { accuracyOf } from './scoring.js'
import { specialize } from './specialize.js'
import { mean } from './statistics/index.js'
import type { StudyConfig } from './study-config.js'
import { prepareData, type StudyData } from './study-data.js'

/** A law as something to do: what comes out is an adapter, not a verdict. */
export type RecipeName = 'align' | 'optimize' | 'specialize'

/** What a recipe works with. */
export interface Kitchen {
  readonly config: StudyConfig
  readonly setting: Setting
  readonly data: StudyData
  readonly laboratory: Laboratory
  /** Of everything that is not a search. */
  readonly seed: number
}

export interface RecipeResult {
  /** Folder of the adapter; it goes on the configuration's model. */
  readonly adapter: string
  /** What was tried: validation scores are fractions, corrected for chance. */
  readonly rows: readonly RecipeRow[]
  /** What else there is to say, a line each. */
  readonly facts: readonly string[]
}

export interface RecipeRow {
  readonly name: string
  readonly score: number
  readonly parameters: number
  readonly tokens: number
}

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
    const inputs = { config, data, model: model.config, modelFingerprint: '', canDiversify: false }
    const setting = settingOf(inputs, wholeSize(config, Infinity))
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

/** Trains (or reads) and measures on validation. */
export async function tried(
  kitchen: Kitchen,
  name: string,
  procedure: Procedure,
): Promise<RecipeRow> {
  const { laboratory, data, seed } = kitchen
  const record = await laboratory.run(procedure, seed, validationSets(data))
  const { parameters, tokens } = record
  return { name, score: validationScore(record, data), parameters, tokens }
}

export const untouched = (kitchen: Kitchen) => tried(kitchen, 'the model as it is', base)

const validationSets = (data: StudyData) => data.disciplines.map(({ name }) => `validation ${name}`)

function validationScore({ sets }: RunRecord, data: StudyData): number {
  const names = validationSets(data)
  if (!names.every((name) => Object.hasOwn(sets, name))) return -Infinity
  return mean(names.map((name) => accuracyOf(sets[name], data.sets.get(name)!)))
}

/** Adapters of one model as one, exactly: side by side. */
export async function joinAdapters(
  { config }: Kitchen,
  parts: readonly { readonly folder: string; readonly weight: number }[],
  output: string,
): Promise<void> {
  const recipe = parseRecipe({
    merge_method: 'cat',
    base_model: config.model,
    models: parts.map(({ folder, weight }) => ({ model: folder, parameters: { weight } })),
  })
  await mergeAdapters({ recipe, output, device: config.device, threads: config.threads })
}
