import { ArgumentError, DataError } from '../../errors.js'
import { readBytes } from './byte-stream.js'
import type { Compression } from './byte-stream.js'
import { readCsv } from './csv.js'
import { readJsonLines } from './jsonl.js'
import { Reading } from './reading.js'
import type { BadRecord, ReadOptions, ReadRecord } from './reading.js'

export type { ReaderLimits } from './limits.js'
export { defaultReaderLimits } from './limits.js'
export type { BadRecord, ReadOptions, ReadRecord } from './reading.js'

type Format = 'jsonl' | 'csv' | 'tsv'

const formats: Readonly<Record<string, Format>> = {
  jsonl: 'jsonl',
  ndjson: 'jsonl',
  json: 'jsonl',
  csv: 'csv',
  tsv: 'tsv',
}
const compressions: Readonly<Record<string, Compression>> = { gz: 'gzip', zst: 'zstd' }

/**
 * All records of a file in order. The format is that of the name: `.jsonl`, `.ndjson` and `.json`
 * hold one JSON object a line; `.csv` and `.tsv` have a header, and values that are strings; `.gz` or
 * `.zst` may follow.
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
  const { format, compression } = formatOf(path)
  const bytes = readBytes(reading, compression)
  const records =
    format === 'jsonl'
      ? readJsonLines(reading, bytes)
      : readCsv(reading, bytes, format === 'csv' ? ',' : '\t')
  for await (const record of records) {
    yield record
    reading.throwIfAborted()
    if (reading.turnDue) await reading.turn()
  }
}

function formatOf(path: string): { format: Format; compression: Compression } {
  const endings = path.toLowerCase().split(/[/\\]/).at(-1)!.split('.').slice(1)
  const last = endings.at(-1) ?? ''
  const compressed = Object.hasOwn(compressions, last)
  const ending = (compressed ? endings.at(-2) : last) ?? ''
  if (!Object.hasOwn(formats, ending))
    throw new DataError(
      `${path}: the name must end in ${Object.keys(formats)
        .map((name) => `.${name}`)
        .join(', ')}, or one of these followed by .gz or .zst.`,
      { details: { file: path, reason: 'unknown ending' } },
    )
  return { format: formats[ending], compression: compressed ? compressions[last] : 'none' }
}
