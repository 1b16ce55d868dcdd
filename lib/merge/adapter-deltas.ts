import { join } from 'node:path'
import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { loadAdapter } from '../adapters/peft.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import { readJsonFile } from '../json-file.js'
import type { DecoderConfig } from '../models/index.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'

/** ΔW = B A, with the scaling in B; row-major. */
export interface LowRank {
  readonly rank: number
  /** [out, rank] */
  readonly b: Float64Array
  /** [rank, in] */
  readonly a: Float64Array
}

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

  /** @throws FormatError for what is no adapter of this model */
  static async open(device: Device, config: DecoderConfig, folder: string): Promise<AdapterDeltas> {
    const adapter = await loadAdapter(device, config, folder)
    const { base_model_name_or_path: name } = (await readJsonFile(
      join(folder, 'adapter_config.json'),
      1 << 20,
    )) as { base_model_name_or_path?: unknown }
    return new AdapterDeltas(folder, typeof name === 'string' ? name : null, adapter)
  }

  /** Names of the linear layers that it updates, without `.weight`. */
  get paths(): readonly string[] {
    return [...this.#modules.keys()]
  }

  /** Rows begin … end of s · B A, in float32; null if the adapter leaves the layer alone. */
  async rows(path: string, begin: number, end: number): Promise<Float32Array | null> {
    const module = this.#modules.get(path)
    if (!module) return null
    const { device } = this.#adapter
    const { group, part, inFeatures, scale } = module
    const product = scope(() => {
      const y = Tensor.empty(device, [end - begin, inFeatures])
      device.run('matmul', {
        layout: 'nn',
        segments: [
          {
            x: part.b.value.slice(0, begin, end).native,
            w: group.a.value.slice(0, part.begin, part.end).native,
          },
        ],
        columnScale: Tensor.full(device, [inFeatures], scale).native,
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

  /** Both factors; null if the adapter leaves the layer alone. */
  async factors(path: string): Promise<LowRank | null> {
    const module = this.#modules.get(path)
    if (!module) return null
    const { group, part, rank, scale } = module
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
 * Adapters of different models are not for one merge. Their configurations hold paths or names, of which the last part
 * counts.
 *
 * @throws ConfigError
 */
export function requireOneBase(adapters: readonly AdapterDeltas[]): void {
  const last = (name: string) => name.replace(/\/+$/, '').split('/').at(-1)!.toLowerCase()
  const named = adapters.filter(({ baseName }) => baseName !== null && baseName !== 'unknown')
  const other = named.find(({ baseName }) => last(baseName!) !== last(named[0].baseName!))
  if (other)
    throw new ConfigError(
      `${other.folder} is an adapter of ${other.baseName} and ${named[0].folder} one of ${named[0].baseName}: ` +
        'adapters of different models cannot be merged',
      { details: { path: other.folder, received: other.baseName, allowed: named[0].baseName } },
    )
}
