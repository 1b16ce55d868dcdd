import { open, stat, type FileHandle } from 'node:fs/promises'
import { basename, join } from 'node:path'
import { FormatError } from '../errors.js'
import { readJsonFile } from '../json-file.js'
import { type DecoderConfig, readConfig } from '../models/index.js'
import { SafetensorsFile, type SafetensorsEntry } from '../safetensors.js'
import { widen } from './float-bits.js'

const indexCap = 64 << 20

interface Shard {
  readonly path: string
  readonly handle: FileHandle
}

interface Place {
  readonly shard: Shard
  readonly entry: Readonly<SafetensorsEntry>
}

const bytesOf: Readonly<Record<string, number>> = { F32: 4, BF16: 2, F16: 2 }

/** The tensors of a model folder, read a few rows at a time: never more of a model is in memory. */
export class ModelFiles {
  readonly folder: string
  readonly config: DecoderConfig
  readonly #places: ReadonlyMap<string, Place>
  readonly #shards: readonly Shard[]

  private constructor(
    folder: string,
    config: DecoderConfig,
    places: ReadonlyMap<string, Place>,
    shards: readonly Shard[],
  ) {
    this.folder = folder
    this.config = config
    this.#places = places
    this.#shards = shards
  }

  /** @throws FormatError for a folder that is not a model, single or sharded, or holds a tensor twice */
  static async open(folder: string): Promise<ModelFiles> {
    const config = await readConfig(folder)
    const places = new Map<string, Place>()
    const shards: Shard[] = []
    try {
      for (const name of await shardNames(folder)) {
        const path = join(folder, name)
        // The header is checked before a byte behind it is read.
        using file = await SafetensorsFile.open(path)
        const shard = { path, handle: await open(path, 'r') }
        shards.push(shard)
        for (const [name, entry] of file.entries) {
          if (places.has(name))
            throw new FormatError(`${folder}: tensor ${name} is in two files`, {
              details: { file: folder, key: name },
            })
          places.set(name, { shard, entry })
        }
      }
      return new ModelFiles(folder, config, places, shards)
    } catch (error) {
      for (const { handle } of shards) await handle.close()
      throw error
    }
  }

  /**
   * Refuses a tensor that is not there, has another shape or is not of floating point.
   *
   * @throws FormatError
   */
  check(name: string, shape: readonly number[]): void {
    const { shard, entry } = this.#place(name)
    const problem =
      entry.shape.join() !== shape.join()
        ? `has shape [${entry.shape.join(', ')}], and [${shape.join(', ')}] is needed`
        : !Object.hasOwn(bytesOf, entry.dtype)
          ? `has dtype ${entry.dtype}; F32, BF16 and F16 are supported`
          : null
    if (problem)
      throw new FormatError(`${shard.path}: tensor ${name} ${problem}`, {
        details: { file: shard.path, key: name, received: entry.shape, allowed: shape },
      })
  }

  /** @throws FormatError if there is no such tensor */
  shapeOf(name: string): readonly number[] {
    return this.#place(name).entry.shape
  }

  /**
   * Elements begin … end of a tensor in C order, as float32.
   *
   * @throws FormatError if one is not finite
   */
  async read(name: string, begin: number, end: number): Promise<Float32Array> {
    const { shard, entry } = this.#place(name)
    const size = bytesOf[entry.dtype]
    const bytes = Buffer.allocUnsafeSlow((end - begin) * size)
    const start = entry.begin + begin * size
    for (let done = 0; done < bytes.length;) {
      const { bytesRead } = await shard.handle.read(bytes, done, bytes.length - done, start + done)
      if (bytesRead === 0)
        throw new FormatError(`${shard.path}: ends before tensor ${name} does`, {
          details: { file: shard.path, key: name },
        })
      done += bytesRead
    }
    const values = widen(bytes, entry.dtype as 'F32' | 'BF16' | 'F16')
    for (let i = 0; i < values.length; i++)
      if (!Number.isFinite(values[i]))
        throw new FormatError(
          `${shard.path}: element ${begin + i} of tensor ${name} is ${values[i]}; only finite numbers can be merged`,
          { details: { file: shard.path, key: name, received: values[i] } },
        )
    return values
  }

  async close(): Promise<void> {
    for (const { handle } of this.#shards) await handle.close()
  }

  #place(name: string): Place {
    const place = this.#places.get(name)
    if (!place)
      throw new FormatError(`${this.folder}: no safetensors file has the tensor ${name}`, {
        details: { file: this.folder, key: name },
      })
    return place
  }
}

/** model.safetensors, or what model.safetensors.index.json names: base names only. */
async function shardNames(folder: string): Promise<string[]> {
  const index = join(folder, 'model.safetensors.index.json')
  if ((await stat(index).catch(() => null)) === null) return ['model.safetensors']
  const { weight_map: map } = ((await readJsonFile(index, indexCap)) ?? {}) as {
    weight_map?: unknown
  }
  if (typeof map !== 'object' || map === null)
    throw new FormatError(`${index}: weight_map must be an object`, { details: { file: index } })
  const names = [...new Set<unknown>(Object.values(map))]
  for (const name of names)
    if (typeof name !== 'string' || name !== basename(name) || /^\.{0,2}$|\0/.test(name))
      throw new FormatError(
        `${index}: weight_map names ${JSON.stringify(name)}, which must be a file name without a folder`,
        { details: { file: index, received: name } },
      )
  return (names as string[]).sort()
}
