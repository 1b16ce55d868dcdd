/** What the arithmetic and the bytes of one training step allow on a machine whose rates are known. */
import { type Case, type DType, rank } from './cases.js'

/** Of the machine, measured in the same run with the same threads. */
export interface Rates {
  /** Floating-point operations a second: float32 multiply-adds. */
  readonly fma: number
  /** The same of bf16 dot products; as fma where the processor has none. */
  readonly dot: number
  /** Bytes a second. */
  readonly read: number
}

export interface Work {
  /** In float32. */
  flops: number
  /** In products of bf16 operands. */
  dotFlops: number
  /** With every tensor of an operation read or written once. */
  bytes: number
}

/** The work of one step by operation, under the names that the device's profile has. */
export function workOfStep(
  { config, sequences, length }: Case,
  dtype: DType,
  method: 'lora' | 'full',
): Record<string, Work> {
  const work: Record<string, Work> = {}
  const count = (name: string, flops: number, floats: number, { dot = false, bytes = 0 } = {}) => {
    const one = (work[name] ??= { flops: 0, dotFlops: 0, bytes: 0 })
    if (dot) one.dotFlops += flops
    else one.flops += flops
    one.bytes += floats * 4 + bytes
  }
  const full = method === 'full'
  const hidden = config.hidden_size
  const inner = config.intermediate_size
  const layers = config.num_hidden_layers
  const headDim = hidden / config.num_attention_heads
  const keys = config.num_key_value_heads * headDim
  const tokens = sequences * length
  const labels = sequences * (length / 2)
  const pairs = ((sequences * length * (length + 1)) / 2) * config.num_attention_heads
  const element = dtype === 'bf16' ? 2 : 4
  const dot = dtype === 'bf16'
  let trained = 0

  /** Linear layers that share an input. `tracks`: a gradient flows into it. */
  const linear = (inWidth: number, outs: readonly number[], tracks: boolean) => {
    const ranks = rank * outs.length
    for (const out of outs) {
      const product = 2 * tokens * inWidth * out
      const weight = { dot, bytes: inWidth * out * element }
      count('matmul', product, tokens * (inWidth + out), weight)
      if (tracks) count('matmul', product, tokens * (inWidth + out), weight)
      if (full) {
        // Gradients of weights are products of float32 tensors.
        count('matmul', product, tokens * (inWidth + out) + 2 * inWidth * out)
        trained += inWidth * out
        continue
      }
      count('matmul', 2 * tokens * out * rank, 0)
      count('low_rank_backward', 4 * tokens * out * rank, tokens * out)
      trained += rank * out
    }
    if (full) return
    count('low_rank_project', 2 * tokens * inWidth * ranks, tokens * inWidth)
    count('matmul', 2 * tokens * inWidth * ranks, tokens * inWidth)
    if (tracks) count('matmul', 2 * tokens * inWidth * ranks, 0)
    trained += ranks * inWidth
  }
  const norm = (tracks: boolean) => {
    count('rms_norm', 0, 2 * tokens * hidden)
    if (tracks) count('rms_norm_backward', 0, 4 * tokens * hidden)
    if (full) trained += hidden
  }

  count('gather_rows', 0, 2 * tokens * hidden)
  for (let layer = 0; layer < layers; layer++) {
    const tracks = full || layer > 0
    norm(tracks)
    linear(hidden, [hidden, keys, keys], tracks)
    if (full) trained += hidden + 2 * keys
    count('rope', 0, 4 * tokens * (hidden + keys))
    count('attention', 4 * pairs * headDim, tokens * (2 * hidden + 2 * keys))
    count('attention_backward', 10 * pairs * headDim, tokens * (4 * hidden + 4 * keys))
    linear(hidden, [hidden], true)
    norm(true)
    linear(hidden, [inner, inner], true)
    count('swiglu', 0, 3 * tokens * inner)
    count('swiglu_backward', 0, 5 * tokens * inner)
    linear(inner, [hidden], true)
  }
  norm(true)
  const matrix = hidden * config.vocab_size
  const head = 'head_cross_entropy'
  for (let i = 0; i < 2; i++)
    count(head, 2 * labels * matrix, labels * hidden, { dot, bytes: matrix * element })
  count(head, 0, tokens * hidden)
  if (full) {
    count(head, 2 * labels * matrix, 2 * matrix)
    count('scatter_add_rows', 0, 3 * tokens * hidden)
    trained += matrix
    count('weight_update', 0, trained, { bytes: trained * element })
  }
  count('gradient_norm', 0, trained)
  count('adamw', 0, 7 * trained)
  count('fill', 0, trained)
  return work
}

/** Seconds that the arithmetic takes at the peak, and the bytes at the rate of the memory. */
export function secondsOf({ flops, dotFlops, bytes }: Work, { fma, dot, read }: Rates) {
  return { arithmetic: flops / fma + dotFlops / dot, memory: bytes / read }
}

/** What a step needs at least: of the arithmetic alone, and with the bytes where they take longer. */
export function roofline(work: Readonly<Record<string, Work>>, rates: Rates) {
  let arithmetic = 0
  let bound = 0
  for (const one of Object.values(work)) {
    const seconds = secondsOf(one, rates)
    arithmetic += seconds.arithmetic
    bound += Math.max(seconds.arithmetic, seconds.memory)
  }
  return { arithmetic, bound }
}

/** The same for one token of every sequence: every weight is read, and multiplied with each row. */
export function decodeBound(
  { config }: Case,
  dtype: DType,
  batch: number,
  positions: number,
  { fma, dot, read }: Rates,
): number {
  const hidden = config.hidden_size
  const headDim = hidden / config.num_attention_heads
  const keys = config.num_key_value_heads * headDim
  const layer = 2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * config.intermediate_size
  const weights = config.num_hidden_layers * layer + hidden * config.vocab_size
  const cache = config.num_hidden_layers * batch * positions * keys * 2 * 4
  const bytes = weights * (dtype === 'bf16' ? 2 : 4) + cache
  return Math.max(bytes / read, (2 * weights * batch) / (dtype === 'bf16' ? dot : fma))
}
