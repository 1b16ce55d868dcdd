import type { Decoder } from '../../models/index.js'
import { scope } from '../../scope.js'
import { type Tensor, vector } from '../../tensor.js'
import { mix } from '../order.js'
import type { StoredSample } from '../token-store.js'
import { type Embedder, mostDimensions } from './embedding.js'

/** Rows of one pass through the model. */
const mostTokens = 2048

/**
 * The mean over a sample's tokens of the frozen model's last hidden states, without an adapter. Above 128 dimensions they
 * are projected by random signs, which keeps products of directions to within 1/√128 (Achlioptas 2003).
 */
export class ModelEmbedder implements Embedder {
  readonly dimensions: number
  readonly #decoder: Decoder
  /** [hidden, dimensions]; null: as they are. */
  readonly #signs: Int8Array | null

  constructor(decoder: Decoder) {
    const { hiddenSize } = decoder.config
    this.#decoder = decoder
    this.dimensions = Math.min(hiddenSize, mostDimensions)
    this.#signs =
      hiddenSize <= mostDimensions
        ? null
        : Int8Array.from({ length: hiddenSize * this.dimensions }, (_, i) =>
            mix(i, 0) & 1 ? 1 : -1,
          )
  }

  async embed(samples: readonly StoredSample[]): Promise<Float32Array> {
    const y = new Float32Array(samples.length * this.dimensions)
    let begin = 0
    while (begin < samples.length) {
      let end = begin + 1
      let tokens = samples[begin].inputIds.length
      while (end < samples.length && tokens + samples[end].inputIds.length <= mostTokens)
        tokens += samples[end++].inputIds.length
      await this.#embedBatch(samples.slice(begin, end), y.subarray(begin * this.dimensions))
      begin = end
    }
    return y
  }

  async #embedBatch(samples: readonly StoredSample[], y: Float32Array): Promise<void> {
    const hidden = this.#forward(samples)
    let states: Float32Array
    try {
      states = await hidden.readFloats()
    } finally {
      hidden.release()
    }
    const width = this.#decoder.config.hiddenSize
    const mean = new Float64Array(width)
    let row = 0
    samples.forEach(({ inputIds }, i) => {
      mean.fill(0)
      for (let t = 0; t < inputIds.length; t++, row++)
        for (let k = 0; k < width; k++) mean[k] += states[row * width + k] / inputIds.length
      this.#project(mean, y.subarray(i * this.dimensions, (i + 1) * this.dimensions))
    })
  }

  #project(mean: Float64Array, y: Float32Array): void {
    const signs = this.#signs
    if (!signs) {
      y.set(mean)
      return
    }
    const sums = new Float64Array(y.length)
    for (let k = 0; k < mean.length; k++)
      for (let i = 0; i < sums.length; i++) sums[i] += signs[k * sums.length + i] * mean[k]
    y.set(sums)
  }

  /** f32 [tokens, hidden] */
  #forward(samples: readonly StoredSample[]): Tensor {
    const decoder = this.#decoder
    const { device } = decoder
    const cuSeqlens = new Int32Array(samples.length + 1)
    samples.forEach(({ inputIds }, i) => {
      cuSeqlens[i + 1] = cuSeqlens[i] + inputIds.length
    })
    const tokens = cuSeqlens[samples.length]
    const inputIds = new Int32Array(tokens)
    const positions = new Int32Array(tokens)
    samples.forEach((sample, i) => {
      inputIds.set(sample.inputIds, cuSeqlens[i])
      for (let t = 0; t < sample.inputIds.length; t++) positions[cuSeqlens[i] + t] = t
    })
    return scope(() =>
      decoder.forward(
        { device, tape: null, dropout: null },
        {
          inputIds: vector(device, inputIds),
          positions: vector(device, positions),
          numPositions: Math.max(...samples.map((sample) => sample.inputIds.length)),
          sequences: { cuSeqlens: vector(device, cuSeqlens) },
        },
        null,
      ),
    )
  }
}
