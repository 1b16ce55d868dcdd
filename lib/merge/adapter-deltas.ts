import { join } from 'node:path'
import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { isPlain } from '../adapters/form.js'
import { loadAdapter } from '../adapters/peft.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import { readJsonFile } from '../json-file.js'
import type { DecoderConfig } from '../models/index.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { LowRank } from './low-rank.js'

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
    const { kind, form } = adapter.declaration
    if (!isPlain(form)) {
      adapter.dispose()
      throw new ConfigError(
        `${folder} is an adapter of kind ${kind}, whose update is no fixed product B A: it cannot be merged into weights`,
        { details: { path: folder, received: kind, allowed: 'lora' } },
      )
    }
    const { base_model_name_or_path: name } = (await readJsonFile(
      join(folder, 'adapter_config.json'),
      1 << 20,
    )) as { base_model_name_or_path?: unknown }
    return new AdapterDeltas(folder, typeof name === 'string' ? name : null, adapter)
  }

  updates(path: string): boolean {
    return this.#modules.has(path)
  }

  /** Rows begin … end of s · B A, in float32; null if the adapter leaves the layer alone. */
  async rows(path: string, begin: number, end: number): Promise<Float32Array | null> {
    const module = this.#modules.get(path)
    if (!module) return null
    const { group, part, scale } = module
    const a = group.a.value.slice(0, part.begin, part.end)
    try {
      return await productRows(part.b.value, a, scale, begin, end)
    } finally {
      a.release()
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
