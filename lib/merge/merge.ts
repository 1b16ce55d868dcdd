import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { ArgumentError } from '../errors.js'
import { type DecoderWeights, layerName, linearNames } from '../models/index.js'
import type { Matrix } from '../parameter.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'

export interface MergeOptions {
  readonly signal?: AbortSignal
  /** Modules merged so far, and in all. */
  readonly onProgress?: (merged: number, total: number) => void
}

// Rows of one weight that are float32 at the same time: 16 MiB.
const elementsAtOnce = 1 << 22

/**
 * Adds an adapter to the weights it was trained on: W += s · B A for each of its modules, in float32, rounded once to
 * the weight's storage. The adapter keeps its values; applied to the merged weights it would count twice.
 *
 * @throws ArgumentError if a weight is being trained, or the adapter belongs to another model
 */
export async function mergeAdapter(
  weights: DecoderWeights,
  adapter: Adapter,
  { signal, onProgress }: MergeOptions = {},
): Promise<void> {
  const matrices = new Map<string, Matrix>()
  weights.layers.forEach((layer, index) => {
    for (const [key, name] of Object.entries(linearNames))
      matrices.set(`${layerName(index)}.${name}`, layer[key as keyof typeof linearNames].matrix)
  })
  // Nothing is changed before everything is known to fit.
  const pairs = adapter.modules.map((module) => {
    const matrix = matrices.get(module.path)
    if (matrix?.weight.rows !== module.outFeatures || matrix.weight.columns !== module.inFeatures)
      throw new ArgumentError(
        `the adapter updates ${module.path} of [${module.outFeatures}, ${module.inFeatures}], which the model does not have`,
        { details: { module: module.path } },
      )
    if (matrix.master)
      throw new ArgumentError(`${matrix.name} is being trained, so nothing can be merged into it`)
    return { matrix, module }
  })
  const { device } = adapter
  for (const [index, { matrix, module }] of pairs.entries()) {
    signal?.throwIfAborted()
    mergeModule(matrix, module)
    // One module at a time: the temporaries of the next reuse the memory of this one.
    await device.synchronize()
    onProgress?.(index + 1, pairs.length)
  }
}

function mergeModule({ weight }: Matrix, { group, part, scale, inFeatures }: AdapterModule): void {
  const { device } = weight
  const rowsAtOnce = Math.max(1, Math.floor(elementsAtOnce / weight.columns))
  for (let begin = 0; begin < weight.rows; begin += rowsAtOnce) {
    const end = Math.min(weight.rows, begin + rowsAtOnce)
    scope(() => {
      const rows = weight.read(begin, end - begin)
      device.run('matmul', {
        layout: 'nn',
        segments: [
          {
            x: part.b.value.slice(0, begin, end).native,
            w: group.a.value.slice(0, part.begin, part.end).native,
          },
        ],
        columnScale: Tensor.full(device, [inFeatures], scale).native,
        residual: rows.native,
        y: rows.native,
      })
      weight.update(rows, begin)
    })
  }
}
