import type { Reading } from './reading.js'

/** A line without its end; or one longer than limits.lineBytes, whose bytes were not kept. */
export interface Line {
  readonly bytes: Uint8Array | undefined
  /** From 1. */
  readonly line: number
  /** False for a last line that the file breaks off in. */
  readonly ended: boolean
}

const lineFeed = 0x0a
const carriageReturn = 0x0d

/** Splits chunks of bytes into lines at line feeds, keeping at most limits.lineBytes. */
export class LineSplitter {
  readonly #reading: Reading
  #parts: Uint8Array[] = []
  #length = 0

  constructor(reading: Reading) {
    this.#reading = reading
  }

  /** The lines that end in `chunk`, which must not change afterwards. */
  *push(chunk: Uint8Array): Generator<Line> {
    let start = 0
    for (;;) {
      const end = chunk.indexOf(lineFeed, start)
      if (end < 0) break
      this.#keep(chunk.subarray(start, end))
      yield this.#take(true)
      this.#reading.line++
      start = end + 1
    }
    this.#keep(chunk.subarray(start))
  }

  /** The last line, if the bytes do not end with a line feed. */
  *end(): Generator<Line> {
    if (this.#length > 0) yield this.#take(false)
  }

  #keep(part: Uint8Array): void {
    this.#length += part.length
    // One more for a carriage return.
    if (this.#length > this.#reading.limits.lineBytes + 1) this.#parts = []
    else this.#parts.push(part)
  }

  #take(ended: boolean): Line {
    const { line, limits } = this.#reading
    let bytes = this.#parts.length === 1 ? this.#parts[0] : Buffer.concat(this.#parts)
    // The parts of a line that is too long are not there.
    const cut = this.#length - bytes.length
    if (bytes.at(-1) === carriageReturn) bytes = bytes.subarray(0, -1)
    const tooLong = cut > 0 || bytes.length > limits.lineBytes
    this.#parts = []
    this.#length = 0
    return { bytes: tooLong ? undefined : bytes, line, ended }
  }
}

const byteOrderMark = Buffer.from([0xef, 0xbb, 0xbf])

/** How files begin that are something else than their name says. */
const signatures: readonly { bytes: readonly number[]; kind: string }[] = [
  { bytes: [0xff, 0xfe], kind: 'UTF-16 text; only UTF-8 is read' },
  { bytes: [0xfe, 0xff], kind: 'UTF-16 text; only UTF-8 is read' },
  { bytes: [0x1f, 0x8b], kind: 'gzip data; its name must end in .gz' },
  { bytes: [0x28, 0xb5, 0x2f, 0xfd], kind: 'zstd data; its name must end in .zst' },
  { bytes: [0x50, 0x41, 0x52, 0x31], kind: 'a Parquet file; its name must end in .parquet' },
  { bytes: [0x50, 0x4b, 0x03, 0x04], kind: 'a zip archive, which is not read' },
]

/**
 * Leaves out a UTF-8 byte order mark at the start.
 *
 * @throws DataError if the bytes begin like another kind of file.
 */
export async function* withoutByteOrderMark(
  reading: Reading,
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  let head: Buffer | undefined = Buffer.alloc(0)
  const begin = (bytes: Buffer): Buffer => {
    for (const { bytes: signature, kind } of signatures)
      if (signature.every((byte, i) => bytes[i] === byte))
        throw reading.error(`the file is ${kind}`)
    return bytes.subarray(0, 3).equals(byteOrderMark) ? bytes.subarray(3) : bytes
  }
  for await (const chunk of chunks) {
    if (!head) {
      yield chunk
      continue
    }
    head = Buffer.concat([head, chunk])
    if (head.length < 4) continue
    yield begin(head)
    head = undefined
  }
  if (head && head.length > 0) yield begin(head)
}
