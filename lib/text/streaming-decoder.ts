import { ArgumentError } from '../errors.js'
import type { DecodeOptions, Tokenizer } from './tokenizer.js'

interface Stream {
  /** Tokens from the last one whose text is settled: decoders look at neighbours (spaces). */
  window: number[]
  /** How many of `window` have been given out as text. */
  given: number
}

// One character takes at most four byte tokens. What is still broken after that many tokens is
// broken for good, and waiting longer would only make the window grow.
const mostPending = 8

/**
 * Turns the tokens of `count` sequences into text as they are generated.
 *
 * A piece of text is given out once later tokens can no longer change it: a character whose UTF-8
 * bytes are spread over several tokens waits for the last of them. The pieces of a sequence joined
 * are what decoding it at once gives.
 */
export class StreamingDecoder {
  readonly #tokenizer: Tokenizer
  readonly #options: DecodeOptions
  readonly #streams: Stream[]

  constructor(tokenizer: Tokenizer, count: number, options: DecodeOptions = {}) {
    if (!Number.isSafeInteger(count) || count < 1 || count > 65_536)
      throw new ArgumentError(`count must be an integer from 1 to 65536, not ${String(count)}.`)
    this.#tokenizer = tokenizer
    this.#options = options
    this.#streams = Array.from({ length: count }, () => ({ window: [], given: 0 }))
  }

  /**
   * Adds the next tokens of each sequence (undefined or an empty list for none) and returns the
   * text that became certain, by sequence. Calls must not overlap.
   */
  async push(tokens: readonly (ArrayLike<number> | undefined)[]): Promise<string[]> {
    if (tokens.length !== this.#streams.length)
      throw new ArgumentError(
        `push() takes the tokens of ${String(this.#streams.length)} sequences, not of ${String(tokens.length)}.`,
      )
    this.#streams.forEach(({ window }, index) => {
      for (const id of Array.from(tokens[index] ?? [])) window.push(id)
    })
    return this.#advance(false)
  }

  /** The text that was still held back, by sequence. */
  end(): Promise<string[]> {
    return this.#advance(true)
  }

  async #advance(atEnd: boolean): Promise<string[]> {
    const texts = this.#streams.map(() => '')
    const active = this.#streams
      .map((stream, index) => ({ stream, index }))
      .filter(({ stream }) => stream.window.length > stream.given)
    const decoded = await this.#tokenizer.decodeBatch(
      active.flatMap(({ stream: { window, given } }) => [window.slice(0, given), window]),
      this.#options,
    )
    active.forEach(({ stream, index }, position) => {
      const before = decoded[2 * position]
      const after = decoded[2 * position + 1]
      const pending = stream.window.length - stream.given
      if (after.endsWith('\ufffd') && !atEnd && pending < mostPending) return
      texts[index] = after.slice(commonLength(before, after))
      stream.window = stream.window.slice(stream.given)
      stream.given = stream.window.length
    })
    return texts
  }
}

// Decoders that tidy spaces up may take one back that was already given out.
function commonLength(a: string, b: string): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) ++length
  return length
}
