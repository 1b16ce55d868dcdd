import { checkpoint } from '../autograd.js'
import type { Device } from '../device.js'
import {
  attention,
  attentionCached,
  type AttentionShape,
  type KeyValueCache,
} from '../ops/attention.js'
import { embedding } from '../ops/embedding.js'
import { linear, type LowRankGroup, type LowRankRows } from '../ops/linear.js'
import type { Pass } from '../ops/pass.js'
import { rmsNorm } from '../ops/rms-norm.js'
import { rope, type RotaryTable } from '../ops/rope.js'
import { swiglu } from '../ops/swiglu.js'
import type { Linear, Matrix, Parameter } from '../parameter.js'
import { Scope, scope } from '../scope.js'
import type { Tensor } from '../tensor.js'
import type { DecoderConfig } from './config.js'
import { Rotary } from './rotary.js'

/** One block of the decoder, by the names of Hugging Face's layout. */
export interface DecoderLayer {
  readonly inputNorm: Parameter
  readonly query: Linear
  readonly key: Linear
  readonly value: Linear
  readonly output: Linear
  readonly queryNorm: Parameter | null
  readonly keyNorm: Parameter | null
  readonly postAttentionNorm: Parameter
  readonly gate: Linear
  readonly up: Linear
  readonly down: Linear
}

export interface DecoderWeights {
  readonly embedTokens: Matrix
  readonly layers: readonly DecoderLayer[]
  readonly norm: Parameter
  /** The embedding itself where they are tied. */
  readonly head: Matrix
}

/** The four inputs of a block that linear layers share, and the layers that read each. */
export const linearGroups = {
  attentionInput: ['query', 'key', 'value'],
  attentionOutput: ['output'],
  mlpInput: ['gate', 'up'],
  mlpOutput: ['down'],
} as const

export type LinearGroupName = keyof typeof linearGroups

/** Where a block finds the low-rank updates of its layers: an adapter. */
export interface LowRankSource {
  group(layer: number, name: LinearGroupName): LowRankGroup | LowRankRows | null
}

/** Of a layer's number, and of x, f32 [T, in]. */
export type InputObserver = (layer: number, name: LinearGroupName, x: Tensor) => void

/** Packed tokens. T counts rows, S sequences. */
export interface DecoderInput {
  /** i32 [T] */
  readonly inputIds: Tensor
  /** i32 [T] */
  readonly positions: Tensor
  /** One above the largest position. */
  readonly numPositions: number
  readonly sequences:
    | { /** i32 [S + 1] */ readonly cuSeqlens: Tensor }
    | {
        readonly caches: readonly KeyValueCache[]
        /** i32 [T] */
        readonly rowSequence: Tensor
      }
}

/** The decoder that all families share: pre-norm attention and SwiGLU blocks over a residual stream. */
export class Decoder {
  readonly device: Device
  readonly config: DecoderConfig
  readonly weights: DecoderWeights
  readonly #rotary: Rotary
  readonly #attentionShape: AttentionShape

  constructor(device: Device, config: DecoderConfig, weights: DecoderWeights) {
    this.device = device
    this.config = config
    this.weights = weights
    this.#rotary = new Rotary(device, config.headDim, config.rope, config.maxPositions)
    this.#attentionShape = { ...config, compute: weights.head.weight.compute }
  }

  /**
   * @param checkpointing recompute each block in the backward pass instead of keeping its activations
   * @param onInput called with what the linear layers of a block read, as it is queued
   * @returns the final normalised hidden states, f32 [T, hidden]
   */
  forward(
    pass: Pass,
    input: DecoderInput,
    adapter: LowRankSource | null,
    { checkpointing = false, onInput }: { checkpointing?: boolean; onInput?: InputObserver } = {},
  ): Tensor {
    const { embedTokens, layers, norm } = this.weights
    const table = this.#rotary.table(input.numPositions)
    return scope(() => {
      let x = embedding(pass, input.inputIds, embedTokens)
      layers.forEach((layer, index) => {
        const run = (inner: Pass, x: Tensor) =>
          scope(() => this.#block(inner, x, layer, index, input, table, adapter, onInput))
        const next = checkpointing
          ? checkpoint(pass.tape, x, (tape, x) => run({ ...pass, tape }, x))
          : run(pass, x)
        // The tape keeps what its rules read; nobody else needs a block's input any more.
        Scope.discard(x)
        x = next
      })
      return rmsNorm(pass, x, norm, this.config.rmsNormEpsilon)
    })
  }

  #block(
    pass: Pass,
    x: Tensor,
    layer: DecoderLayer,
    index: number,
    input: DecoderInput,
    table: RotaryTable,
    adapter: LowRankSource | null,
    onInput?: InputObserver,
  ): Tensor {
    const { numHeads, numKeyValueHeads, rmsNormEpsilon } = this.config
    const read = (x: Tensor, name: LinearGroupName, residual: Tensor | null = null) => {
      onInput?.(index, name, x)
      const linears = linearGroups[name].map((linear) => layer[linear])
      return linear(pass, x, linears, adapter?.group(index, name) ?? null, residual)
    }

    const normed = rmsNorm(pass, x, layer.inputNorm, rmsNormEpsilon)
    const [query, key, v] = read(normed, 'attentionInput') as [Tensor, Tensor, Tensor]
    const norm = (x: Tensor, weight: Parameter | null) =>
      weight ? rmsNorm(pass, x, weight, rmsNormEpsilon) : x
    const rotate = (x: Tensor, heads: number) => rope(pass, x, input.positions, table, heads)
    const q = rotate(norm(query, layer.queryNorm), numHeads)
    const k = rotate(norm(key, layer.keyNorm), numKeyValueHeads)
    const { sequences } = input
    const attended =
      'cuSeqlens' in sequences
        ? attention(pass, q, k, v, sequences.cuSeqlens, this.#attentionShape)
        : attentionCached(
            pass,
            q,
            k,
            v,
            sequences.caches[index],
            sequences.rowSequence,
            input.positions,
            this.#attentionShape,
          )
    const [afterAttention] = read(attended, 'attentionOutput', x) as [Tensor]

    const mlpInput = rmsNorm(pass, afterAttention, layer.postAttentionNorm, rmsNormEpsilon)
    const [gate, up] = read(mlpInput, 'mlpInput') as [Tensor, Tensor]
    const activated = swiglu(pass, gate, up)
    const [y] = read(activated, 'mlpOutput', afterAttention) as [Tensor]
    return y
  }

  dispose(): void {
    this.#rotary.dispose()
  }
}
