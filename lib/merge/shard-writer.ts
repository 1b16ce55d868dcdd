import { open, writeFile, type FileHandle } from 'node:fs/promises'
import { join } from 'node:path'
import { FormatError } from '../errors.js'
import { whatToDo } from '../file-system.js'
import type { ModelDType } from '../models/save.js'
import { narrow } from './float-bits.js'

export interface PlannedTensor {
  readonly name: string
  readonly shape: readonly number[]
}

interface Shard {
  readonly file: string
  readonly tensors: readonly PlannedTensor[]
}

const namesOfDTypes = { f32: 'F32', bf16: 'BF16', f16: 'F16' } as const

/** Bytes of a shard, unless one tensor alone is larger; as transformers. */
export const shardBytes = 5e9

/** The file system refused something, as opposed to an input. */
export class WriteError extends FormatError {}

/**
 * Writes the tensors of a model one after the other, piece by piece, in the order in which they were planned: what is in
 * memory is one piece. One file is `model.safetensors`; several have an index beside them.
 */
export class ShardWriter {
  readonly #folder: string
  readonly #dtype: ModelDType
  readonly #shards: readonly Shard[]
  #shard = -1
  #handle: FileHandle | null = null
  #left = 0

  constructor(
    folder: string,
    tensors: readonly PlannedTensor[],
    dtype: ModelDType,
    maxBytes = shardBytes,
  ) {
    this.#folder = folder
    this.#dtype = dtype
    this.#shards = nameShards(split(tensors, bytesPerElement(dtype), maxBytes))
  }

  /**
   * The next elements of the next tensor.
   *
   * @throws FormatError if one does not fit the dtype; WriteError
   */
  async write(name: string, values: Float32Array): Promise<void> {
    const bytes = narrow(values, this.#dtype)
    if (this.#dtype !== 'f32') requireFinite(name, bytes, this.#dtype)
    try {
      for (let done = 0; done < bytes.length;) {
        if (this.#left === 0) await this.#next()
        const length = Math.min(bytes.length - done, this.#left)
        await this.#put(bytes.subarray(done, done + length))
        done += length
        this.#left -= length
      }
    } catch (cause) {
      const { code, message } = cause as NodeJS.ErrnoException
      const file = join(this.#folder, this.#shards[Math.max(this.#shard, 0)].file)
      throw new WriteError(`${file} cannot be written: ${code ?? message}; ${whatToDo(code)}`, {
        cause,
        details: { file, error: code ?? null, bytesNeeded: this.#left },
      })
    }
  }

  /** Writes the index. Every planned element must have been written. */
  async finish(): Promise<void> {
    // Tensors without elements at the end of the plan.
    while (this.#shard + 1 < this.#shards.length) await this.#next()
    await this.close()
    if (this.#shards.length < 2) return
    const total = this.#shards
      .flatMap(({ tensors }) => tensors)
      .reduce((sum, tensor) => sum + sizeOf(tensor) * bytesPerElement(this.#dtype), 0)
    const map = this.#shards.flatMap(({ file, tensors }) =>
      tensors.map(({ name }) => [name, file] as const),
    )
    const index = { metadata: { total_size: total }, weight_map: Object.fromEntries(map) }
    const text = `${JSON.stringify(index, null, 2)}\n`
    await writeFile(join(this.#folder, 'model.safetensors.index.json'), text)
  }

  async close(): Promise<void> {
    await this.#handle?.close()
    this.#handle = null
  }

  async #next(): Promise<void> {
    await this.close()
    const { file, tensors } = this.#shards[++this.#shard]
    this.#handle = await open(join(this.#folder, file), 'wx')
    const { bytes, length } = header(tensors, this.#dtype)
    this.#left = length
    await this.#put(bytes)
  }

  async #put(bytes: Uint8Array): Promise<void> {
    const handle = this.#handle!
    for (let done = 0; done < bytes.length;)
      done += (await handle.write(bytes, done, bytes.length - done)).bytesWritten
  }
}

export function bytesPerElement(dtype: ModelDType): number {
  return dtype === 'f32' ? 4 : 2
}

function sizeOf({ shape }: PlannedTensor): number {
  return shape.reduce((product, size) => product * size, 1)
}

function split(
  tensors: readonly PlannedTensor[],
  elementBytes: number,
  maxBytes: number,
): PlannedTensor[][] {
  const shards: PlannedTensor[][] = []
  let bytes = Infinity
  for (const tensor of tensors) {
    const more = sizeOf(tensor) * elementBytes
    if (bytes + more > maxBytes) {
      shards.push([])
      bytes = 0
    }
    shards.at(-1)!.push(tensor)
    bytes += more
  }
  return shards
}

function nameShards(shards: readonly PlannedTensor[][]): Shard[] {
  const pad = (n: number) => String(n).padStart(5, '0')
  return shards.map((tensors, i) => ({
    file:
      shards.length === 1
        ? 'model.safetensors'
        : `model-${pad(i + 1)}-of-${pad(shards.length)}.safetensors`,
    tensors,
  }))
}

/** The length of the header, the header, padded so that what follows is aligned; and the bytes that follow. */
function header(tensors: readonly PlannedTensor[], dtype: ModelDType) {
  let offset = 0
  const entries = tensors.map((tensor) => {
    const begin = offset
    offset += sizeOf(tensor) * bytesPerElement(dtype)
    const { name, shape } = tensor
    return [name, { dtype: namesOfDTypes[dtype], shape, data_offsets: [begin, offset] }] as const
  })
  const object = { __metadata__: { format: 'pt' }, ...Object.fromEntries(entries) }
  const text = Buffer.from(JSON.stringify(object))
  const size = Math.ceil(text.length / 8) * 8
  const bytes = Buffer.alloc(8 + size, ' ')
  bytes.writeBigUInt64LE(BigInt(size))
  text.copy(bytes, 8)
  return { bytes, length: offset }
}

function requireFinite(name: string, bytes: Uint8Array, dtype: 'bf16' | 'f16'): void {
  const exponent = dtype === 'bf16' ? 0x7f80 : 0x7c00
  const halves = new Uint16Array(bytes.buffer)
  for (const half of halves)
    if ((half & exponent) === exponent)
      throw new FormatError(
        `the merged ${name} has a value that ${dtype} cannot hold; choose a dtype with a wider range`,
        { details: { key: name, allowed: dtype === 'f16' ? 'bf16, f32' : 'f32' } },
      )
}
