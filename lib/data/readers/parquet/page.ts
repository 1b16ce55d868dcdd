import * as zlib from 'node:zlib'
import { compressors, decompressZstd } from 'hyparquet-compressors'
import { assembleLists } from 'hyparquet/src/assemble.js'
import { convert } from 'hyparquet/src/convert.js'
import { decompressPage } from 'hyparquet/src/datapage.js'
import { deltaBinaryUnpack, deltaByteArray, deltaLengthByteArray } from 'hyparquet/src/delta.js'
import { byteStreamSplit, readRleBitPackedHybrid } from 'hyparquet/src/encoding.js'
import { readPlain } from 'hyparquet/src/plain.js'
import { getMaxDefinitionLevel, getMaxRepetitionLevel } from 'hyparquet/src/schema.js'
import { readVarInt } from 'hyparquet/src/thrift.js'
import type {
  ColumnDecoder,
  Compressors,
  DataReader,
  DecodedArray,
  Encoding,
  PageHeader,
} from 'hyparquet/src/types.js'
import type { ReaderLimits } from '../limits.js'
import { viewOf } from './file-bytes.js'

// All of them write at most the given length; Node's own where it has them.
const boundedCompressors: Compressors = {
  ...compressors,
  GZIP: (input, length) => zlib.gunzipSync(input, { maxOutputLength: Math.max(1, length) }),
  BROTLI: (input, length) =>
    zlib.brotliDecompressSync(input, { maxOutputLength: Math.max(1, length) }),
  ZSTD: zstd,
}

function zstd(input: Uint8Array, length: number): Uint8Array {
  // Node has it since 22.15 and 23.8.
  if ('zstdDecompressSync' in zlib)
    return (zlib.zstdDecompressSync as typeof zlib.gunzipSync)(input, {
      maxOutputLength: Math.max(1, length),
    })
  return decompressZstd(input, new Uint8Array(length))
}

/** Levels and values of a data page, before they are put together as rows. */
interface DecodedPage {
  definitionLevels: number[] | undefined
  repetitionLevels: number[]
  values: DecodedArray
}

/** What a page has to say before its values. */
interface PageLayout {
  numValues: number
  encoding: Encoding
  levelEncodings: readonly Encoding[]
  /** Byte lengths of the levels, which version 2 keeps uncompressed; version 1 says them within. */
  levelBytes: { repetition: number; definition: number } | undefined
}

export function readDictionary(
  compressed: Uint8Array,
  header: PageHeader,
  decoder: ColumnDecoder,
  limits: ReaderLimits,
): DecodedArray {
  const { num_values: numValues } = header.dictionary_page_header ?? {}
  const count = checkedCount(numValues, limits)
  const page = decompress(compressed, header.uncompressed_page_size, decoder)
  const reader = { view: viewOf(page), offset: 0 }
  return convert(readPlain(reader, decoder.type, count, decoder.element.type_length), decoder)
}

/**
 * The rows of a data page, after `previous`, whose last row it may go on with.
 *
 * hyparquet's decoders believe what a page says of itself: a run of 2^30 values makes an array of
 * them, and one array that does not fit ends the process even from a worker. So counts, runs and
 * prefixes are checked before they are decoded.
 */
export function readRows(
  compressed: Uint8Array,
  header: PageHeader,
  decoder: ColumnDecoder,
  dictionary: DecodedArray | undefined,
  previous: unknown[],
  limits: ReaderLimits,
): DecodedArray {
  const layout = layoutOf(header, limits)
  const page = decompressData(compressed, header, layout, decoder)
  const { definitionLevels, repetitionLevels, values } = decodeData(
    { view: viewOf(page), offset: 0 },
    layout,
    decoder,
    dictionary,
    limits,
  )
  if (layout.numValues === 0) return previous
  return assembleLists(previous, definitionLevels, repetitionLevels, values, decoder.schemaPath)
}

/** Number of values that a data page's header claims. */
export function numValuesOf(header: PageHeader, limits: ReaderLimits): number {
  return layoutOf(header, limits).numValues
}

function layoutOf(header: PageHeader, limits: ReaderLimits): PageLayout {
  const { data_page_header: v1, data_page_header_v2: v2 } = header
  if (header.type === 'DATA_PAGE' && v1)
    return {
      numValues: checkedCount(v1.num_values, limits),
      encoding: v1.encoding,
      levelEncodings: [v1.repetition_level_encoding, v1.definition_level_encoding],
      levelBytes: undefined,
    }
  if (header.type === 'DATA_PAGE_V2' && v2) {
    const repetition = v2.repetition_levels_byte_length
    const definition = v2.definition_levels_byte_length
    if (
      !(repetition >= 0) ||
      !(definition >= 0) ||
      repetition + definition > Math.min(header.compressed_page_size, header.uncompressed_page_size)
    )
      throw new Error('the levels of a page do not fit in it')
    return {
      numValues: checkedCount(v2.num_values, limits),
      encoding: v2.encoding,
      levelEncodings: [],
      levelBytes: { repetition, definition },
    }
  }
  throw new Error('a page has no header of its type')
}

/** The page as it was before compression: levels, then values. */
function decompressData(
  compressed: Uint8Array,
  header: PageHeader,
  { levelBytes }: PageLayout,
  decoder: ColumnDecoder,
): Uint8Array {
  const { uncompressed_page_size: length, data_page_header_v2: v2 } = header
  if (!levelBytes) return decompress(compressed, length, decoder)
  if (v2?.is_compressed === false) return compressed
  const levels = levelBytes.repetition + levelBytes.definition
  const page = new Uint8Array(length)
  page.set(compressed.subarray(0, levels))
  page.set(decompress(compressed.subarray(levels), length - levels, decoder), levels)
  return page
}

function decompress(compressed: Uint8Array, length: number, { codec }: ColumnDecoder): Uint8Array {
  // The dictionary of a column of nulls; not every codec knows how to be empty.
  if (length === 0) return new Uint8Array(0)
  return decompressPage(compressed, length, codec, boundedCompressors)
}

function decodeData(
  reader: DataReader,
  layout: PageLayout,
  decoder: ColumnDecoder,
  dictionary: DecodedArray | undefined,
  limits: ReaderLimits,
): DecodedPage {
  const { numValues, levelBytes } = layout
  const maxDefinition = getMaxDefinitionLevel(decoder.schemaPath)
  const maxRepetition = getMaxRepetitionLevel(decoder.schemaPath)
  const levels = (max: number, bytes: number | undefined): number[] => {
    if (max === 0) {
      reader.offset += bytes ?? 0
      return []
    }
    if (layout.levelEncodings.includes('BIT_PACKED'))
      throw new Error('levels in the deprecated encoding BIT_PACKED are not read')
    return readRuns(reader, 32 - Math.clz32(max), numValues, bytes ?? takeLength(reader))
  }
  const repetitionLevels = levels(maxRepetition, levelBytes?.repetition)
  const definitionLevels = levels(maxDefinition, levelBytes?.definition)
  let numPresent = numValues
  for (const level of definitionLevels) if (level !== maxDefinition) --numPresent
  return {
    // Without a null the levels say nothing.
    definitionLevels: numPresent < numValues ? definitionLevels : undefined,
    repetitionLevels,
    values:
      numPresent === 0
        ? []
        : decodeValues(reader, numPresent, layout.encoding, decoder, dictionary, limits),
  }
}

function decodeValues(
  reader: DataReader,
  count: number,
  encoding: Encoding,
  decoder: ColumnDecoder,
  dictionary: DecodedArray | undefined,
  limits: ReaderLimits,
): DecodedArray {
  const { type } = decoder
  const typeLength = decoder.element.type_length
  switch (encoding) {
    case 'PLAIN':
      return convert(readPlain(reader, type, count, typeLength), decoder)
    case 'PLAIN_DICTIONARY':
    case 'RLE_DICTIONARY': {
      if (!dictionary) throw new Error('a page needs a dictionary that the column does not have')
      const width = reader.view.getUint8(reader.offset++)
      const indices =
        width === 0
          ? new Uint8Array(count)
          : readRuns(reader, width, count, reader.view.byteLength - reader.offset)
      const values = new Array<unknown>(count)
      for (let i = 0; i < count; ++i) {
        const index = indices[i]
        if (!(index >= 0 && index < dictionary.length))
          throw new Error(
            `a page has entry ${String(index)} of a dictionary of ${String(dictionary.length)}`,
          )
        values[i] = dictionary[index]
      }
      return values
    }
    case 'RLE':
      if (type !== 'BOOLEAN') break
      return readRuns(reader, 1, count, takeLength(reader)).map((bit) => bit === 1)
    case 'DELTA_BINARY_PACKED': {
      if (type !== 'INT32' && type !== 'INT64') break
      return convert(readDeltas(reader, count, type === 'INT64'), decoder)
    }
    case 'DELTA_LENGTH_BYTE_ARRAY': {
      checkDeltas(reader)
      const values = new Array<Uint8Array>(count)
      deltaLengthByteArray(reader, count, values)
      return convert(values, decoder)
    }
    case 'DELTA_BYTE_ARRAY': {
      checkPrefixes(reader, count, limits)
      const values = new Array<Uint8Array>(count)
      deltaByteArray(reader, count, values)
      return convert(values, decoder)
    }
    case 'BYTE_STREAM_SPLIT':
      if (count * (typeLength ?? 8) > limits.pageBytes)
        throw new Error('a page has more values than bytes')
      return convert(byteStreamSplit(reader, count, type, typeLength), decoder)
    default:
  }
  throw new Error(`values of type ${type} in encoding ${String(encoding)} are not read`)
}

/** The hybrid of runs and bit-packed groups, in the next `length` bytes. */
function readRuns(reader: DataReader, width: number, count: number, length: number): number[] {
  const end = reader.offset + length
  if (end > reader.view.byteLength) throw new Error('the levels of a page do not fit in it')
  if (width > 32) throw new Error(`a page has numbers of ${String(width)} bits`)
  checkRuns({ view: reader.view, offset: reader.offset }, width, count)
  const output = new Array<number>(count)
  if (count > 0) readRleBitPackedHybrid(reader, width, output, length)
  reader.offset = end
  return output
}

/** Some writers fill up the last group. */
const groupSlack = 1024

function checkRuns(reader: DataReader, width: number, count: number): void {
  for (let seen = 0; seen < count;) {
    const header = readVarInt(reader) >>> 0
    const packed = (header & 1) === 1
    const run = packed ? (header >>> 1) * 8 : header >>> 1
    if (run > count - seen + (packed ? groupSlack : 0))
      throw new Error(
        `a page has a run of ${String(run)} values where ${String(count - seen)} are left`,
      )
    seen += run
    reader.offset += packed ? (run / 8) * width : (width + 7) >> 3
  }
}

function readDeltas(reader: DataReader, count: number, wide: boolean): Int32Array | BigInt64Array {
  checkDeltas(reader)
  const output = wide ? new BigInt64Array(count) : new Int32Array(count)
  deltaBinaryUnpack(reader, count, output)
  return output
}

/** The decoder steps by these sizes, backwards too, and allocates by them. */
function checkDeltas({ view, offset }: DataReader): void {
  const reader = { view, offset }
  const blockSize = readVarInt(reader)
  const numMiniblocks = readVarInt(reader)
  if (!(numMiniblocks > 0 && blockSize <= 2 ** 20 && (blockSize / numMiniblocks) % 8 === 0))
    throw new Error('a page has differences in blocks of an impossible size')
}

/** Each value repeats the beginning of the one before: a megabyte a million times, if it says so. */
function checkPrefixes({ view, offset }: DataReader, count: number, limits: ReaderLimits): void {
  const reader = { view, offset }
  let bytes = 0
  for (const lengths of [readDeltas(reader, count, false), readDeltas(reader, count, false)])
    for (const length of lengths as Int32Array) {
      bytes += length
      if (length < 0 || bytes > limits.pageBytes)
        throw new Error(
          `a page has values of more than the ${String(limits.pageBytes)} bytes that limits.pageBytes allows`,
        )
    }
}

function takeLength(reader: DataReader): number {
  const length = reader.view.getUint32(reader.offset, true)
  reader.offset += 4
  return length
}

function checkedCount(count: number | undefined, limits: ReaderLimits): number {
  if (count === undefined || !(count >= 0)) throw new Error('a page has no number of values')
  if (count > limits.pageValues)
    throw new Error(
      `a page has ${String(count)} values, more than the ${String(limits.pageValues)} that limits.pageValues allows`,
    )
  return count
}
