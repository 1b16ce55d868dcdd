import { createHash, type Hash } from 'node:crypto'
import { DataError } from '../errors.js'
import type { Tokenizer } from '../text/index.js'
import { type PackedBatch, packBatch } from './packed-batch.js'
import { readRecords } from './readers/index.js'
import { type CorpusRecord, parseRecord } from './records.js'
import { StepStream, type StepStreamOptions } from './step-stream.js'
import { TokenStore } from './token-store.js'
import { tokenizeRecords, type TokenizeOptions } from './tokenize.js'
import { SampleTraits } from './traits.js'

/** One file of a corpus. */
export interface CorpusSource {
  readonly discipline: string
  readonly path: string
  /** How often its samples are seen for every time a sample of weight 1 is seen. */
  readonly weight: number
}

export interface CorpusOptions extends TokenizeOptions {
  readonly tokenizer: Tokenizer
  /** Longest sample in tokens, the end-of-sequence token included. */
  readonly maxLength: number
  readonly onTooLong: 'skip' | 'truncate'
  readonly onBadRecord: 'skip' | 'error'
  /** Keep what duplicates are recognised by, 20 bytes a sample; default false. */
  readonly traits?: boolean
  readonly signal?: AbortSignal
  /** Samples read so far. */
  readonly onProgress?: (samples: number) => void
}

/** A record that cannot be used. */
export interface BadCorpusRecord {
  readonly file: string
  /** From 1; the row of a Parquet file. */
  readonly line: number
  readonly reason: string
}

/** The samples of one file. */
export interface CorpusGroup {
  readonly source: CorpusSource
  /** Index into disciplineNames. */
  readonly discipline: number
  readonly store: TokenStore
  /** Line of each sample, for messages. */
  readonly lines: readonly number[]
  /** Null where the corpus was opened without them. */
  readonly traits: SampleTraits | null
}

const sliceRecords = 256
const sliceCharacters = 1 << 20
const mostReported = 20

/** A corpus read, checked and tokenised once; samples are then read in any order. */
export class Corpus {
  readonly groups: readonly CorpusGroup[]
  readonly disciplineNames: readonly string[]
  /** The first few bad records; `numBadRecords` counts all. */
  readonly badRecords: readonly BadCorpusRecord[]
  readonly numBadRecords: number
  /** SHA-256 of the files' bytes and of what decides how they become tokens. */
  readonly fingerprint: string

  private constructor(reader: CorpusReader, fingerprint: string) {
    this.groups = reader.groups
    this.disciplineNames = reader.disciplineNames
    this.badRecords = reader.badRecords
    this.numBadRecords = reader.numBadRecords
    this.fingerprint = fingerprint
  }

  /**
   * Reads every file once.
   *
   * @throws DataError for the first bad record if `onBadRecord` is 'error', a file that cannot be read, or a corpus
   *   without a usable sample
   */
  static async open(sources: readonly CorpusSource[], options: CorpusOptions): Promise<Corpus> {
    const reader = new CorpusReader(sources, options)
    try {
      const fingerprint = await reader.read()
      if (reader.groups.every(({ store }) => store.size === 0)) throw reader.empty()
      return new Corpus(reader, fingerprint)
    } catch (error) {
      await closeAll(reader.groups)
      throw error
    }
  }

  get numSamples(): number {
    return this.groups.reduce((sum, { store }) => sum + store.size, 0)
  }

  get numTokens(): number {
    return this.groups.reduce((sum, { store }) => sum + store.numTokens, 0)
  }

  /** The micro-batches of a training run, step by step, resumable anywhere. */
  steps(options: StepStreamOptions): StepStream {
    return new StepStream(this.groups, this.disciplineNames, options)
  }

  /** Every sample once, in the order of the files, packed into batches of at most `maxTokens` rows (or one sample). */
  async *batches(maxTokens = 4096): AsyncGenerator<PackedBatch> {
    let samples: Parameters<typeof packBatch>[0][number][] = []
    let numTokens = 0
    let sampleIndex = 0
    for (const { store, discipline } of this.groups)
      for (let i = 0; i < store.size; i++) {
        if (samples.length > 0 && numTokens + store.length(i) > maxTokens) {
          yield packBatch(samples, this.disciplineNames)
          samples = []
          numTokens = 0
        }
        samples.push({
          example: { ...(await store.read(i)), discipline },
          sampleIndex: sampleIndex++,
        })
        numTokens += store.length(i)
      }
    if (samples.length > 0) yield packBatch(samples, this.disciplineNames)
  }

  /** Frees the temporary file of a large corpus. */
  async close(): Promise<void> {
    await closeAll(this.groups)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

async function closeAll(groups: readonly CorpusGroup[]): Promise<void> {
  await Promise.all(groups.map(({ store }) => store.close()))
}

class CorpusReader {
  readonly groups: (CorpusGroup & { lines: number[] })[]
  readonly disciplineNames: string[]
  readonly badRecords: BadCorpusRecord[] = []
  numBadRecords = 0
  readonly #options: CorpusOptions
  #numSamples = 0

  constructor(sources: readonly CorpusSource[], options: CorpusOptions) {
    this.#options = options
    this.disciplineNames = [...new Set(sources.map(({ discipline }) => discipline))]
    this.groups = sources.map((source) => ({
      source,
      discipline: this.disciplineNames.indexOf(source.discipline),
      store: new TokenStore(),
      lines: [],
      traits: options.traits ? new SampleTraits() : null,
    }))
  }

  async read(): Promise<string> {
    const { tokenizer, maxLength, onTooLong, chatTemplate, labels } = this.#options
    const hash = createHash('sha256')
    const decides = { tokenizer: tokenizer.fingerprint, maxLength, onTooLong, chatTemplate, labels }
    hash.update(JSON.stringify(decides))
    for (const group of this.groups) {
      hash.update(`\n${group.source.discipline}\n`)
      await this.#readFile(group, hash)
    }
    return hash.digest('hex')
  }

  empty(): DataError {
    const [first] = this.badRecords
    const files = this.groups.map(({ source }) => source.path).join(', ')
    const why = first ? `; the first: line ${first.line}: ${first.reason}` : ''
    return new DataError(
      `${files}: no usable sample, ${this.numBadRecords} records were left out${why}`,
      { details: { badRecords: this.badRecords } },
    )
  }

  async #readFile(group: CorpusGroup & { lines: number[] }, hash: Hash): Promise<void> {
    const { path } = group.source
    const { signal } = this.#options
    let slice: { record: CorpusRecord; line: number }[] = []
    let characters = 0
    const read = readRecords(path, { signal, onBytes: (chunk) => hash.update(chunk) })
    for await (const one of read) {
      if ('reason' in one) {
        this.#bad(path, one.line, one.reason)
        continue
      }
      const record = parseRecord(one.record)
      if ('problem' in record) {
        this.#bad(path, one.line, record.problem)
        continue
      }
      slice.push({ record, line: one.line })
      characters += charactersOf(record)
      if (slice.length < sliceRecords && characters < sliceCharacters) continue
      await this.#tokenize(group, slice)
      slice = []
      characters = 0
    }
    await this.#tokenize(group, slice)
  }

  async #tokenize(
    group: CorpusGroup & { lines: number[] },
    slice: readonly { record: CorpusRecord; line: number }[],
  ): Promise<void> {
    const { tokenizer, maxLength, onTooLong, signal } = this.#options
    const records = slice.map(({ record }) => record)
    const tokenized = await tokenizeRecords(tokenizer, records, this.#options, signal)
    for (const [i, result] of tokenized.entries()) {
      const { line } = slice[i]
      const { path } = group.source
      if ('problem' in result) {
        this.#bad(path, line, result.problem)
        continue
      }
      let { inputIds, labelMask } = result
      if (inputIds.length > maxLength) {
        if (onTooLong === 'skip') {
          this.#bad(path, line, `it has ${inputIds.length} tokens, ${maxLength} are allowed`)
          continue
        }
        inputIds = inputIds.slice(0, maxLength)
        labelMask = labelMask.slice(0, maxLength)
        if (!labelMask.includes(1)) {
          this.#bad(path, line, `none of its first ${maxLength} tokens is trained`)
          continue
        }
      }
      await group.store.add({ inputIds, labelMask })
      group.traits?.add(records[i], labelMask)
      group.lines.push(line)
      this.#numSamples++
    }
    this.#options.onProgress?.(this.#numSamples)
  }

  #bad(file: string, line: number, reason: string): void {
    if (this.#options.onBadRecord === 'error')
      throw new DataError(`${file}:${line}: ${reason}`, { details: { file, line, reason } })
    this.numBadRecords++
    if (this.badRecords.length < mostReported) this.badRecords.push({ file, line, reason })
  }
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
