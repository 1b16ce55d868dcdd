import { readSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'

/** Positioned reads of a file that never go past its end. */
export class FileBytes {
  readonly size: number
  // Not its descriptor, which is closed when the handle is collected.
  readonly #file: FileHandle

  constructor(file: FileHandle, size: number) {
    this.#file = file
    this.size = size
  }

  /** A buffer of its own, at offset 0 of its memory. */
  read(start: number, length: number): Uint8Array {
    if (
      !Number.isSafeInteger(start) ||
      !(start >= 0) ||
      !(length >= 0) ||
      start + length > this.size
    )
      throw new Error(
        `bytes ${String(start)} to ${String(start + length)} are not in the file, which has ${String(this.size)}`,
      )
    const bytes = new Uint8Array(length)
    for (let done = 0; done < length;) {
      const bytesRead = readSync(this.#file.fd, bytes, done, length - done, start + done)
      if (bytesRead === 0) throw new Error('the file became shorter while it was read')
      done += bytesRead
    }
    return bytes
  }
}

/** A view of the bytes, as hyparquet's functions take it. */
export function viewOf(bytes: Uint8Array): DataView {
  return new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
}
