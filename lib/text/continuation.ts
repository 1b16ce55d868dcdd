import { ArgumentError } from '../errors.js'
import type { Tokenizer } from './tokenizer.js'

export interface Continuation {
  context: string
  continuation: string
}

export interface ContinuationEncoding {
  /** Context and continuation; of a long one the last `maxLength` + 1 tokens. */
  tokens: Int32Array
  /** Where the continuation begins in `tokens`; at least 1. */
  start: number
}

export interface ContinuationOptions {
  /** Whether the tokenizer adds its special tokens. Default false, as lm-evaluation-harness. */
  addSpecialTokens?: boolean
  /** Most tokens that the model sees: the last token of a continuation is only predicted. */
  maxLength?: number
  signal?: AbortSignal
}

// What Python's str.rstrip takes off, which is not what trimEnd does.
const trailingSpace =
  // eslint-disable-next-line no-control-regex
  /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+$/

/**
 * Encodes what is to be scored as lm-evaluation-harness does: white space at the end of the context
 * moves to the continuation, both are encoded together, and the continuation is what follows as
 * many tokens as the context alone has. An empty context is the beginning-of-sequence token, or the
 * end-of-sequence token where there is none. Too long a context loses its beginning.
 *
 * @throws ArgumentError for a continuation that adds no token, or that maxLength leaves no context.
 */
export async function encodeContinuations(
  tokenizer: Tokenizer,
  pairs: readonly Continuation[],
  options: ContinuationOptions = {},
): Promise<ContinuationEncoding[]> {
  const { addSpecialTokens = false, maxLength = Infinity, signal } = options
  const texts = pairs.flatMap(({ context, continuation }) => {
    const spaces = trailingSpace.exec(context)?.[0].length ?? 0
    return [context.slice(0, context.length - spaces), context + continuation]
  })
  const encoded = await tokenizer.encode(texts, { addSpecialTokens, signal })
  return pairs.map(({ continuation }, index) => {
    let start = encoded[2 * index].length
    let tokens = encoded[2 * index + 1]
    if (start === 0) {
      const begin = tokenizer.bosTokenId ?? tokenizer.eosTokenId
      if (begin === undefined)
        throw new ArgumentError(
          'An empty context stands for the beginning-of-sequence or end-of-sequence token, and the tokenizer has neither.',
        )
      start = 1
      if (tokens[0] !== begin) tokens = Int32Array.of(begin, ...tokens)
    }
    const shown = JSON.stringify(continuation.slice(0, 40))
    if (start >= tokens.length)
      throw new ArgumentError(`The continuation ${shown} adds no token to its context.`)
    const cut = Math.max(0, tokens.length - (maxLength + 1))
    if (cut >= start)
      throw new ArgumentError(
        `The continuation ${shown} has ${String(tokens.length - start)} tokens; maxLength ${String(maxLength)} leaves no context for it.`,
      )
    return { tokens: tokens.subarray(cut), start: start - cut }
  })
}
