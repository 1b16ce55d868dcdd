import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { ArgumentError } from '../errors.js'
import { type DecoderWeights, layerName, linearNames } from '../models/index.js'
import type { LowRankGroup, LowRankPart } from '../ops/low-rank.js'
import { type Matrix, Parameter } from '../parameter.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { magnitudeUpdate } from './adapter-deltas.js'

export interface MergeOptions {
  /** The update counts this many times; default 1. */
  readonly weight?: number
  /** Keep sums over bf16 weights in float32, as masters: for a file of a finer dtype. Default: round to the storage. */
  readonly float32?: boolean
  readonly signal?: AbortSignal
  /** Modules merged so far, and in all. */
  readonly onProgress?: (merged: number, total: number) => void
}

// Rows of one weight that are float32 at the same time: 16 MiB.
const elementsAtOnce = 1 << 22

/**
 * Adds an adapter to the weights it was trained on: W += weight · ΔW for each of its modules, in float32, ΔW being s B A, with
 * what PiSSA and OLoRA take from the base, or what DoRA's magnitudes make of W + s B A. Weights that are
 * stored as bf16 are rounded once. The adapter keeps its values; applied to the merged weights it would count twice.
 *
 * @throws ArgumentError if a weight is being trained, or the adapter belongs to another model
 */
export async function mergeAdapter(
  weights: DecoderWeights,
  adapter: Adapter,
  { weight = 1, float32 = false, signal, onProgress }: MergeOptions = {},
): Promise<void> {
  const matrices = new Map<string, Matrix>()
  weights.layers.forEach((layer, index) => {
    for (const [key, name] of Object.entries(linearNames))
      matrices.set(`${layerName(index)}.${name}`, layer[key as keyof typeof linearNames].matrix)
  })
  if (!Number.isFinite(weight))
    throw new ArgumentError(`weight must be a finite number, not ${weight}`)
  const { kind, form } = adapter.declaration
  if (form.gate || form.experts > 1)
    throw new ArgumentError(
      `an adapter of kind ${kind} is a mixture, which becomes a fixed update by plainAdapter() before it can be merged into weights`,
      { details: { received: kind } },
    )
  // Nothing is changed before everything is known to fit.
  const pairs = adapter.modules.map((module) => {
    const matrix = matrices.get(module.path)
    if (matrix?.weight.rows !== module.outFeatures || matrix.weight.columns !== module.inFeatures)
      throw new ArgumentError(
        `the adapter updates ${module.path} of [${module.outFeatures}, ${module.inFeatures}], which the model does not have`,
        { details: { module: module.path } },
      )
    if (matrix.master?.gradient)
      throw new ArgumentError(`${matrix.name} is being trained, so nothing can be merged into it`)
    return { matrix, module }
  })
  const { device } = adapter
  for (const [index, { matrix, module }] of pairs.entries()) {
    signal?.throwIfAborted()
    if (float32 && matrix.weight.storage === 'bf16')
      matrix.master ??= new Parameter(
        matrix.name,
        scope(() => matrix.weight.read()),
      )
    await mergeModule(matrix, module, weight)
    // One module at a time: the temporaries of the next reuse the memory of this one.
    await device.synchronize()
    onProgress?.(index + 1, pairs.length)
  }
}

async function mergeModule(
  { weight, master }: Matrix,
  { group, part, scale }: AdapterModule,
  times: number,
): Promise<void> {
  const { magnitude } = part
  const magnitudes = magnitude && (await magnitude.value.value.readFloats())
  const taken = group.correction?.parts[group.parts.indexOf(part)]
  const rowsAtOnce = Math.max(1, Math.floor(elementsAtOnce / weight.columns))
  for (let begin = 0; begin < weight.rows; begin += rowsAtOnce) {
    const end = Math.min(weight.rows, begin + rowsAtOnce)
    using rows = scope(() =>
      master ? master.value.slice(0, begin, end) : weight.read(begin, end - begin),
    )
    if (magnitudes) {
      const before = await rows.readFloats()
      using update = scope(() => Tensor.zeros(weight.device, rows.shape))
      addProduct(update, group, part, scale, begin)
      const delta = magnitudeUpdate(
        before,
        await update.readFloats(),
        magnitudes.subarray(begin, end),
      )
      rows.write(before.map((value, i) => value + times * delta[i]))
    } else {
      addProduct(rows, group, part, times * scale, begin)
      // What PiSSA and OLoRA start from, and take from the base.
      if (taken) addProduct(rows, group.correction, taken, -times * scale, begin)
    }
    scope(() => {
      weight.update(rows, begin)
    })
  }
}

/** rows += scale · B A, of the rows of B from `begin` on. */
function addProduct(
  rows: Tensor,
  { a }: LowRankGroup,
  { b, begin: first, end: last }: LowRankPart,
  scale: number,
  begin: number,
): void {
  const [count, columns] = rows.shape
  scope(() => {
    rows.device.run('matmul', {
      layout: 'nn',
      segments: [
        {
          x: b.value.slice(0, begin, begin + count).native,
          w: a.value.slice(0, first, last).native,
        },
      ],
      columnScale: Tensor.full(rows.device, [columns], scale).native,
      residual: rows.native,
      y: rows.native,
    })
  })
}
