import { setImmediate } from 'node:timers/promises'
import { AbortedError, DataError } from '../../errors.js'
import { readerLimits } from './limits.js'
import type { ReaderLimits } from './limits.js'

export interface ReadRecord {
  readonly record: Readonly<Record<string, unknown>>
  /** From 1: the line it begins on (JSONL, CSV), or the row (Parquet). */
  readonly line: number
}

export interface BadRecord {
  readonly line: number
  readonly reason: string
}

export interface ReadOptions {
  signal?: AbortSignal
  limits?: Partial<ReaderLimits>
  /**
   * Called with the bytes of the file as they lie on disk, all of them and in order when a JSONL or
   * CSV file is read to its end. A Parquet file is passed whole before its first record.
   */
  onBytes?: (chunk: Uint8Array) => void
}

const turnMs = 3

/** One reading of one file: its limits, and how far it has come. */
export class Reading {
  readonly path: string
  readonly limits: ReaderLimits
  readonly signal: AbortSignal | undefined
  readonly onBytes: ((chunk: Uint8Array) => void) | undefined
  /** Line that is being read, from 1. */
  line = 1
  #turn = performance.now()

  constructor(path: string, options: ReadOptions) {
    this.path = path
    this.limits = readerLimits(options.limits)
    this.signal = options.signal
    this.onBytes = options.onBytes
  }

  /** The error that ends this reading. `reason` begins in lower case and has no full stop. */
  error(reason: string, cause?: unknown): DataError {
    return new DataError(`${this.path}, line ${String(this.line)}: ${reason}.`, {
      details: { file: this.path, line: this.line, reason },
      ...(cause === undefined ? {} : { cause }),
    })
  }

  /** Whether this thread has been busy long enough that others should have a turn. */
  get turnDue(): boolean {
    return performance.now() - this.#turn > turnMs
  }

  /** Gives the event loop a turn. */
  async turn(): Promise<void> {
    await setImmediate()
    this.throwIfAborted()
    this.#turn = performance.now()
  }

  throwIfAborted(): void {
    if (this.signal?.aborted)
      throw new AbortedError(`Reading ${this.path} was aborted.`, { cause: this.signal.reason })
  }
}

/** An excerpt of what a file or an error says, fit for a terminal. */
export function excerpt(text: string, length = 120): string {
  const plain = text.slice(0, length).replace(/[\p{Cc}\p{Cf}]/gu, '\ufffd')
  return text.length > length ? `${plain}…` : plain
}
