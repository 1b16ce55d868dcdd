import { createHash } from 'node:crypto'
import { DataError } from '../errors.js'
import type { Tokenizer } from '../text/index.js'
import { readRecords } from './readers/index.js'
import { type CorpusRecord, parseRecord } from './records.js'
import { TokenStore } from './token-store.js'
import { tokenizeRecords, type TokenizeOptions } from './tokenize.js'
import { SampleTraits } from './traits.js'

export interface CorpusFileOptions extends TokenizeOptions {
  readonly tokenizer: Tokenizer
  /** Longest sample in tokens, the end-of-sequence token included. */
  readonly maxLength: number
  readonly onTooLong: 'skip' | 'truncate'
  readonly onBadRecord: 'skip' | 'error'
  /** Keep what duplicates are recognised by, 20 bytes a sample; default false. */
  readonly traits?: boolean
  readonly signal?: AbortSignal
}

/** A record that cannot be used. */
export interface BadCorpusRecord {
  readonly file: string
  /** From 1; the row of a Parquet file. */
  readonly line: number
  readonly reason: string
}

/** What a file of a corpus holds, whatever corpus it is of. */
export interface CorpusFile {
  /** SHA-256 of the file's bytes. */
  readonly digest: string
  readonly store: TokenStore
  /** Line of each sample, for messages. */
  readonly lines: readonly number[]
  /** Null where they were not asked for. */
  readonly traits: SampleTraits | null
  /** The first few; `numBadRecords` counts all. */
  readonly badRecords: readonly BadCorpusRecord[]
  readonly numBadRecords: number
}

export const mostReported = 20
const sliceRecords = 256
const sliceCharacters = 1 << 20

interface Listener {
  readonly onBytes: (chunk: Uint8Array) => void
  /** Samples of the file read so far. */
  readonly onProgress: (samples: number) => void
}

/**
 * Reads, checks and tokenises a file. The caller closes the store.
 *
 * @throws DataError for the first bad record if `onBadRecord` is 'error', or a file that cannot be read
 */
export async function readCorpusFile(
  path: string,
  options: CorpusFileOptions,
  { onBytes, onProgress }: Listener,
): Promise<CorpusFile> {
  const reader = new FileReader(path, options)
  const { signal } = options
  const hash = createHash('sha256')
  const listen = (chunk: Uint8Array) => {
    hash.update(chunk)
    onBytes(chunk)
  }
  let slice: NumberedRecord[] = []
  let characters = 0
  try {
    for await (const one of readRecords(path, { signal, onBytes: listen })) {
      if ('reason' in one) {
        reader.refuse(one.line, one.reason)
        continue
      }
      const record = parseRecord(one.record)
      if ('problem' in record) {
        reader.refuse(one.line, record.problem)
        continue
      }
      slice.push({ record, line: one.line })
      characters += charactersOf(record)
      if (slice.length < sliceRecords && characters < sliceCharacters) continue
      await reader.tokenize(slice)
      onProgress(reader.store.size)
      slice = []
      characters = 0
    }
    await reader.tokenize(slice)
    onProgress(reader.store.size)
    return reader.finish(hash.digest('hex'))
  } catch (error) {
    await reader.store.close()
    throw error
  }
}

interface NumberedRecord {
  readonly record: CorpusRecord
  readonly line: number
}

class FileReader {
  readonly store = new TokenStore()
  readonly #path: string
  readonly #options: CorpusFileOptions
  readonly #lines: number[] = []
  readonly #traits: SampleTraits | null
  readonly #badRecords: BadCorpusRecord[] = []
  #numBadRecords = 0

  constructor(path: string, options: CorpusFileOptions) {
    this.#path = path
    this.#options = options
    this.#traits = options.traits ? new SampleTraits() : null
  }

  async tokenize(slice: readonly NumberedRecord[]): Promise<void> {
    const { tokenizer, maxLength, onTooLong, signal } = this.#options
    const records = slice.map(({ record }) => record)
    const tokenized = await tokenizeRecords(tokenizer, records, this.#options, signal)
    for (const [i, result] of tokenized.entries()) {
      const { line } = slice[i]
      if ('problem' in result) {
        this.refuse(line, result.problem)
        continue
      }
      let { inputIds, labelMask } = result
      if (inputIds.length > maxLength) {
        if (onTooLong === 'skip') {
          this.refuse(line, `it has ${inputIds.length} tokens, ${maxLength} are allowed`)
          continue
        }
        inputIds = inputIds.slice(0, maxLength)
        labelMask = labelMask.slice(0, maxLength)
        if (!labelMask.includes(1)) {
          this.refuse(line, `none of its first ${maxLength} tokens is trained`)
          continue
        }
      }
      await this.store.add({ inputIds, labelMask })
      this.#traits?.add(records[i], labelMask)
      this.#lines.push(line)
    }
  }

  refuse(line: number, reason: string): void {
    const bad = { file: this.#path, line, reason }
    if (this.#options.onBadRecord === 'error') throw badRecordError(bad)
    this.#numBadRecords++
    if (this.#badRecords.length < mostReported) this.#badRecords.push(bad)
  }

  finish(digest: string): CorpusFile {
    return {
      digest,
      store: this.store,
      lines: this.#lines,
      traits: this.#traits,
      badRecords: this.#badRecords,
      numBadRecords: this.#numBadRecords,
    }
  }
}

function badRecordError({ file, line, reason }: BadCorpusRecord): DataError {
  return new DataError(`${file}:${line}: ${reason}`, { details: { file, line, reason } })
}

function charactersOf(record: CorpusRecord): number {
  switch (record.kind) {
    case 'text':
      return record.text.length
    case 'completion':
      return record.prompt.length + record.completion.length
    case 'chat':
      return record.messages.reduce((sum, { content }) => sum + (content?.length ?? 0), 0)
    case 'choice':
      return record.question.length
  }
}
