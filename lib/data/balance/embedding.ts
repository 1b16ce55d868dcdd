import { DataError } from '../../errors.js'
import { mix, permute } from '../order.js'
import { Pause } from '../pause.js'
import type { StoredSample } from '../token-store.js'
import type { Pool } from './pool.js'
import { Vectors } from './vectors.js'

/** Turns samples into vectors: a model, or counted n-grams. */
export interface Embedder {
  /** Of one vector; at most 1,024. */
  readonly dimensions: number
  /** f32 [samples, dimensions], not centred */
  embed(samples: readonly StoredSample[]): Promise<Float32Array>
}

export interface EmbedOptions {
  readonly signal?: AbortSignal
  /** Samples embedded so far, of all. */
  readonly onProgress?: (done: number, total: number) => void
}

/** Longest vectors; what a model has more is projected. */
export const mostDimensions = 128
const blockSamples = 256
/** Samples that the mean and the common directions are measured on. */
const measuredSamples = 4096

/**
 * The direction of every sample of every pool: without the mean, and without the largest principal component of each
 * hundred dimensions, which hold what all texts have in common (Mu and Viswanath 2018). Both are measured on equally
 * many samples of each pool.
 */
export async function embedPools(
  pools: readonly Pool[],
  embedder: Embedder,
  options: EmbedOptions,
): Promise<Vectors[]> {
  const { dimensions } = embedder
  const common = await commonDirections(pools, embedder, options)
  const pause = new Pause(options.signal)
  const total = pools.reduce((sum, { size }) => sum + size, 0)
  let done = 0
  const all: Vectors[] = []
  for (const pool of pools) {
    const vectors = new Vectors(pool.size, dimensions)
    for (let begin = 0; begin < pool.size; begin += blockSamples) {
      const count = Math.min(blockSamples, pool.size - begin)
      const y = await embedItems(pool, embedder, range(begin, count))
      for (let i = 0; i < count; i++)
        vectors.set(begin + i, common.without(y.subarray(i * dimensions, (i + 1) * dimensions)))
      done += count
      options.onProgress?.(done, total)
      await pause.turn()
    }
    all.push(vectors)
  }
  return all
}

async function embedItems(
  pool: Pool,
  embedder: Embedder,
  items: readonly number[],
): Promise<Float32Array> {
  const samples: StoredSample[] = []
  for (const item of items) samples.push(await pool.read(item))
  const y = await embedder.embed(samples)
  const bad = y.findIndex((value) => !Number.isFinite(value))
  if (bad >= 0)
    throw new DataError(
      `${pool.name}: the model's hidden states of sample ${items[Math.floor(bad / embedder.dimensions)] + 1} are not finite; embed by n-grams instead`,
    )
  return y
}

/** What all samples have in common, to be taken from each. */
class CommonDirections {
  readonly #mean: Float64Array
  readonly #axes: readonly Float64Array[]

  constructor(mean: Float64Array, axes: readonly Float64Array[]) {
    this.#mean = mean
    this.#axes = axes
  }

  without(vector: ArrayLike<number>): Float64Array {
    const rest = this.#mean.map((mean, i) => vector[i] - mean)
    for (const axis of this.#axes) {
      const along = dot(axis, rest)
      for (let i = 0; i < rest.length; i++) rest[i] -= along * axis[i]
    }
    return rest
  }
}

async function commonDirections(
  pools: readonly Pool[],
  embedder: Embedder,
  { signal }: EmbedOptions,
): Promise<CommonDirections> {
  const { dimensions } = embedder
  const pause = new Pause(signal)
  const each = Math.ceil(measuredSamples / pools.length)
  const blocks: Float32Array[] = []
  for (const [number, pool] of pools.entries()) {
    const count = Math.min(each, pool.size)
    const sample = range(0, count).map((i) => permute(i, pool.size, number))
    for (let begin = 0; begin < count; begin += blockSamples) {
      blocks.push(await embedItems(pool, embedder, sample.slice(begin, begin + blockSamples)))
      await pause.turn()
    }
  }
  const mean = new Float64Array(dimensions)
  const size = blocks.reduce((sum, { length }) => sum + length / dimensions, 0)
  for (const block of blocks)
    for (let i = 0; i < block.length; i++) mean[i % dimensions] += block[i] / size
  const covariance = new Float64Array(dimensions * dimensions)
  for (const block of blocks) {
    for (let row = 0; row < block.length; row += dimensions)
      for (let i = 0; i < dimensions; i++) {
        const value = block[row + i] - mean[i]
        for (let j = 0; j < dimensions; j++)
          covariance[i * dimensions + j] += value * (block[row + j] - mean[j])
      }
    await pause.turn()
  }
  const count = Math.min(Math.round(dimensions / 100), dimensions - 1, size - 1)
  return new CommonDirections(mean, principalAxes(covariance, dimensions, Math.max(0, count)))
}

/** The eigenvectors of the largest eigenvalues, by power iteration; fewer where nothing is left. */
function principalAxes(matrix: Float64Array, n: number, count: number): Float64Array[] {
  const axes: Float64Array[] = []
  for (let k = 0; k < count; k++) {
    let axis = Float64Array.from({ length: n }, (_, i) => mix(k, i) / 2 ** 32 - 0.5)
    for (let round = 0; round < 200; round++) {
      const next = new Float64Array(n)
      for (let i = 0; i < n; i++) next[i] = dot(matrix.subarray(i * n, (i + 1) * n), axis)
      for (const other of axes) {
        const along = dot(other, next)
        for (let i = 0; i < n; i++) next[i] -= along * other[i]
      }
      const length = Math.sqrt(dot(next, next))
      if (length === 0) return axes
      for (let i = 0; i < n; i++) next[i] /= length
      const turned = 1 - Math.abs(dot(next, axis))
      axis = next
      if (turned < 1e-12) break
    }
    axes.push(axis)
  }
  return axes
}

/** Counts of the uni-, bi- and trigrams of tokens, each hashed to a coordinate and a sign: no model is needed. */
export class NgramEmbedder implements Embedder {
  readonly dimensions = mostDimensions

  embed(samples: readonly StoredSample[]): Promise<Float32Array> {
    const y = new Float32Array(samples.length * this.dimensions)
    samples.forEach(({ inputIds }, row) => {
      const at = row * this.dimensions
      const over = 1 / Math.sqrt(3 * inputIds.length)
      for (let t = 0; t < inputIds.length; t++) {
        let hash = 0x9e3779b9
        for (let order = 0; order < 3 && order <= t; order++) {
          hash = Math.imul(hash ^ inputIds[t - order], 0x85ebca6b)
          hash ^= hash >>> 15
          const draw = Math.imul(hash ^ (order + 1), 0xc2b2ae35)
          y[at + ((draw >>> 8) % this.dimensions)] += draw < 0 ? -over : over
        }
      }
    })
    return Promise.resolve(y)
  }
}

/** Vectors that most samples are remembered of: some hundred megabytes. */
const mostRemembered = 200_000

/** What embedders of one kind and one frozen model have said, so that runs on one corpus embed it once. */
export class EmbeddingMemory {
  readonly #vectors = new Map<string, Float32Array>()

  /** The same embedder, asked only for what is not known. A sample's vector depends on nothing but the sample. */
  around(embedder: Embedder): Embedder {
    const { dimensions } = embedder
    return {
      dimensions,
      embed: async (samples) => {
        const keys = samples.map(({ inputIds }) =>
          Buffer.from(inputIds.buffer, inputIds.byteOffset, inputIds.byteLength).toString('latin1'),
        )
        const known = keys.map((key) => this.#vectors.get(key))
        const missing = range(0, samples.length).filter((i) => known[i] === undefined)
        const made = await embedder.embed(missing.map((i) => samples[i]))
        missing.forEach((i, at) => {
          known[i] = made.slice(at * dimensions, (at + 1) * dimensions)
          if (this.#vectors.size < mostRemembered) this.#vectors.set(keys[i], known[i])
        })
        const y = new Float32Array(samples.length * dimensions)
        known.forEach((vector, i) => {
          y.set(vector!, i * dimensions)
        })
        return y
      },
    }
  }
}

function range(begin: number, count: number): number[] {
  return Array.from({ length: count }, (_, i) => begin + i)
}

function dot(a: Float64Array, b: Float64Array): number {
  let sum = 0
  for (let i = 0; i < a.length; i++) sum += a[i] * b[i]
  return sum
}
