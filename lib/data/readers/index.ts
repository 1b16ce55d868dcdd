import { ArgumentError, DataError } from '../../errors.js'
import { readBytes } from './byte-stream.js'
import type { Compression } from './byte-stream.js'
import { readJsonLines } from './jsonl.js'
import { Reading } from './reading.js'
import type { BadRecord, ReadOptions, ReadRecord } from './reading.js'

export type { ReaderLimits } from './limits.js'
export { defaultReaderLimits } from './limits.js'
export type { BadRecord, ReadOptions, ReadRecord } from './reading.js'

type Format = 'jsonl' | 'csv' | 'tsv' | 'parquet'

const formats: Readonly<Record<string, Format>> = {
  jsonl: 'jsonl',
  ndjson: 'jsonl',
  json: 'jsonl',
  csv: 'csv',
  tsv: 'tsv',
  parquet: 'parquet',
}
const compressions: Readonly<Record<string, Compression>> = { gz: 'gzip', zst: 'zstd' }

/**
 * All records of a file in order. The format is that of the name: `.jsonl`, `.ndjson` and `.json`
 * hold one JSON object a line; `.csv` and `.tsv` have a header, and values that are strings; after
 * these may follow `.gz` or `.zst`. In `.parquet`, lists and structs become arrays and objects.
 *
 * A record that cannot be used is yielded with its line and the reason, and reading goes on. Memory
 * is bounded by `limits`, whatever the file's size.
 *
 * @throws DataError when reading cannot go on: the file cannot be read, its name has no known
 *   ending, its compressed data is damaged, or it passes a limit that is not of one record.
 * @throws AbortedError once `signal` is aborted.
 */
export async function* readRecords(
  path: string,
  options: ReadOptions = {},
): AsyncGenerator<ReadRecord | BadRecord> {
  if (typeof path !== 'string' || path === '' || path.includes('\0'))
    throw new ArgumentError('path must be the path of a file.')
  const reading = new Reading(path, options)
  for await (const record of await openRecords(reading)) {
    yield record
    reading.throwIfAborted()
    if (reading.turnDue) await reading.turn()
  }
}

/** Each format's library is loaded with its first file. */
async function openRecords(reading: Reading): Promise<AsyncGenerator<ReadRecord | BadRecord>> {
  const { format, compression } = formatOf(reading.path)
  switch (format) {
    case 'jsonl':
      return readJsonLines(reading, readBytes(reading, compression))
    case 'csv':
    case 'tsv': {
      const { readCsv } = await import('./csv.js')
      return readCsv(reading, readBytes(reading, compression), format === 'csv' ? ',' : '\t')
    }
    case 'parquet':
      return (await import('./parquet/index.js')).readParquet(reading)
  }
}

function formatOf(path: string): { format: Format; compression: Compression } {
  const endings = path.toLowerCase().split(/[/\\]/).at(-1)!.split('.').slice(1)
  const last = endings.at(-1) ?? ''
  const compressed = Object.hasOwn(compressions, last)
  const ending = (compressed ? endings.at(-2) : last) ?? ''
  if (compressed && ending === 'parquet')
    throw new DataError(
      `${path}: a Parquet file is compressed within; decompress the file and leave out .${last}.`,
      { details: { file: path, reason: 'a Parquet file that is compressed as a whole' } },
    )
  if (!Object.hasOwn(formats, ending))
    throw new DataError(
      `${path}: the name must end in ${Object.keys(formats)
        .map((name) => `.${name}`)
        .join(', ')}; all but .parquet may be followed by .gz or .zst.`,
      { details: { file: path, reason: 'unknown ending' } },
    )
  return { format: formats[ending], compression: compressed ? compressions[last] : 'none' }
}
