import { crc32 } from 'node:zlib'
import { parquetHeader } from 'hyparquet/src/column.js'
import { getMaxRepetitionLevel } from 'hyparquet/src/schema.js'
import type { ColumnDecoder, DecodedArray, PageHeader } from 'hyparquet/src/types.js'
import type { ReaderLimits } from '../limits.js'
import { excerpt } from '../reading.js'
import { reasonOf } from './damage.js'
import type { FileBytes } from './file-bytes.js'
import { viewOf } from './file-bytes.js'
import type { ColumnChunk } from './footer.js'
import { numValuesOf, readDictionary, readRows } from './page.js'
import { ThriftCutShort, checkThriftStruct } from './thrift.js'
import { parsers } from './values.js'

const headerBytes = 2 ** 12
const longestHeader = 2 ** 20
const mostHeaderValues = 2 ** 10

/** What has been decompressed of a file, against limits.fileBytes. */
export interface DecompressedBytes {
  count: number
}

/** The rows of one leaf column of a row group, page by page: at most one page is in memory. */
export class ColumnReader {
  /** From the column to the leaf. */
  readonly path: readonly string[]
  readonly name: string
  readonly #file: FileBytes
  readonly #limits: ReaderLimits
  readonly #decompressed: DecompressedBytes
  readonly #decoder: ColumnDecoder
  readonly #repeats: boolean
  readonly #end: number
  #position: number
  #valuesLeft: number
  #dictionary: DecodedArray | undefined
  /** Rows that are decoded and not taken; the last may go on in the next page. */
  #rows: unknown[] = []
  #start = 0

  constructor(
    file: FileBytes,
    { metadata, schemaPath, start, end }: ColumnChunk,
    limits: ReaderLimits,
    decompressed: DecompressedBytes,
  ) {
    this.path = metadata.path_in_schema
    this.name = metadata.path_in_schema.join('.')
    this.#file = file
    this.#limits = limits
    this.#decompressed = decompressed
    this.#decoder = {
      pathInSchema: metadata.path_in_schema,
      type: metadata.type,
      element: schemaPath.at(-1)!.element,
      schemaPath,
      codec: metadata.codec,
      parsers: parsers(limits),
      // Bytes that are not marked as text are looked at one by one.
      utf8: false,
    }
    this.#repeats = getMaxRepetitionLevel(schemaPath) > 0
    this.#position = start
    this.#end = end
    this.#valuesLeft = Number(metadata.num_values)
  }

  /** Number of rows that can be taken; reads pages until there is one, or the column ends. */
  available(): number {
    for (;;) {
      const atEnd = this.#valuesLeft <= 0 || this.#position >= this.#end
      const rows = this.#rows.length - this.#start
      const whole = this.#repeats && !atEnd ? rows - 1 : rows
      if (whole > 0 || atEnd) return whole
      const position = this.#position
      try {
        this.#readPage()
      } catch (cause) {
        throw new Error(
          `column ${JSON.stringify(excerpt(this.name))}, page at byte ${String(position)}: ${reasonOf(cause)}`,
          { cause },
        )
      }
    }
  }

  /** The next rows, at most as many as are available. */
  take(count: number): unknown[] {
    const rows = this.#rows.slice(this.#start, this.#start + count)
    this.#start += count
    return rows
  }

  #readPage(): void {
    const header = this.#readHeader()
    const { compressed_page_size: size, uncompressed_page_size: uncompressed } = header
    const { pageBytes, fileBytes } = this.#limits
    if (!(size >= 0) || !(uncompressed >= 0)) throw new Error('a page has a size below 0')
    if (size > this.#end - this.#position)
      throw new Error(
        `a page has ${String(size)} bytes where its column has ${String(this.#end - this.#position)} left`,
      )
    if (Math.max(size, uncompressed) > pageBytes)
      throw new Error(
        `a page has ${String(Math.max(size, uncompressed))} bytes, more than the ${String(pageBytes)} that limits.pageBytes allows`,
      )
    this.#decompressed.count += uncompressed
    if (this.#decompressed.count > fileBytes)
      throw new Error(
        `the file has more than the ${String(fileBytes)} bytes that limits.fileBytes allows`,
      )
    const bytes = this.#file.read(this.#position, size)
    this.#position += size
    if (header.crc !== undefined && crc32(bytes) !== header.crc >>> 0)
      throw new Error('a page does not have the checksum that it claims: the file is damaged')
    if (header.type === 'DICTIONARY_PAGE')
      this.#dictionary = readDictionary(bytes, header, this.#decoder, this.#limits)
    else if (header.type !== 'INDEX_PAGE') this.#addRows(bytes, header)
  }

  #addRows(bytes: Uint8Array, header: PageHeader): void {
    const kept = this.#rows.slice(this.#start)
    this.#start = 0
    this.#valuesLeft -= numValuesOf(header, this.#limits)
    const rows = readRows(bytes, header, this.#decoder, this.#dictionary, kept, this.#limits)
    // Columns without levels come as they were decoded, perhaps as a typed array.
    if (rows !== kept) for (const row of rows) kept.push(row)
    this.#rows = kept
  }

  #readHeader(): PageHeader {
    for (let length = headerBytes; ; length *= 16) {
      const left = this.#end - this.#position
      const view = viewOf(this.#file.read(this.#position, Math.min(length, left)))
      try {
        const end = checkThriftStruct(view, 0, mostHeaderValues)
        this.#position += end
        return parquetHeader({ view, offset: 0 })
      } catch (error) {
        if (!(error instanceof ThriftCutShort) || length >= Math.min(left, longestHeader))
          throw error
      }
    }
  }
}
