import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Device, type DeviceOptions } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { publishFolder } from '../output-folder.js'
import { AdapterDeltas, requireOneBase } from './adapter-deltas.js'
import { ModelFiles } from './model-files.js'
import { type PlannedMerge, planMerge } from './plan.js'
import type { Recipe, RecipeSlice } from './recipe.js'
import { modelDType, requireModelOutput, writeCompanions } from './save-model.js'
import { resolveParameters } from './settings.js'
import { bytesPerElement, ShardWriter, shardBytes } from './shard-writer.js'
import { type TaskSource, taskTensor } from './task-vectors.js'

export interface MergeRecipeOptions extends DeviceOptions {
  /** Checked, by parseRecipe. Its folders are relative to the working directory. */
  readonly recipe: Recipe
  /** New or empty, and outside the folders of the recipe. */
  readonly output: string
  /** Of the drops of DARE and DELLA; default 0. */
  readonly seed?: number
  readonly device?: string
  readonly signal?: AbortSignal
  /** Most bytes of a file of the merged model, unless one tensor has more; default 5e9. */
  readonly maxShardBytes?: number
  /** Tensors merged so far, and in all. */
  readonly onProgress?: (merged: number, total: number) => void
}

// Rows of a tensor that are in memory at the same time, for the base and each model: 1 MiB of float32.
const chunkElements = 1 << 18

/**
 * Writes the model that a recipe describes. Tensors are merged one after the other, a few rows at a time, in float64 from
 * float32 task vectors, and rounded once: memory does not grow with the model.
 *
 * @throws ConfigError, FormatError for a recipe or a folder that cannot be used; then nothing is written
 */
export async function mergeRecipe(options: MergeRecipeOptions): Promise<void> {
  const { recipe, output } = options
  const { index, threads, instructionSet, memoryBudget } = options
  const seed = options.seed ?? 0
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw new ConfigError(`seed must be a whole number from 0 to 2^53 - 1, not ${seed}`, {
      details: { key: 'seed', received: seed },
    })
  const device = Device.open(options.device, { index, threads, instructionSet, memoryBudget })
  const inputs = new Inputs(device)
  try {
    await inputs.openAll(recipe.slices)
    await requireModelOutput(output, inputs.folders)
    const config = requireOneShape(inputs.models)
    requireBaseAmongModels(recipe, inputs)
    const plan = await planMerge(config, recipe.slices)
    const jobs = plan.map((planned) => jobOf(planned, recipe, inputs))
    const dtype = recipe.dtype ?? modelDType(config)
    const tokenizerFrom = recipe.tokenizerFrom ?? inputs.models[0].folder
    const source = withLayers(config, plan)
    const size = plan.reduce((sum, { shape }) => sum + shape.reduce((a, b) => a * b, 1), 0)
    let refusal: unknown = null
    try {
      await publishFolder(
        output,
        { what: 'model', bytesNeeded: size * bytesPerElement(dtype) },
        async (partial) => {
          await writeCompanions(partial, source, dtype, tokenizerFrom)
          const writer = new ShardWriter(partial, plan, dtype, options.maxShardBytes ?? shardBytes)
          try {
            for (const [done, job] of jobs.entries()) {
              try {
                await mergeTensor(job, recipe, { ...options, device, seed }, writer)
              } catch (error) {
                if (!isWriteError(error)) refusal = error
                throw error
              }
              options.onProgress?.(done + 1, jobs.length)
            }
            await writer.finish()
          } finally {
            await writer.close()
          }
        },
      )
    } catch (error) {
      // What is wrong with an input is no failure to write.
      throw refusal ?? error
    }
  } finally {
    await inputs.close()
    await device.close()
  }
}

interface Job {
  readonly planned: PlannedMerge
  readonly base: TaskSource | null
  readonly sources: readonly TaskSource[]
  readonly parameters: Readonly<Record<string, number>>
  readonly each: readonly Readonly<Record<string, number>>[]
}

/** Finds and checks everything that a tensor needs, before anything is written. */
function jobOf(planned: PlannedMerge, { method, settings }: Recipe, inputs: Inputs): Job {
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
    return { files: files ?? base!.files, adapter, name }
  })
  for (const { files, name } of base ? [base, ...sources] : sources) files!.check(name, shape)
  const position = (name: string) => ({ name, depth })
  return {
    planned,
    base,
    sources,
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

async function mergeTensor(
  { planned, base, sources, parameters, each }: Job,
  { method }: Recipe,
  { device, seed, signal }: { device: Device; seed: number; signal?: AbortSignal },
  writer: ShardWriter,
): Promise<void> {
  const tensor = taskTensor({
    device,
    name: planned.name,
    shape: planned.shape,
    base,
    sources,
    parameters,
    each,
    seed: BigInt(seed),
    chunkElements,
    signal,
  })
  const rule = await method.composition(tensor)
  for await (const chunk of tensor.chunks()) {
    const out = new Float32Array(chunk.base.length)
    await rule(chunk, out)
    await writer.write(planned.name, out)
  }
}

function isWriteError(error: unknown): boolean {
  return 'bytesNeeded' in ((error as { details?: object } | null)?.details ?? {})
}

/** The folders of a recipe, each opened once. */
class Inputs {
  readonly #device: Device
  readonly #opened = new Map<string, { files: ModelFiles | null; adapter: AdapterDeltas | null }>()

  constructor(device: Device) {
    this.#device = device
  }

  get models(): ModelFiles[] {
    return [...this.#opened.values()].flatMap(({ files }) => files ?? [])
  }

  get folders(): string[] {
    const adapters = [...this.#opened.values()].flatMap(({ adapter }) => adapter?.folder ?? [])
    return [...this.models.map(({ folder }) => folder), ...adapters]
  }

  get(reference: string) {
    return this.#opened.get(reference)!
  }

  async openAll(slices: readonly RecipeSlice[]): Promise<void> {
    for (const { base } of slices) if (base !== null) await this.#openModel(base)
    for (const { base, sources } of slices)
      for (const { model } of sources) {
        if (this.#opened.has(model)) continue
        const [folder, adapter] = await splitReference(model)
        if (folder === null && base === null)
          throw new ConfigError(`${model} is an adapter, so base_model must be given`, {
            details: { key: 'base_model' },
          })
        if (folder !== null) await this.#openModel(folder, model)
        if (adapter === null) continue
        const files = folder === null ? null : this.get(model).files
        const config = (files ?? this.get(base!).files!).config
        this.#opened.set(model, {
          files,
          adapter: await AdapterDeltas.open(this.#device, config, adapter),
        })
      }
    requireOneBase([...this.#opened.values()].flatMap(({ adapter }) => adapter ?? []))
  }

  async #openModel(folder: string, reference = folder): Promise<void> {
    const same = this.models.find((one) => one.folder === folder)
    if (!this.#opened.has(reference))
      this.#opened.set(reference, { files: same ?? (await ModelFiles.open(folder)), adapter: null })
  }

  async close(): Promise<void> {
    for (const { files, adapter } of this.#opened.values()) {
      adapter?.dispose()
      await files?.close()
    }
  }
}

/** MODEL, ADAPTER or MODEL+ADAPTER as the two folders. */
async function splitReference(reference: string): Promise<[string | null, string | null]> {
  const has = async (folder: string, name: string) =>
    (await stat(join(folder, name)).catch(() => null)) !== null
  if (await has(reference, 'adapter_config.json'))
    return (await has(reference, 'config.json')) ? [reference, null] : [null, reference]
  const plus = reference.indexOf('+')
  if (plus < 1 || (await has(reference, 'config.json'))) return [reference, null]
  return [reference.slice(0, plus), reference.slice(plus + 1)]
}

/** Tensors are compared one by one; this says first what would make every one of them differ. */
function requireOneShape(models: readonly ModelFiles[]): DecoderConfig {
  const [first, ...others] = models
  const keys = ['modelType', 'numLayers', 'hiddenSize', 'vocabSize', 'tieWordEmbeddings'] as const
  for (const { folder, config } of others)
    for (const key of keys)
      if (config[key] !== first.config[key])
        throw new ConfigError(
          `${folder} has ${key} ${config[key]} and ${first.folder} has ${first.config[key]}: only models of one shape can be merged`,
          { details: { path: folder, key, received: config[key], allowed: first.config[key] } },
        )
  return first.config
}

/** mergekit's linear would merge an unlisted base as well; adapters need one that is not merged. */
function requireBaseAmongModels({ method, methodName, slices }: Recipe, inputs: Inputs): void {
  if (!method.mergesBase) return
  for (const { base, sources } of slices)
    if (base !== null && !sources.some(({ model }) => model === base))
      for (const { model } of sources)
        if (inputs.get(model).files)
          throw new ConfigError(
            `${methodName} merges whole models, and base_model ${base} is not among them: list it with its weight, or leave it out`,
            { details: { key: 'base_model', received: base } },
          )
}

/** config.json's object for as many layers as the slices have. */
function withLayers({ source, numLayers }: DecoderConfig, plan: readonly PlannedMerge[]) {
  const layers = plan.filter(({ name }) => name.endsWith('.input_layernorm.weight')).length
  if (layers === numLayers) return source
  const types: unknown = source.layer_types
  const changed: Record<string, unknown> = { ...source, num_hidden_layers: layers }
  if (Array.isArray(types))
    changed.layer_types = Array.from({ length: layers }, () => types[0] as unknown)
  return changed
}
