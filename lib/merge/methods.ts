import type { Composition, Parameters } from './composition.js'
import { fisher } from './fisher.js'
import { knots } from './knots.js'
import { linear } from './linear.js'
import { concatenate, type LowRank, truncate } from './low-rank.js'
import { largest, withoutOutliers } from './magnitude.js'
import { modelStock } from './model-stock.js'
import { passthrough } from './passthrough.js'
import { randomDrop } from './random-drop.js'
import { rankedDrop } from './ranked-drop.js'
import { regMean } from './regmean.js'
import { sce } from './sce.js'
import { slerp } from './slerp.js'
import { taskArithmetic } from './task-arithmetic.js'

/** One parameter of a method: its range, and its default unless it must be given. */
export interface ParameterSpec {
  readonly of: 'merge' | 'model'
  readonly kind: 'number' | 'boolean'
  readonly min?: number
  readonly max?: number
  readonly default?: number
}

/**
 * Merges the factors of adapters into factors; one that leaves the layer alone is not among them.
 *
 * @param grams of each, where the method needs them
 */
export type LowRankComposition = (
  factors: readonly LowRank[],
  parameters: Parameters,
  each: readonly Parameters[],
  grams: readonly Float64Array[],
) => LowRank | Promise<LowRank>

export interface Method {
  /** Of task vectors; what a low-rank composition makes of adapters goes through it as one more. */
  readonly composition: Composition
  /** Where it is given, only adapters can be merged. */
  readonly lowRank?: LowRankComposition
  readonly parameters: Readonly<Record<string, ParameterSpec>>
  /** required: `base_model` must be there; optional: adapters need one all the same. */
  readonly base: 'required' | 'optional'
  /** Models beside the base. */
  readonly models: readonly [min: number, max: number]
  /** What every model names beside itself: its Fisher information, or the Gram matrices of its layers' inputs. */
  readonly needs?: 'fisher' | 'gram'
  /** The base counts as one of the models where the recipe lists it among them. */
  readonly mergesBase?: boolean
}

const number = (of: 'merge' | 'model', options: Partial<ParameterSpec> = {}): ParameterSpec => ({
  of,
  kind: 'number',
  min: -1e6,
  max: 1e6,
  ...options,
})
const flag = (fallback: boolean): ParameterSpec => ({
  of: 'merge',
  kind: 'boolean',
  default: Number(fallback),
})
const weight = number('model')
const share = (fallback: number) => number('model', { min: 0, max: 1, default: fallback })
// A mask's storage is nothing that a result depends on: accepted, and said to be ignored.
const ignored = { int8_mask: flag(false) }

function arithmetic(
  composition: Composition,
  defaults: { normalize: boolean; rescale?: boolean },
  more: Readonly<Record<string, ParameterSpec>> = {},
): Method {
  const rescale: Record<string, ParameterSpec> =
    defaults.rescale === undefined ? {} : { rescale: flag(defaults.rescale) }
  return {
    composition,
    parameters: {
      weight,
      lambda: number('merge', { default: 1 }),
      normalize: flag(defaults.normalize),
      ...rescale,
      ...more,
      ...ignored,
    },
    base: 'required',
    models: [1, 64],
  }
}

const density = { density: share(1) }
const breadcrumbs = { ...density, gamma: share(0.01) }
const della = { ...density, epsilon: number('model', { min: 0, max: 0.5, default: 0.15 }) }
const electSigns = true

const weightsOf = (each: readonly Parameters[]) => each.map(({ weight }) => weight)

/** By mergekit's names; magnitude_prune, cat and svd are PEFT's, chat_vector that of Huang et al. 2024. */
export const methods: Readonly<Record<string, Method>> = {
  linear: {
    composition: linear,
    parameters: { weight, normalize: flag(true) },
    base: 'optional',
    models: [1, 64],
    mergesBase: true,
  },
  task_arithmetic: arithmetic(taskArithmetic(), { normalize: false }),
  chat_vector: arithmetic(
    taskArithmetic(),
    { normalize: false },
    {
      weight: number('model', { default: 1 }),
    },
  ),
  ties: arithmetic(
    taskArithmetic({ sparsify: largest, electSigns }),
    { normalize: true, rescale: false },
    density,
  ),
  dare_linear: arithmetic(
    taskArithmetic({ sparsify: randomDrop }),
    { normalize: false, rescale: true },
    density,
  ),
  dare_ties: arithmetic(
    taskArithmetic({ sparsify: randomDrop, electSigns }),
    { normalize: false, rescale: true },
    density,
  ),
  della: arithmetic(
    taskArithmetic({ sparsify: rankedDrop, electSigns }),
    { normalize: true, rescale: true },
    della,
  ),
  della_linear: arithmetic(
    taskArithmetic({ sparsify: rankedDrop }),
    { normalize: false, rescale: true },
    della,
  ),
  magnitude_prune: arithmetic(
    taskArithmetic({ sparsify: largest }),
    { normalize: false, rescale: false },
    density,
  ),
  breadcrumbs: arithmetic(
    taskArithmetic({ sparsify: withoutOutliers }),
    { normalize: false, rescale: false },
    breadcrumbs,
  ),
  breadcrumbs_ties: arithmetic(
    taskArithmetic({ sparsify: withoutOutliers, electSigns }),
    { normalize: false, rescale: false },
    breadcrumbs,
  ),
  slerp: {
    composition: slerp,
    parameters: { t: number('merge', { min: 0, max: 1 }) },
    base: 'required',
    models: [1, 2],
  },
  // Exact for adapters: the update of each, side by side.
  cat: {
    composition: taskArithmetic(),
    lowRank: (factors, _, each) => concatenate(factors, weightsOf(each)),
    parameters: { weight },
    base: 'required',
    models: [1, 64],
  },
  svd: {
    composition: taskArithmetic(),
    lowRank: (factors, { rank }, each) =>
      truncate(concatenate(factors, weightsOf(each)), rank).factors,
    parameters: { weight, rank: number('merge', { min: 1, max: 4096 }) },
    base: 'required',
    models: [1, 64],
  },
  knots: {
    composition: taskArithmetic(),
    lowRank: knots,
    parameters: {
      weight,
      ...density,
      lambda: number('merge', { default: 1 }),
      normalize: flag(true),
      rescale: flag(false),
    },
    base: 'required',
    models: [1, 64],
  },
  fisher: {
    composition: fisher,
    parameters: { weight: number('model', { min: 0, default: 1 }) },
    base: 'required',
    models: [1, 64],
    needs: 'fisher',
  },
  regmean: {
    composition: taskArithmetic(),
    lowRank: (factors, { off_diagonal }, each, grams) =>
      regMean(
        factors,
        grams.map((gram, i) => gram.map((value) => value * each[i].weight)),
        off_diagonal,
      ),
    parameters: {
      weight: number('model', { min: 0, default: 1 }),
      off_diagonal: number('merge', { min: 0, max: 1, default: 0.9 }),
    },
    base: 'required',
    models: [1, 64],
    needs: 'gram',
  },
  model_stock: {
    composition: modelStock,
    parameters: { filter_wise: flag(false) },
    base: 'required',
    models: [2, 64],
  },
  sce: {
    composition: sce,
    parameters: { select_topk: number('merge', { min: 0, max: 1, default: 1 }), ...ignored },
    base: 'required',
    models: [1, 64],
  },
  passthrough: {
    composition: passthrough,
    parameters: { scale: number('model', { default: 1 }) },
    base: 'optional',
    models: [1, 1],
    mergesBase: true,
  },
}
