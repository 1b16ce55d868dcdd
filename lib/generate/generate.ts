import type { LowRankSource, Decoder } from '../models/index.js'
import type { Tokenizer } from '../text/index.js'
import { decode, type DecodeOptions } from './decode.js'

export interface GenerateOptions extends Omit<DecodeOptions, 'stopTokens'> {
  /** Strings that end a sequence; they are not part of it. */
  stop?: readonly string[]
  /** Default: the model's end-of-sequence tokens. */
  stopTokens?: readonly number[]
}

/** A piece of the text of one prompt's continuation. The last one, perhaps empty, has the reason for the end. */
export interface GeneratedText {
  readonly index: number
  readonly text: string
  readonly finishReason: 'stop' | 'length' | null
}

/**
 * Continues several prompts at once and yields their text as it comes. Text that may be the beginning of a stop string
 * is held back until it is known not to be.
 */
export async function* generate(
  decoder: Decoder,
  adapter: LowRankSource | null,
  tokenizer: Tokenizer,
  prompts: readonly Int32Array[],
  options: GenerateOptions = {},
): AsyncGenerator<GeneratedText> {
  if (prompts.length === 0) return
  const filters = prompts.map(() => new StopFilter(options.stop ?? []))
  const streaming = tokenizer.streamingDecoder(prompts.length)
  const stopTokens = options.stopTokens ?? tokenizer.eosTokenIds
  const finished = new Set<number>()
  const reasons = prompts.map((): 'stop' | 'length' => 'stop')
  const steps = decode(decoder, adapter, prompts, { ...options, stopTokens }, finished)
  for await (const step of steps) {
    const tokens = new Array<number[] | undefined>(prompts.length)
    for (const { index, token } of step) if (token !== null) tokens[index] = [token]
    const texts = await streaming.push(tokens)
    for (const { index, finishReason } of step) {
      const text = filters[index].push(texts[index])
      if (filters[index].stopped) finished.add(index)
      if (text) yield { index, text, finishReason: null }
      if (finishReason) reasons[index] = finishReason
    }
  }
  const rest = await streaming.end()
  for (const [index, filter] of filters.entries()) {
    const text = filter.push(rest[index]) + filter.end()
    yield { index, text, finishReason: filter.stopped ? 'stop' : reasons[index] }
  }
}

/** Passes text on up to the first stop string. */
export class StopFilter {
  readonly #stops: readonly string[]
  #held = ''
  stopped = false

  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '')
  }

  push(text: string): string {
    if (this.stopped) return ''
    const all = this.#held + text
    const found = this.#stops.map((stop) => all.indexOf(stop)).filter((at) => at >= 0)
    if (found.length > 0) {
      this.stopped = true
      this.#held = ''
      return all.slice(0, Math.min(...found))
    }
    const settled = all.length - this.#overlap(all)
    this.#held = all.slice(settled)
    return all.slice(0, settled)
  }

  /** What was held back, once no more text will come. */
  end(): string {
    const held = this.#held
    this.#held = ''
    return held
  }

  /** Length of the longest end of `text` that begins a stop string. */
  #overlap(text: string): number {
    let longest = 0
    for (const stop of this.#stops)
      for (let n = Math.min(stop.length - 1, text.length); n > longest; n--)
        if (text.endsWith(stop.slice(0, n))) longest = n
    return longest
  }
}
