import { saveAdapter } from '../adapters/peft.js'
import type { Adapter } from '../adapters/adapter.js'
import { Device, type DeviceOptions } from '../device.js'
import { ConfigError } from '../errors.js'
import { type DecoderConfig, layerName, linearNames } from '../models/index.js'
import { requireOutside } from '../output-folder.js'
import { factoredAdapter } from './factored-adapter.js'
import { withGathered } from './gather.js'
import { Inputs } from './inputs.js'
import { jobOf, mergeFactors, sideBySide } from './jobs.js'
import { energyOf, type LowRank } from './low-rank.js'
import type { Recipe } from './recipe.js'

export interface MergeAdaptersOptions extends DeviceOptions {
  /** Of adapters on one base, by a method whose result has a low rank. */
  readonly recipe: Recipe
  /** New, empty, or an adapter already. */
  readonly output: string
  readonly device?: string
  readonly signal?: AbortSignal
}

const exactMethods = ['linear', 'task_arithmetic', 'cat']

/**
 * Writes the adapter that a recipe over adapters describes, in PEFT's format.
 *
 * @returns the part of the energy (the squared singular values of all layers) that a lower rank has lost; 0 for exact methods,
 *   null for those that change the update on purpose
 * @throws ConfigError for a recipe whose result is no adapter
 */
export async function mergeAdapters(
  options: MergeAdaptersOptions,
): Promise<{ lostEnergy: number | null }> {
  return await withGathered(options.recipe, options, (recipe) => merge({ ...options, recipe }))
}

async function merge(options: MergeAdaptersOptions): Promise<{ lostEnergy: number | null }> {
  const { recipe, output, index, threads, instructionSet, memoryBudget } = options
  const { method, methodName } = recipe
  const isExact = exactMethods.includes(methodName)
  if (!isExact && !method.lowRank)
    throw new ConfigError(
      `${methodName} gives updates of full rank, which no adapter holds: write a model, or use ${[...exactMethods, 'svd', 'knots', 'regmean'].join(', ')}`,
      { details: { key: 'merge_method', received: methodName } },
    )
  const device = Device.open(options.device, { index, threads, instructionSet, memoryBudget })
  const inputs = new Inputs(device)
  try {
    await inputs.openAll(recipe.slices)
    await requireOutside(output, inputs.folders)
    const merged = new Map<string, LowRank>()
    let [kept, whole] = [0, 0]
    for (const { path, job } of linearJobs(recipe, inputs)) {
      options.signal?.throwIfAborted()
      const factors = await (isExact ? sideBySide(job, recipe) : mergeFactors(job, recipe))
      if (!factors) continue
      merged.set(path, factors)
      if (methodName !== 'svd') continue
      kept += energyOf(factors)
      whole += energyOf((await sideBySide(job, recipe))!)
    }
    const base = inputs.models[0]
    const adapter = factoredAdapter(device, base.config, merged)
    try {
      await saveAdapter(adapter, output, { baseModel: base.folder })
    } finally {
      adapter.dispose()
    }
    if (methodName !== 'svd') return { lostEnergy: isExact ? 0 : null }
    return { lostEnergy: whole > 0 ? Math.max(0, 1 - kept / whole) : 0 }
  } finally {
    await inputs.close()
    await device.close()
  }
}

/**
 * The adapters of a recipe side by side with its weights, in memory: what its merged model is compared with.
 *
 * @throws ConfigError if the recipe merges anything but adapters, or has no weights
 */
export async function sideBySideAdapter(
  recipe: Recipe,
  device: Device,
  config: DecoderConfig,
): Promise<Adapter> {
  if (!Object.hasOwn(recipe.method.parameters, 'weight'))
    throw new ConfigError(
      `${recipe.methodName} has no weights, so no adapters side by side equal it`,
    )
  const inputs = new Inputs(device)
  try {
    await inputs.openAll(recipe.slices)
    const factors = new Map<string, LowRank>()
    for (const { path, job } of linearJobs(recipe, inputs)) {
      const one = await sideBySide(job, recipe)
      if (one) factors.set(path, one)
    }
    return factoredAdapter(device, config, factors)
  } finally {
    await inputs.close()
  }
}

function* linearJobs(recipe: Recipe, inputs: Inputs) {
  const [slice, ...others] = recipe.slices
  if (others.length > 0 || slice.sources.some(({ layers }) => layers))
    throw new ConfigError('slices have no adapter: merge them into a model', {
      details: { key: 'slices' },
    })
  const { config } = inputs.models[0]
  for (let layer = 0; layer < config.numLayers; layer++)
    for (const name of Object.values(linearNames)) {
      const path = `${layerName(layer)}.${name}`
      const tensor = `${path}.weight`
      const depth = config.numLayers > 1 ? layer / (config.numLayers - 1) : 1
      const shape = inputs.models[0].shapeOf(tensor)
      const sourceNames = slice.sources.map(() => tensor)
      const planned = { name: tensor, shape, slice, depth, baseName: tensor, sourceNames }
      yield { path, job: jobOf(planned, recipe, inputs) }
    }
}
