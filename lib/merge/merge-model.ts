import { folderFormat } from '../adapters/adapter-folders.js'
import type { DeviceOptions } from '../device.js'
import { FormatError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import type { ModelDType } from '../models/save.js'
import { requireOutside } from '../output-folder.js'
import { mergeRecipe } from './merge-recipe.js'
import type { PlainAdapterOptions } from './plain-adapter.js'
import { parseRecipe } from './recipe.js'

export interface MergeModelOptions extends DeviceOptions, Omit<PlainAdapterOptions, 'rank'> {
  /** Model folder. */
  readonly model: string
  /** Adapter folder, of any kind; one whose gates depend on the token needs `gates`, one that goes by discipline that. */
  readonly adapter: string
  /** New or empty, and outside the other two. */
  readonly output: string
  /** Of the file that is written; default: the model's. */
  readonly dtype?: ModelDType
  readonly device?: string
  readonly signal?: AbortSignal
  /** Tensors merged so far, and in all. */
  readonly onProgress?: (merged: number, total: number) => void
}

const dtypes = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const

/**
 * Writes a model folder whose weights are those of `model` with `adapter` added, a few rows at a time: the recipe of one
 * adapter, so memory does not grow with the model.
 */
export async function mergeModel(options: MergeModelOptions): Promise<void> {
  const { model, adapter, dtype, discipline, gates, ...rest } = options
  await requireOutside(options.output, [model, adapter])
  await requireAdapter(adapter)
  const recipe = parseRecipe({
    merge_method: 'task_arithmetic',
    base_model: model,
    models: [{ model: adapter, parameters: { weight: 1 } }],
    ...(dtype === undefined ? {} : { dtype: dtypes[dtype] }),
  })
  await mergeRecipe({ ...rest, recipe, adapters: given({ discipline, gates }) })
}

/** A recipe would take a folder that is no adapter for a model. */
async function requireAdapter(folder: string): Promise<void> {
  const names = await nodeFileSystem.list(folder).catch((): string[] => [])
  const { config } = folderFormat(folder, names)
  if (!names.includes(config))
    throw new FormatError(`${folder} holds no adapter: ${config} is missing`, {
      details: { path: folder },
    })
}

function given(options: PlainAdapterOptions): PlainAdapterOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined))
}
