import { ArgumentError } from '../errors.js'
import type { Decoder, LowRankSource } from '../models/index.js'
import type { KeyValueCache } from '../ops/attention.js'
import type { SamplingOptions } from '../ops/sample.js'
import { Tensor } from '../tensor.js'
import { type PendingTokens, Steps } from './steps.js'

export interface DecodeOptions extends SamplingOptions {
  /** Most tokens to add to a prompt; default 256. */
  maxTokens?: number
  /** Tokens that end a sequence; they are not part of it. */
  stopTokens?: readonly number[]
  signal?: AbortSignal
}

/** The next token of one sequence. */
export interface DecodedToken {
  /** Which prompt. */
  readonly index: number
  /** Null: a stop token, which is not part of the sequence. */
  readonly token: number | null
  /** Set with the last token. */
  readonly finishReason: 'stop' | 'length' | null
}

/**
 * Generates for several prompts at once against a key-value cache, one token of every live sequence at a time. A sequence's
 * tokens depend on its own prompt and index alone, not on its neighbours.
 *
 * @param finished indices of sequences that get no further tokens; the caller may add to it between steps
 */
export async function* decode(
  decoder: Decoder,
  adapter: LowRankSource | null,
  prompts: readonly Int32Array[],
  options: DecodeOptions,
  finished: ReadonlySet<number> = new Set(),
): AsyncGenerator<DecodedToken[]> {
  const { device, config } = decoder
  const maxTokens = options.maxTokens ?? 256
  checkPrompts(prompts, maxTokens, config.maxPositions)
  const stopTokens = new Set(options.stopTokens ?? config.eosTokenIds)
  const capacity = Math.min(
    config.maxPositions,
    Math.max(0, ...prompts.map((prompt) => prompt.length)) + maxTokens,
  )
  const owned: Tensor[] = []
  let steps: Steps | null = null
  const empty = () => {
    const shape = [prompts.length, capacity, config.numKeyValueHeads, config.headDim]
    const tensor = Tensor.empty(device, shape)
    owned.push(tensor)
    return tensor
  }
  try {
    const caches: KeyValueCache[] = []
    for (let layer = 0; layer < config.numLayers; layer++)
      caches.push({ keys: empty(), values: empty() })
    steps = new Steps(decoder, adapter, caches, capacity, options)
    const lengths = prompts.map((prompt) => prompt.length)
    let pending: PendingTokens[] = prompts.map((tokens, index) => ({ index, tokens, position: 0 }))
    for (let count = 0; pending.length > 0; count++) {
      options.signal?.throwIfAborted()
      const tokens = await steps.next(pending)
      const step = pending.map(({ index }, i): DecodedToken => {
        const token = tokens[i]
        if (stopTokens.has(token)) return { index, token: null, finishReason: 'stop' }
        const isLast = count + 1 >= maxTokens || ++lengths[index] >= capacity
        return { index, token, finishReason: isLast ? 'length' : null }
      })
      yield step
      pending = step.flatMap(({ index, token, finishReason }) =>
        token === null || finishReason !== null || finished.has(index)
          ? []
          : [{ index, tokens: Int32Array.of(token), position: lengths[index] - 1 }],
      )
    }
  } finally {
    steps?.dispose()
    for (const tensor of owned) tensor.release()
  }
}

function checkPrompts(prompts: readonly Int32Array[], maxTokens: number, maxPositions: number) {
  if (!Number.isInteger(maxTokens) || maxTokens < 1)
    throw new ArgumentError(`maxTokens must be a whole number from 1, not ${maxTokens}`)
  prompts.forEach((prompt, i) => {
    if (prompt.length === 0)
      throw new ArgumentError(`prompt ${i} has no tokens; at least one is needed`)
    if (prompt.length >= maxPositions)
      throw new ArgumentError(
        `prompt ${i} has ${prompt.length} tokens; the model takes fewer than ${maxPositions}`,
      )
  })
}
