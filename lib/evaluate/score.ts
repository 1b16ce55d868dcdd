import { ArgumentError } from '../errors.js'
import type { Decoder, LowRankSource } from '../models/index.js'
import { headCrossEntropy } from '../ops/head-cross-entropy.js'
import type { Pass } from '../ops/pass.js'
import { scope } from '../scope.js'
import { Tensor, vector } from '../tensor.js'

/** Tokens of which those from `start` on are scored, each given all before it. */
export interface ScoredSequence {
  readonly tokens: Int32Array
  /** From 1. */
  readonly start: number
}

export interface SequenceScore {
  /** How many tokens were scored. */
  readonly tokens: number
  /** Sum of their natural log-probabilities. */
  readonly logLikelihood: number
  /** Whether each of them was the most likely one. */
  readonly greedy: boolean
}

/** Rows of a packed batch: enough to keep the products busy. */
const defaultMaxTokens = 2048

/**
 * Log-likelihoods of continuations, packed without padding and in the order given. A sequence's score does not depend
 * on what it is packed with.
 */
export async function* scoreSequences(
  decoder: Decoder,
  adapter: LowRankSource | null,
  sequences: AsyncIterable<ScoredSequence> | Iterable<ScoredSequence>,
  { maxTokens = defaultMaxTokens, signal }: { maxTokens?: number; signal?: AbortSignal } = {},
): AsyncGenerator<SequenceScore> {
  let batch: ScoredSequence[] = []
  let numTokens = 0
  // One batch is queued while the one before is awaited.
  let pending: Promise<SequenceScore[]> | null = null
  for await (const sequence of sequences) {
    checkSequence(sequence, decoder.config.maxPositions)
    if (batch.length > 0 && numTokens + sequence.tokens.length > maxTokens) {
      signal?.throwIfAborted()
      const next = scoreBatch(decoder, adapter, batch)
      if (pending) yield* await pending
      pending = next
      batch = []
      numTokens = 0
    }
    batch.push(sequence)
    numTokens += sequence.tokens.length
  }
  if (pending) yield* await pending
  if (batch.length > 0) yield* await scoreBatch(decoder, adapter, batch)
}

async function scoreBatch(
  decoder: Decoder,
  adapter: LowRankSource | null,
  batch: readonly ScoredSequence[],
): Promise<SequenceScore[]> {
  const { device } = decoder
  const packed = pack(batch)
  const { loss, argmax } = scope(() => {
    const pass: Pass = { device, tape: null, dropout: null }
    const hidden = decoder.forward(
      pass,
      {
        inputIds: vector(device, packed.inputIds),
        positions: vector(device, packed.positions),
        numPositions: Math.max(...batch.map(({ tokens }) => tokens.length - 1)),
        sequences: { cuSeqlens: vector(device, packed.cuSeqlens) },
      },
      adapter,
    )
    const scored = headCrossEntropy(
      pass,
      hidden,
      decoder.weights.head,
      vector(device, packed.rows),
      vector(device, packed.labels),
      { lossScale: Tensor.full(device, [1], 1), wantsArgmax: true },
    )
    return { loss: scored.loss, argmax: scored.argmax! }
  })
  try {
    const [losses, best] = await Promise.all([loss.readFloats(), argmax.readInts()])
    let at = 0
    return batch.map(({ tokens, start }) => {
      let logLikelihood = 0
      let greedy = true
      for (let t = start; t < tokens.length; t++, at++) {
        logLikelihood -= losses[at]
        greedy &&= best[at] === tokens[t]
      }
      return { tokens: tokens.length - start, logLikelihood, greedy }
    })
  } finally {
    loss.release()
    argmax.release()
  }
}

/** Every sequence without its last token, which predicts nothing. */
function pack(batch: readonly ScoredSequence[]) {
  const cuSeqlens = new Int32Array(batch.length + 1)
  batch.forEach(({ tokens }, i) => {
    cuSeqlens[i + 1] = cuSeqlens[i] + tokens.length - 1
  })
  const numTokens = cuSeqlens[batch.length]
  const numLabels = batch.reduce((sum, { tokens, start }) => sum + tokens.length - start, 0)
  const inputIds = new Int32Array(numTokens)
  const positions = new Int32Array(numTokens)
  const rows = new Int32Array(numLabels)
  const labels = new Int32Array(numLabels)
  let label = 0
  batch.forEach(({ tokens, start }, i) => {
    const begin = cuSeqlens[i]
    for (let t = 0; t < tokens.length - 1; t++) {
      inputIds[begin + t] = tokens[t]
      positions[begin + t] = t
    }
    for (let t = start; t < tokens.length; t++) {
      rows[label] = begin + t - 1
      labels[label++] = tokens[t]
    }
  })
  return { inputIds, positions, cuSeqlens, rows, labels }
}

function checkSequence({ tokens, start }: ScoredSequence, maxPositions: number): void {
  if (!Number.isInteger(start) || start < 1 || start >= tokens.length)
    throw new ArgumentError(
      `a scored sequence must start at 1 … ${tokens.length - 1}, one before its length, not at ${start}`,
    )
  if (tokens.length - 1 > maxPositions)
    throw new ArgumentError(
      `a sequence of ${tokens.length} tokens is longer than the model's max_position_embeddings, ${maxPositions}`,
    )
}
