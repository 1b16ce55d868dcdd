import { ConfigError } from '../errors.js'
import { buildWeights, type DecoderConfig } from '../models/index.js'
import type { Matrix, Parameter } from '../parameter.js'
import type { RecipeSlice } from './recipe.js'

/** One tensor of the merged model, and where it comes from. */
export interface PlannedMerge {
  readonly name: string
  readonly shape: readonly number[]
  readonly slice: RecipeSlice
  /** Through the layers of its slice, from 0 to 1; 0 outside the layers. */
  readonly depth: number
  /** Of the base, and of each source, what it is called there. */
  readonly baseName: string
  readonly sourceNames: readonly string[]
}

const layerPattern = /^model\.layers\.(\d+)\./

/**
 * Every tensor of the merged model in the order of its layout. What precedes the layers comes from the sources of the
 * first slice, what follows from those of the last, as in mergekit.
 *
 * @param config of the models; its number of layers is what each has
 * @throws ConfigError if a slice asks for layers that are not there
 */
export async function planMerge(
  config: DecoderConfig,
  slices: readonly RecipeSlice[],
): Promise<PlannedMerge[]> {
  const layers = layersOf(config, slices)
  const tensors = await tensorsOf({ ...config, numLayers: layers.length })
  let seen = false
  return tensors.map(({ name, shape }) => {
    const match = layerPattern.exec(name)
    if (!match) {
      const slice = seen ? slices.at(-1)! : slices[0]
      return {
        name,
        shape,
        slice,
        depth: 0,
        baseName: name,
        sourceNames: slice.sources.map(() => name),
      }
    }
    seen = true
    const { slice, offset, depth } = layers[Number(match[1])]
    const rename = (layer: number) => name.replace(layerPattern, `model.layers.${layer}.`)
    const numbers = slice.sources.map((source) => (source.layers?.[0] ?? 0) + offset)
    const base = slice.sources.findIndex(({ model }) => model === slice.base)
    return {
      name,
      shape,
      slice,
      depth,
      // A base that is not among the sources has the layers of the first.
      baseName: rename(numbers[Math.max(0, base)]),
      sourceNames: numbers.map(rename),
    }
  })
}

/** For each layer of the merged model its slice, the place in it, and how deep that is. */
function layersOf(config: DecoderConfig, slices: readonly RecipeSlice[]) {
  return slices.flatMap((slice, i) => {
    for (const { layers, model } of slice.sources)
      if (layers && layers[1] > config.numLayers)
        throw new ConfigError(
          `slices.${i}: layer_range [${layers.join(', ')}] of ${model} goes beyond its ${config.numLayers} layers`,
          { details: { key: 'layer_range', received: layers, allowed: config.numLayers } },
        )
    const [begin, end] = slice.sources[0].layers ?? [0, config.numLayers]
    const count = end - begin
    return Array.from({ length: count }, (_, offset) => ({
      slice,
      offset,
      depth: count > 1 ? offset / (count - 1) : 1,
    }))
  })
}

async function tensorsOf(config: DecoderConfig) {
  const tensors: { name: string; shape: readonly number[] }[] = []
  // The layout is walked for its names alone: nothing is made.
  await buildWeights(config, {
    matrix(name, rows, columns) {
      tensors.push({ name, shape: [rows, columns] })
      return Promise.resolve({ name } as Matrix)
    },
    vector(name, length) {
      tensors.push({ name, shape: [length] })
      return Promise.resolve({ name } as Parameter)
    },
  })
  return tensors
}
