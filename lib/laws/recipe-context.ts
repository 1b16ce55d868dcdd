import { mergeAdapters, parseRecipe } from '../merge/index.js'
import type { Setting } from './arms/law.js'
import type { Laboratory } from './laboratory.js'
import { base, type Procedure } from './procedure.js'
import type { RunRecord } from './run-record.js'
import { accuracyOf } from './scoring.js'
import { mean } from './statistics/index.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'

/** What a recipe works with. */
export interface RecipeContext {
  readonly config: StudyConfig
  readonly setting: Setting
  readonly data: StudyData
  readonly laboratory: Laboratory
  /** Of everything that is not a search. */
  readonly seed: number
}

export interface RecipeResult {
  /** An adapter goes on the configuration's model. */
  readonly kind: 'adapter' | 'model'
  readonly folder: string
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

/** Trains (or reads) and measures on validation. @param more sets that will be asked for: all at once makes it once */
export async function tried(
  context: RecipeContext,
  name: string,
  procedure: Procedure,
  more: readonly string[] = [],
): Promise<RecipeRow> {
  const { laboratory, data, seed } = context
  const record = await laboratory.run(procedure, seed, [...validationSets(data), ...more])
  const { parameters, tokens } = record
  return { name, score: validationScore(record, data), parameters, tokens }
}

export const untouched = (context: RecipeContext) => tried(context, 'the model as it is', base)

const validationSets = (data: StudyData) => data.disciplines.map(({ name }) => `validation ${name}`)

function validationScore({ sets }: RunRecord, data: StudyData): number {
  const names = validationSets(data)
  if (!names.every((name) => Object.hasOwn(sets, name))) return -Infinity
  return mean(names.map((name) => accuracyOf(sets[name], data.sets.get(name)!)))
}

/** Adapters of one model as one, exactly: side by side. */
export async function joinAdapters(
  { config }: RecipeContext,
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
