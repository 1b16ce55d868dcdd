import type { Decoder, LowRankSource } from '../models/index.js'
import type { KeyValueCache } from '../ops/attention.js'
import { logits } from '../ops/logits.js'
import { sampleTokens, type SamplingOptions } from '../ops/sample.js'
import { Repeated } from '../repeated.js'
import { Scope, scope } from '../scope.js'
import { Tensor } from '../tensor.js'

/** Tokens of a sequence that are not in its cache yet. */
export interface PendingTokens {
  readonly index: number
  readonly tokens: Int32Array
  /** Of the first. */
  readonly position: number
}

/** A pass runs R rows, those of one of the B sequences after those of the other, and draws a token for each sequence. */
interface Rows<T> {
  /** [R] */
  readonly inputIds: T
  readonly positions: T
  readonly rowSequence: T
  /** [B] */
  readonly lastRows: T
  readonly sequences: T
  /** Of the tokens to be drawn. */
  readonly lastPositions: T
}

/** A pass of one shape, whose inputs stay where they are. */
interface Pass {
  readonly numRows: number
  readonly inputs: Rows<Tensor>
  readonly tokens: Tensor
  readonly work: Repeated
}

/**
 * The steps of one generation. While the same number of sequences lives, all steps but the first have the same shapes,
 * and are replayed.
 */
export class Steps {
  readonly #decoder: Decoder
  readonly #adapter: LowRankSource | null
  readonly #caches: readonly KeyValueCache[]
  readonly #numPositions: number
  readonly #options: SamplingOptions
  #pass: Pass | null = null

  /** @param numPositions that the caches hold for each sequence */
  constructor(
    decoder: Decoder,
    adapter: LowRankSource | null,
    caches: readonly KeyValueCache[],
    numPositions: number,
    options: SamplingOptions,
  ) {
    this.#decoder = decoder
    this.#adapter = adapter
    this.#caches = caches
    this.#numPositions = numPositions
    this.#options = options
  }

  /** Runs the pending tokens of every live sequence through the model and draws one token for each. */
  async next(pending: readonly PendingTokens[]): Promise<Int32Array> {
    const rows = rowsOf(pending)
    const pass = this.#passFor(rows)
    for (const [name, tensor] of Object.entries(pass.inputs) as [keyof Rows<Tensor>, Tensor][])
      tensor.write(rows[name])
    pass.work.run()
    return pass.tokens.readInts()
  }

  dispose(): void {
    if (!this.#pass) return
    const { inputs, tokens, work } = this.#pass
    work.dispose()
    for (const tensor of [tokens, ...Object.values(inputs)]) tensor.release()
    this.#pass = null
  }

  #passFor(rows: Rows<Int32Array>): Pass {
    const numRows = rows.inputIds.length
    const numSequences = rows.sequences.length
    if (this.#pass?.numRows === numRows && this.#pass.tokens.size === numSequences)
      return this.#pass
    this.dispose()
    const { device } = this.#decoder
    const made = scope(() => {
      const make = (size: number) => Tensor.empty(device, [size], 'i32')
      return {
        inputIds: make(numRows),
        positions: make(numRows),
        rowSequence: make(numRows),
        lastRows: make(numSequences),
        sequences: make(numSequences),
        lastPositions: make(numSequences),
        tokens: make(numSequences),
      }
    })
    for (const tensor of Object.values(made)) Scope.detach(tensor)
    const { tokens, ...inputs } = made
    const work = new Repeated(device, () => scope(() => void tokens.copyFrom(this.#draw(inputs))))
    this.#pass = { numRows, inputs, tokens, work }
    return this.#pass
  }

  #draw(inputs: Rows<Tensor>): Tensor {
    const { device, weights } = this.#decoder
    const pass = { device, tape: null, dropout: null }
    const hidden = this.#decoder.forward(
      pass,
      {
        inputIds: inputs.inputIds,
        positions: inputs.positions,
        numPositions: this.#numPositions,
        sequences: { caches: this.#caches, rowSequence: inputs.rowSequence },
      },
      this.#adapter,
    )
    return sampleTokens(
      logits(pass, hidden, inputs.lastRows, weights.head),
      inputs.sequences,
      inputs.lastPositions,
      this.#options,
    )
  }
}

function rowsOf(pending: readonly PendingTokens[]): Rows<Int32Array> {
  const numRows = pending.reduce((sum, { tokens }) => sum + tokens.length, 0)
  const rows = {
    inputIds: new Int32Array(numRows),
    positions: new Int32Array(numRows),
    rowSequence: new Int32Array(numRows),
    lastRows: new Int32Array(pending.length),
    sequences: Int32Array.from(pending, ({ index }) => index),
    lastPositions: Int32Array.from(pending, ({ tokens, position }) => position + tokens.length),
  }
  let row = 0
  pending.forEach(({ index, tokens, position }, i) => {
    rows.inputIds.set(tokens, row)
    for (let t = 0; t < tokens.length; t++) {
      rows.positions[row] = position + t
      rows.rowSequence[row++] = index
    }
    rows.lastRows[i] = row - 1
  })
  return rows
}
