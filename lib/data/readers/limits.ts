import { ArgumentError } from '../../errors.js'

/** What one file may demand of a reader. Passing a limit is an error that names it, never a crash. */
export interface ReaderLimits {
  /** Bytes of one record: a line of JSONL, a record of CSV; characters of a row of Parquet. */
  readonly lineBytes: number
  /** Bytes of one file, decompressed. */
  readonly fileBytes: number
  /** Bytes that one compressed byte may become, on average over a gzip file's first 16 MiB and more. */
  readonly compressionRatio: number
  /** Values in one record, nested ones included. */
  readonly recordValues: number
  /** Keys in one record, nested ones included; columns of a CSV or Parquet file. */
  readonly recordKeys: number
  /** Lists and objects within one another in a record. */
  readonly recordDepth: number
  /** Bytes of one Parquet page, decompressed. */
  readonly pageBytes: number
  /** Values in one Parquet page. */
  readonly pageValues: number
  /** Bytes of a Parquet file's footer, which describes its row groups. */
  readonly footerBytes: number
  /** Milliseconds that decoding a batch of Parquet rows may take: at most a page of each column. */
  readonly batchMilliseconds: number
}

export const defaultReaderLimits: ReaderLimits = {
  lineBytes: 2 ** 20,
  fileBytes: 2 ** 36,
  compressionRatio: 512,
  recordValues: 2 ** 16,
  recordKeys: 2 ** 14,
  recordDepth: 64,
  pageBytes: 2 ** 26,
  pageValues: 2 ** 22,
  footerBytes: 2 ** 25,
  batchMilliseconds: 30_000,
}

export function readerLimits(given: Partial<ReaderLimits> = {}): ReaderLimits {
  const limits: Record<keyof ReaderLimits, number> = { ...defaultReaderLimits }
  for (const [name, value] of Object.entries(given) as [string, unknown][]) {
    if (value === undefined) continue
    if (!Object.hasOwn(limits, name))
      throw new ArgumentError(
        `limits has no ${JSON.stringify(name.slice(0, 80))}; it may have ${Object.keys(limits).join(', ')}.`,
      )
    if (!Number.isSafeInteger(value) || (value as number) < 1)
      throw new ArgumentError(
        `limits.${name} must be a whole number above 0, not ${typeof value === 'object' ? 'an object' : String(value)}.`,
      )
    limits[name as keyof ReaderLimits] = value as number
  }
  return limits
}
