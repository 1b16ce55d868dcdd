import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { isPlain } from '../adapters/form.js'
import { baseNameOf } from '../adapters/base-name.js'
import { loadAdapter } from '../adapters/peft.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { LowRank } from './low-rank.js'
import { plainAdapter, type PlainAdapterOptions } from './plain-adapter.js'

/** The weight deltas of a trained adapter: the only file of this folder that knows how adapters are kept. */
export class AdapterDeltas {
  readonly folder: string
  /** What the adapter says that it was trained on; null if nothing. */
  readonly baseName: string | null
  readonly #adapter: Adapter
  readonly #modules: ReadonlyMap<string, AdapterModule>

  private constructor(folder: string, baseName: string | null, adapter: Adapter) {
    this.folder = folder
    this.baseName = baseName
    this.#adapter = adapter
    this.#modules = new Map(adapter.modules.map((module) => [module.path, module]))
  }

  /**
   * An adapter of any kind whose update is a fixed one, or becomes one by the options.
   *
   * @throws FormatError for what is no adapter of this model; ConfigError for one without a fixed update
   */
  static async open(
    device: Device,
    config: DecoderConfig,
    folder: string,
    options: PlainAdapterOptions = {},
  ): Promise<AdapterDeltas> {
    let adapter = await loadAdapter(device, config, folder)
    const { form } = adapter.declaration
    if ((!isPlain(form) && !form.magnitude) || Object.keys(options).length > 0) {
      using whole = adapter
      try {
        adapter = (await plainAdapter(device, config, whole, options)).adapter
      } catch (error) {
        if (!(error instanceof ConfigError)) throw error
        throw new ConfigError(`${folder}: ${error.message}`, {
          cause: error,
          details: { ...error.details, path: folder },
        })
      }
    }
    return new AdapterDeltas(folder, await baseNameOf(folder), adapter)
  }

  updates(path: string): boolean {
    return this.#modules.has(path)
  }

  /**
   * Rows begin … end of ΔW, in float32; null if the adapter leaves the layer alone.
   *
   * @param weights the same rows of W, on which DoRA's update depends
   */
  async rows(
    path: string,
    begin: number,
    end: number,
    weights: Float32Array,
  ): Promise<Float32Array | null> {
    const module = this.#modules.get(path)
    if (!module) return null
    const { group, part, scale } = module
    using a = group.a.value.slice(0, part.begin, part.end)
    const update = await productRows(part.b.value, a, scale, begin, end)
    if (!part.magnitude) return update
    const magnitudes = (await part.magnitude.value.value.readFloats()).subarray(begin, end)
    return magnitudeUpdate(weights, update, magnitudes)
  }

  /** Both factors; null if the adapter leaves the layer alone. @throws ConfigError for DoRA, whose update has none */
  async factors(path: string): Promise<LowRank | null> {
    const module = this.#modules.get(path)
    if (!module) return null
    const { group, part, rank, scale } = module
    if (part.magnitude)
      throw new ConfigError(
        `${this.folder} is an adapter of kind dora, whose update has full rank: it can be merged into a model, by methods that need no factors`,
        { details: { path: this.folder, received: 'dora' } },
      )
    const rows = group.a.value.slice(0, part.begin, part.end)
    try {
      const a = Float64Array.from(await rows.readFloats())
      const b = Float64Array.from(await part.b.value.readFloats(), (value) => value * scale)
      return { rank, a, b }
    } finally {
      rows.release()
    }
  }

  dispose(): void {
    this.#adapter.dispose()
  }
}

/**
 * DoRA's ΔW = m (W + s B A) / ‖W + s B A‖ - W by rows, each norm in float64.
 *
 * @param update s B A, overwritten
 */
export function magnitudeUpdate(
  weights: Float32Array,
  update: Float32Array,
  magnitudes: Float32Array,
): Float32Array {
  const columns = weights.length / magnitudes.length
  magnitudes.forEach((magnitude, row) => {
    let square = 0
    for (let i = row * columns; i < (row + 1) * columns; i++)
      square += (weights[i] + update[i]) ** 2
    const factor = square > 0 ? magnitude / Math.sqrt(square) : 0
    for (let i = row * columns; i < (row + 1) * columns; i++)
      update[i] = factor * (weights[i] + update[i]) - weights[i]
  })
  return update
}

/** Merged factors as if they were an adapter's, on the device. */
export class MergedDeltas {
  readonly #a: Tensor
  readonly #b: Tensor

  constructor(device: Device, { a, b, rank }: LowRank) {
    this.#a = Tensor.from(device, Float32Array.from(a), [rank, a.length / rank])
    this.#b = Tensor.from(device, Float32Array.from(b), [b.length / rank, rank])
  }

  updates(): boolean {
    return true
  }

  rows(_path: string, begin: number, end: number): Promise<Float32Array> {
    return productRows(this.#b, this.#a, 1, begin, end)
  }

  dispose(): void {
    this.#a.release()
    this.#b.release()
  }
}

/** Rows begin … end of scale · b a. */
async function productRows(
  b: Tensor,
  a: Tensor,
  scale: number,
  begin: number,
  end: number,
): Promise<Float32Array> {
  const { device } = b
  const product = scope(() => {
    const y = Tensor.empty(device, [end - begin, a.shape[1]])
    device.run('matmul', {
      layout: 'nn',
      segments: [{ x: b.slice(0, begin, end).native, w: a.native }],
      columnScale: Tensor.full(device, [a.shape[1]], scale).native,
      y: y.native,
    })
    return y
  })
  try {
    return await product.readFloats()
  } finally {
    product.release()
  }
}
