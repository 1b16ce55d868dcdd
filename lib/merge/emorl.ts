import type { Adapter } from '../adapters/adapter.js'
import { ArgumentError } from '../errors.js'
import type { Decoder, DecoderInput } from '../models/index.js'
import { logits } from '../ops/logits.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'

/** EMORL (Kong et al. 2025): an ensemble of adapters by their last hidden states, and the search for its weights. */

export interface GridSearchOptions {
  /** Adapters, and so weights. */
  readonly count: number
  /** What is made large. Called one at a time. */
  readonly objective: (weights: readonly number[]) => Promise<number>
  /** Default 5. */
  readonly rounds?: number
  /** Of each weight; default [0, 1]. */
  readonly range?: readonly [number, number]
  readonly signal?: AbortSignal
}

/**
 * Hierarchical grid search: 3^d points over a cell (both ends and the middle of every weight), then the cell of half the
 * width around the best of its 2^d quarters, judged by the mean of its corners; and so on. Points met before are not
 * evaluated again.
 *
 * @throws ArgumentError for more than 8 weights, or an objective that is not finite
 */
export async function searchGrid(
  options: GridSearchOptions,
): Promise<{ weights: readonly number[]; value: number; evaluations: number }> {
  const { count, rounds = 5 } = options
  if (!(Number.isInteger(count) && count > 0 && count <= 8))
    throw new ArgumentError(`a grid takes 1 to 8 weights, not ${count}`)
  const [low, high] = options.range ?? [0, 1]
  if (!(low < high) || !(Number.isInteger(rounds) && rounds > 0))
    throw new ArgumentError(
      `range must rise and rounds be a whole number from 1, not [${low}, ${high}] and ${rounds}`,
    )
  const known = new Map<string, number>()
  let best = { weights: [] as readonly number[], value: -Infinity }
  const evaluate = async (weights: readonly number[]): Promise<number> => {
    const key = weights.join()
    const before = known.get(key)
    if (before !== undefined) return before
    options.signal?.throwIfAborted()
    const value = await options.objective(weights)
    if (!Number.isFinite(value))
      throw new ArgumentError(`the objective of [${weights.join(', ')}] is ${value}`)
    known.set(key, value)
    if (value > best.value) best = { weights, value }
    return value
  }
  let cell = new Array<number>(count).fill(low)
  let width = high - low
  for (let round = 0; round < rounds; round++, width /= 2) {
    const half = width / 2
    const at = (offsets: readonly number[]) => offsets.map((steps, i) => cell[i] + steps * half)
    const values = new Map<string, number>()
    for (const offsets of combinations(count, [0, 1, 2]))
      values.set(offsets.join(), await evaluate(at(offsets)))
    let bestMean = -Infinity
    let next = cell
    for (const corner of combinations(count, [0, 1])) {
      const corners = combinations(count, [0, 1]).map((step) => step.map((s, i) => s + corner[i]))
      const mean = corners.reduce((sum, one) => sum + values.get(one.join())!, 0) / corners.length
      if (mean > bestMean) {
        bestMean = mean
        next = at(corner)
      }
    }
    cell = next
  }
  return { ...best, evaluations: known.size }
}

function combinations(count: number, steps: readonly number[]): number[][] {
  let all: number[][] = [[]]
  for (let i = 0; i < count; i++) all = all.flatMap((one) => steps.map((step) => [...one, step]))
  return all
}

/**
 * Logits of an ensemble: h = Σ w_i h_i of the last hidden states under each adapter, logits = head(h). One pass over the
 * base for each adapter.
 *
 * @param rows i32 [L]: the positions whose logits are wanted
 * @returns f32 [L, vocabulary]
 */
export function ensembleLogits(
  decoder: Decoder,
  adapters: readonly (Adapter | null)[],
  weights: readonly number[],
  input: DecoderInput,
  rows: Tensor,
): Tensor {
  if (adapters.length === 0 || adapters.length !== weights.length)
    throw new ArgumentError(
      `an ensemble needs as many weights as adapters, at least one, not ${weights.length} and ${adapters.length}`,
    )
  const { device } = decoder
  const pass = { device, tape: null, dropout: null }
  return scope(() => {
    let sum: Tensor | null = null
    for (const [i, adapter] of adapters.entries()) {
      const hidden = decoder.forward(pass, input, adapter)
      const before: Tensor = sum ?? Tensor.zeros(device, hidden.shape)
      device.run('add', {
        a: before.native,
        b: hidden.native,
        alpha: 1,
        beta: weights[i],
        y: before.native,
      })
      sum = before
    }
    return logits(pass, sum!, rows, decoder.weights.head)
  })
}
