import { createHash, type Hash } from 'node:crypto'
import { DataError } from '../errors.js'
import {
  type BadCorpusRecord,
  type CorpusFile,
  type CorpusFileOptions,
  mostReported,
  readCorpusFile,
} from './corpus-file.js'
import type { CorpusMemory } from './corpus-memory.js'
import { type PackedBatch, packBatch } from './packed-batch.js'
import { StepStream, type StepStreamOptions } from './step-stream.js'

export type { BadCorpusRecord } from './corpus-file.js'

/** One file of a corpus. */
export interface CorpusSource {
  readonly discipline: string
  readonly path: string
  /** How often its samples are seen for every time a sample of weight 1 is seen. */
  readonly weight: number
}

export interface CorpusOptions extends CorpusFileOptions {
  /** Of files that other corpora were opened from. */
  readonly memory?: CorpusMemory
  /** Samples read so far. */
  readonly onProgress?: (samples: number) => void
}

/** The samples of one file. */
export interface CorpusGroup extends Pick<CorpusFile, 'store' | 'lines' | 'traits'> {
  readonly source: CorpusSource
  /** Index into disciplineNames. */
  readonly discipline: number
}

/** A corpus read, checked and tokenised once; samples are then read in any order. */
export class Corpus {
  readonly groups: readonly CorpusGroup[]
  readonly disciplineNames: readonly string[]
  /** The first few bad records; `numBadRecords` counts all. */
  readonly badRecords: readonly BadCorpusRecord[]
  readonly numBadRecords: number
  /** SHA-256 of the files' bytes and of what decides how they become tokens. */
  readonly fingerprint: string

  /** What is closed with it: not what a memory keeps. */
  readonly #owned: readonly CorpusFile[]

  private constructor(reader: CorpusReader, fingerprint: string) {
    this.groups = reader.groups
    this.disciplineNames = reader.disciplineNames
    this.badRecords = reader.badRecords
    this.numBadRecords = reader.numBadRecords
    this.fingerprint = fingerprint
    this.#owned = reader.owned
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
      await closeAll(reader.owned)
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
    await closeAll(this.#owned)
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close()
  }
}

async function closeAll(files: readonly CorpusFile[]): Promise<void> {
  await Promise.all(files.map(({ store }) => store.close()))
}

class CorpusReader {
  readonly groups: CorpusGroup[] = []
  readonly owned: CorpusFile[] = []
  readonly disciplineNames: string[]
  readonly badRecords: BadCorpusRecord[] = []
  numBadRecords = 0
  readonly #sources: readonly CorpusSource[]
  readonly #options: CorpusOptions
  #numSamples = 0

  constructor(sources: readonly CorpusSource[], options: CorpusOptions) {
    this.#sources = sources
    this.#options = options
    this.disciplineNames = [...new Set(sources.map(({ discipline }) => discipline))]
  }

  async read(): Promise<string> {
    const { tokenizer, maxLength, onTooLong, chatTemplate, labels } = this.#options
    let hash = createHash('sha256')
    const decides = { tokenizer: tokenizer.fingerprint, maxLength, onTooLong, chatTemplate, labels }
    hash.update(JSON.stringify(decides))
    for (const source of this.#sources) {
      hash.update(`\n${source.discipline}\n`)
      const known = await this.#options.memory?.recall(source.path, this.#options, hash)
      if (known) hash = known.hash
      const file = known?.file ?? (await this.#readFile(source.path, hash))
      this.#add(source, file)
    }
    return hash.digest('hex')
  }

  empty(): DataError {
    const [first] = this.badRecords
    const files = this.#sources.map(({ path }) => path).join(', ')
    const why = first ? `; the first: line ${first.line}: ${first.reason}` : ''
    return new DataError(
      `${files}: no usable sample, ${this.numBadRecords} records were left out${why}`,
      { details: { badRecords: this.badRecords } },
    )
  }

  async #readFile(path: string, hash: Hash): Promise<CorpusFile> {
    const { memory, onProgress } = this.#options
    const file = await readCorpusFile(path, this.#options, {
      onBytes: (chunk) => hash.update(chunk),
      onProgress: (samples) => onProgress?.(this.#numSamples + samples),
    })
    if (!memory?.keep(path, this.#options, file)) this.owned.push(file)
    return file
  }

  #add(source: CorpusSource, file: CorpusFile): void {
    const { store, lines, traits, badRecords, numBadRecords } = file
    const discipline = this.disciplineNames.indexOf(source.discipline)
    this.groups.push({ source, discipline, store, lines, traits })
    this.#numSamples += store.size
    this.numBadRecords += numBadRecords
    this.badRecords.push(...badRecords.slice(0, mostReported - this.badRecords.length))
  }
}
