import { mkdtemp, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { DeviceOptions } from '../device.js'
import { ConfigError } from '../errors.js'
import { collectFisher, collectGram } from './information.js'
import { splitReference } from './inputs.js'
import type { Recipe, RecipeSlice, RecipeSource } from './recipe.js'

/**
 * Gathers what a recipe's models are to be weighed by from the corpora that it names in place of folders, and hands on the
 * recipe with the folders in it; they are gone afterwards.
 */
export async function withGathered<Result>(
  recipe: Recipe,
  options: DeviceOptions & { device?: string; signal?: AbortSignal },
  body: (recipe: Recipe) => Promise<Result>,
): Promise<Result> {
  const { needs } = recipe.method
  const sources = recipe.slices.flatMap((slice) => slice.sources)
  if (!needs || sources.every(({ data }) => data === undefined)) return await body(recipe)
  const { index, threads, instructionSet, memoryBudget, device, signal } = options
  const root = await mkdtemp(join(tmpdir(), 'polylora-merge-'))
  let count = 0
  const gathered = async (slice: RecipeSlice, source: RecipeSource): Promise<RecipeSource> => {
    const { data, ...rest } = source
    if (data === undefined) return source
    const [folder, adapter] = await splitReference(source.model)
    const model = folder ?? slice.base
    if (model === null)
      throw new ConfigError(`${source.model} is an adapter, so base_model must be given`, {
        details: { key: 'base_model' },
      })
    const output = join(root, String(count++))
    const collect = needs === 'gram' ? collectGram : collectFisher
    await collect({
      ...{ index, threads, instructionSet, memoryBudget, device, signal },
      model,
      adapter: adapter ?? undefined,
      data,
      output,
    })
    return { ...rest, [needs]: output }
  }
  try {
    const slices: RecipeSlice[] = []
    for (const slice of recipe.slices) {
      const own: RecipeSource[] = []
      for (const source of slice.sources) own.push(await gathered(slice, source))
      slices.push({ ...slice, sources: own })
    }
    return await body({ ...recipe, slices })
  } finally {
    await rm(root, { recursive: true, force: true })
  }
}
