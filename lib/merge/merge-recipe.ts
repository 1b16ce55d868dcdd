import { Device, type DeviceOptions } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { modelDType, requireModelOutput, writeCompanions } from '../models/save.js'
import { publishFolder } from '../output-folder.js'
import { MergedDeltas } from './adapter-deltas.js'
import type { RowRule } from './composition.js'
import { withGathered } from './gather.js'
import { Inputs, requireBaseAmongModels, requireOneShape } from './inputs.js'
import { type Job, jobOf, mergeFactors } from './jobs.js'
import type { PlainAdapterOptions } from './plain-adapter.js'
import { type PlannedMerge, planMerge } from './plan.js'
import type { Recipe } from './recipe.js'
import { bytesPerElement, ShardWriter, shardBytes, WriteError } from './shard-writer.js'
import { isUntouched, taskTensor } from './task-vectors.js'

export interface MergeRecipeOptions extends DeviceOptions {
  /** Checked, by parseRecipe. Its folders are relative to the working directory. */
  readonly recipe: Recipe
  /** New or empty, and outside the folders of the recipe. */
  readonly output: string
  /** For adapters whose gates go by discipline or by token: what stands in for them. */
  readonly adapters?: PlainAdapterOptions
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
  await requireModelOutput(options.output, [])
  await withGathered(options.recipe, options, (recipe) => merge({ ...options, recipe }))
}

async function merge(options: MergeRecipeOptions): Promise<void> {
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
    await inputs.openAll(recipe.slices, options.adapters)
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
                if (!(error instanceof WriteError)) refusal = error
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

async function mergeTensor(
  job: Job,
  recipe: Recipe,
  { device, seed, signal }: { device: Device; seed: number; signal?: AbortSignal },
  writer: ShardWriter,
): Promise<void> {
  const { planned, base } = job
  const { method } = recipe
  const factors = method.lowRank ? await mergeFactors(job, recipe) : null
  const merged = factors && new MergedDeltas(device, factors)
  // What was merged as factors is one adapter from here on.
  const { sources, parameters, each } = method.lowRank
    ? {
        sources: [{ files: base!.files, adapter: merged, name: base!.name }],
        parameters: { lambda: 1, normalize: 0 },
        each: [{ weight: 1 }],
      }
    : job
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
  try {
    // Every method that keeps the base keeps it as it is where no model has anything new.
    const isCopy = !method.mergesBase && sources.every((source) => isUntouched(source, base!))
    const rule = isCopy ? keepBase : await method.composition(tensor)
    for await (const chunk of tensor.chunks()) {
      const out = new Float32Array(chunk.base.length)
      await rule(chunk, out)
      await writer.write(planned.name, out)
    }
  } finally {
    merged?.dispose()
  }
}

const keepBase: RowRule = ({ base }, out) => {
  out.set(base)
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
