import { DisposedError, FormatError } from './errors.js'
import {
  loadNative,
  type NativeFile,
  type NativeSafetensorsSource,
  type SafetensorsEntry,
} from './native.js'
import { Tensor, type DType } from './tensor.js'
import type { Weight } from './weight.js'

export type { SafetensorsEntry }

/** A tensor or a weight to write; `dtype` and `shape` default to the source's own. */
export interface SafetensorsSource {
  readonly name: string
  readonly source: Tensor | Weight
  readonly dtype?: DType
  /** Another shape of the same number of elements. */
  readonly shape?: readonly number[]
}

/**
 * An open safetensors file. Its header has been validated: names are unique, and the tensors fill the file without
 * gaps. Reads are positioned, piece by piece, on a thread of their own, and convert between bf16, f16 and f32.
 */
export class SafetensorsFile {
  readonly path: string
  /** By name, in the order of the file. */
  readonly entries: ReadonlyMap<string, Readonly<SafetensorsEntry>>
  readonly metadata: ReadonlyMap<string, string>
  #native: NativeFile | null

  private constructor(path: string, native: NativeFile) {
    this.path = path
    this.#native = native
    const { entries, metadata } = loadNative().safetensorsEntries(native)
    this.entries = new Map(entries.map((entry) => [entry.name, entry]))
    this.metadata = new Map(metadata)
  }

  /** @throws FormatError naming what is wrong: the file cannot be read, or is not a valid safetensors file */
  static async open(path: string): Promise<SafetensorsFile> {
    return new SafetensorsFile(path, await loadNative().openSafetensors(path))
  }

  /** @throws FormatError if there is no such tensor */
  entry(name: string): Readonly<SafetensorsEntry> {
    const entry = this.entries.get(name)
    if (entry === undefined)
      throw new FormatError(`${this.path} has no tensor ${JSON.stringify(name)}`, {
        details: { file: this.path, tensor: name },
      })
    return entry
  }

  /**
   * Reads a tensor into a contiguous one with as many elements, converting the dtype. `tensor` may be released
   * meanwhile, but its values are undefined until this resolves.
   */
  async readTensor(name: string, tensor: Tensor): Promise<void> {
    this.entry(name)
    await loadNative().readSafetensors(this.#open(), name, tensor.native)
  }

  /** Reads an [n, columns] tensor into rows rowBegin … of a weight; never holds the whole tensor. */
  async readWeight(name: string, weight: Weight, rowBegin = 0): Promise<void> {
    this.entry(name)
    await loadNative().readSafetensorsWeight(this.#open(), name, weight.native, rowBegin)
  }

  /** Idempotent. Reads under way finish. */
  close(): void {
    if (this.#native === null) return
    const native = this.#native
    this.#native = null
    loadNative().closeSafetensors(native)
  }

  [Symbol.dispose](): void {
    this.close()
  }

  #open(): NativeFile {
    if (this.#native === null) throw new DisposedError(`${this.path} is closed`)
    return this.#native
  }
}

/**
 * Writes a safetensors file under a temporary name, syncs it, renames it to `path` and syncs the folder; on failure
 * nothing is left behind and an older file stays. Sources must not be changed before the promise resolves.
 *
 * @returns the size of the file in bytes
 * @throws FormatError with `details` { file, error, bytesNeeded } when the file cannot be written
 */
export async function writeSafetensors(
  path: string,
  metadata: Iterable<readonly [string, string]>,
  entries: Iterable<SafetensorsSource>,
): Promise<number> {
  const sources = Array.from(entries, (entry): NativeSafetensorsSource => {
    const { name, source } = entry
    return source instanceof Tensor
      ? {
          name,
          dtype: entry.dtype ?? source.dtype,
          shape: entry.shape ?? source.shape,
          source: source.native,
        }
      : {
          name,
          dtype: entry.dtype ?? source.storage,
          shape: entry.shape ?? [source.rows, source.columns],
          source: source.native,
        }
  })
  return await loadNative().writeSafetensors(path, [...metadata], sources)
}
