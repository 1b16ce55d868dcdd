import { ConfigError } from '../errors.js'
import type { AdapterDeltas } from './adapter-deltas.js'
import type { Parameters } from './composition.js'
import type { GramFile } from './gram-file.js'
import type { Inputs } from './inputs.js'
import { concatenate, type LowRank } from './low-rank.js'
import type { PlannedMerge } from './plan.js'
import type { Recipe } from './recipe.js'
import { resolveParameters } from './settings.js'
import { pathOf, type TaskSource } from './task-vectors.js'

/** One tensor of the merged model with all that goes into it. */
export interface Job {
  readonly planned: PlannedMerge
  readonly base: TaskSource | null
  readonly sources: readonly TaskSource[]
  /** The adapter of each source; null for a whole model. */
  readonly adapters: readonly {
    readonly deltas: AdapterDeltas | null
    readonly path: string
    readonly model: string
    readonly gram: GramFile | null
  }[]
  readonly parameters: Parameters
  readonly each: readonly Parameters[]
}

/** Finds and checks everything that a tensor needs, before anything is written. */
export function jobOf(planned: PlannedMerge, { method, settings }: Recipe, inputs: Inputs): Job {
  const { slice, shape, depth } = planned
  const base: TaskSource | null =
    slice.base === null
      ? null
      : { files: inputs.get(slice.base).files, adapter: null, name: planned.baseName }
  const merged = slice.sources
    .map((source, i) => ({ source, name: planned.sourceNames[i] }))
    .filter(({ source }) => method.mergesBase || source.model !== slice.base)
  const sources = merged.map(({ source, name }): TaskSource => {
    const { files, adapter } = inputs.get(source.model)
    const information = source.fisher === undefined ? null : inputs.get(source.fisher).files
    information?.check(name, shape)
    return { files: files ?? base!.files, adapter, name, information }
  })
  for (const { files, name } of base ? [base, ...sources] : sources) files!.check(name, shape)
  const position = (name: string) => ({ name, depth })
  return {
    planned,
    base,
    sources,
    adapters: merged.map(({ source, name }) => {
      const { files, adapter } = inputs.get(source.model)
      const path = pathOf(name)
      const gram = source.gram === undefined ? null : inputs.gram(source.gram)
      return { deltas: files ? null : adapter, path, model: source.model, gram }
    }),
    parameters: resolveParameters(
      method,
      'merge',
      [slice.settings, settings],
      position(planned.name),
      '',
    ),
    each: merged.map(({ source, name }) =>
      resolveParameters(
        method,
        'model',
        [source.settings, slice.settings, settings],
        position(name),
        source.model,
      ),
    ),
  }
}

/**
 * What a low-rank composition makes of the adapters that update a tensor; null where none does.
 *
 * @throws ConfigError if one of the models is no adapter
 */
export async function mergeFactors(job: Job, recipe: Recipe): Promise<LowRank | null> {
  const { factors, each, grams } = await presentFactors(job, recipe)
  if (factors.length === 0) return null
  return await recipe.method.lowRank!(factors, job.parameters, each, grams)
}

/**
 * Σ w_i ΔW_i of the adapters that update a tensor, as the weights of the recipe say, exactly; null where none does. Of
 * methods that give elements different weights this is what they start from.
 *
 * @throws ConfigError if one of the models is no adapter
 */
export async function sideBySide(job: Job, recipe: Recipe): Promise<LowRank | null> {
  const { factors, each } = await presentFactors(job, recipe)
  if (factors.length === 0) return null
  const { lambda = 1, normalize = 0 } = job.parameters
  const total = job.each.reduce((sum, { weight }) => sum + weight, 0)
  const scale = lambda / (normalize && Math.abs(total) >= 1e-8 ? total : 1)
  return concatenate(
    factors,
    each.map(({ weight }) => weight * scale),
  )
}

async function presentFactors({ planned, adapters, each }: Job, { methodName }: Recipe) {
  const factors: LowRank[] = []
  const own: Parameters[] = []
  const grams: Float64Array[] = []
  for (const [i, { deltas, path, model, gram }] of adapters.entries()) {
    if (!deltas)
      throw new ConfigError(
        `${methodName} merges adapters here, and ${model} is a whole model or the base`,
        { details: { key: 'models', received: model } },
      )
    const found = await deltas.factors(path)
    if (!found) continue
    factors.push(found)
    own.push(each[i])
    if (gram) grams.push(await gram.read(path, planned.shape[1]))
  }
  return { factors, each: own, grams }
}
