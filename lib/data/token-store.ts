import { type FileHandle, open, unlink } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { randomUUID } from 'node:crypto'
import { DataError } from '../errors.js'

/** A sample as it lies in the store. */
export interface StoredSample {
  readonly inputIds: Int32Array
  readonly labelMask: Uint8Array
}

const chunkTokens = 1 << 20
/** Tokens kept in memory, five bytes each; what is beyond lies in an unnamed temporary file. */
export const defaultMemoryTokens = 32 << 20

/**
 * Tokenised samples in the order they were added: in memory up to a cap, beyond it in a temporary file that is read by
 * position, so that a corpus may be larger than memory.
 */
export class TokenStore {
  readonly #memoryTokens: number
  /** Chunks of tokens and masks; the mask is the sign: a trained token is stored as ~id. */
  readonly #chunks: Int32Array[] = []
  /** Ends of the samples, in tokens from the first. */
  #ends = new Float64Array(1024)
  #size = 0
  #file: FileHandle | null = null

  constructor(memoryTokens = defaultMemoryTokens) {
    this.#memoryTokens = Math.ceil(memoryTokens / chunkTokens) * chunkTokens
  }

  /** Number of samples. */
  get size(): number {
    return this.#size
  }

  /** Tokens of all samples. */
  get numTokens(): number {
    return this.#size === 0 ? 0 : this.#ends[this.#size - 1]
  }

  length(index: number): number {
    return this.#ends[index] - this.#begin(index)
  }

  async add({ inputIds, labelMask }: StoredSample): Promise<void> {
    const signed = Int32Array.from(inputIds, (id, t) => (labelMask[t] ? ~id : id))
    const begin = this.numTokens
    let done = 0
    while (done < signed.length) {
      const at = begin + done
      const offset = at % chunkTokens
      const part = signed.subarray(
        done,
        done + Math.min(signed.length - done, chunkTokens - offset),
      )
      if (at < this.#memoryTokens) this.#chunk(Math.floor(at / chunkTokens)).set(part, offset)
      else await this.#write(at - this.#memoryTokens, part)
      done += part.length
    }
    if (this.#size === this.#ends.length) {
      const grown = new Float64Array(2 * this.#size)
      grown.set(this.#ends)
      this.#ends = grown
    }
    this.#ends[this.#size++] = begin + signed.length
  }

  async read(index: number): Promise<StoredSample> {
    const begin = this.#begin(index)
    const inputIds = new Int32Array(this.length(index))
    let done = 0
    while (done < inputIds.length) {
      const at = begin + done
      const offset = at % chunkTokens
      const count = Math.min(inputIds.length - done, chunkTokens - offset)
      if (at < this.#memoryTokens)
        inputIds.set(
          this.#chunks[Math.floor(at / chunkTokens)].subarray(offset, offset + count),
          done,
        )
      else await this.#readFile(at - this.#memoryTokens, inputIds.subarray(done, done + count))
      done += count
    }
    const labelMask = new Uint8Array(inputIds.length)
    inputIds.forEach((id, t) => {
      if (id >= 0) return
      inputIds[t] = ~id
      labelMask[t] = 1
    })
    return { inputIds, labelMask }
  }

  async close(): Promise<void> {
    await this.#file?.close()
    this.#file = null
  }

  #begin(index: number): number {
    return index === 0 ? 0 : this.#ends[index - 1]
  }

  #chunk(index: number): Int32Array {
    return (this.#chunks[index] ??= new Int32Array(chunkTokens))
  }

  async #write(at: number, tokens: Int32Array): Promise<void> {
    try {
      if (!this.#file) {
        const path = join(tmpdir(), `polylora-${randomUUID()}`)
        this.#file = await open(path, 'wx+', 0o600)
        // No name: the file goes with the process, whatever happens.
        await unlink(path)
      }
      const bytes = new Uint8Array(tokens.buffer, tokens.byteOffset, tokens.byteLength)
      for (let done = 0; done < bytes.length;)
        done += (await this.#file.write(bytes, done, bytes.length - done, at * 4 + done))
          .bytesWritten
    } catch (cause) {
      throw new DataError(
        `the tokenised corpus does not fit in the temporary folder ${tmpdir()}: ${(cause as Error).message}`,
        { cause },
      )
    }
  }

  async #readFile(at: number, target: Int32Array): Promise<void> {
    const bytes = new Uint8Array(target.buffer, target.byteOffset, target.byteLength)
    let done = 0
    while (done < bytes.length) {
      const { bytesRead } = await this.#file!.read(bytes, done, bytes.length - done, at * 4 + done)
      if (bytesRead === 0)
        throw new DataError('the temporary file of the tokenised corpus is cut short')
      done += bytesRead
    }
  }
}
