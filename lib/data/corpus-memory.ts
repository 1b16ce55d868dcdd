import { createHash, type Hash } from 'node:crypto'
import type { CorpusFile, CorpusFileOptions } from './corpus-file.js'
import { readFileBytes } from './readers/byte-stream.js'
import { Reading } from './readers/reading.js'

/** Tokens of all files that are remembered; others are read each time. Stores of so few have no temporary file. */
const mostTokens = 16 << 20

/**
 * Files that corpora were opened from, so that many runs on the same files parse and tokenise them once. A file is taken
 * again while its bytes are what they were. What it keeps it owns: a corpus does not close it.
 */
export class CorpusMemory {
  readonly #files = new Map<string, CorpusFile>()
  #numTokens = 0

  /** The file as it was read before in the same way, if it still has the same bytes; `hash` has seen them then. */
  async recall(
    path: string,
    options: CorpusFileOptions,
    before: Hash,
  ): Promise<{ file: CorpusFile; hash: Hash } | null> {
    const file = this.#files.get(keyOf(path, options))
    if (file === undefined) return null
    const hash = before.copy()
    const own = createHash('sha256')
    const { signal } = options
    for await (const chunk of readFileBytes(new Reading(path, { signal }))) {
      own.update(chunk)
      hash.update(chunk)
    }
    return own.digest('hex') === file.digest ? { file, hash } : null
  }

  /** Whether it has kept a file that was just read. */
  keep(path: string, options: CorpusFileOptions, file: CorpusFile): boolean {
    const key = keyOf(path, options)
    const before = this.#files.get(key)?.store.numTokens ?? 0
    const after = this.#numTokens - before + file.store.numTokens
    if (after > mostTokens) return false
    this.#files.set(key, file)
    this.#numTokens = after
    return true
  }
}

/** The path, and what decides how a file's bytes become samples. */
function keyOf(path: string, options: CorpusFileOptions): string {
  const { tokenizer, maxLength, onTooLong, onBadRecord, traits = false } = options
  const { chatTemplate, labels } = options
  return JSON.stringify([
    path,
    tokenizer.fingerprint,
    maxLength,
    onTooLong,
    onBadRecord,
    chatTemplate,
    labels,
    traits,
  ])
}
