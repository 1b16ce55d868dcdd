import { AbortedError } from '../errors.js'

/** Milliseconds; the event loop's delay stays under 10. */
const longestTurn = 8

/** Lets the event loop run where a loop would keep it for long: `await pause.turn()` in the loop. */
export class Pause {
  readonly #signal: AbortSignal | undefined
  #since = performance.now()

  constructor(signal?: AbortSignal) {
    this.#signal = signal
  }

  /** @throws AbortedError once the signal is aborted */
  async turn(): Promise<void> {
    if (performance.now() - this.#since < longestTurn) return
    await new Promise((resolve) => setImmediate(resolve))
    if (this.#signal?.aborted)
      throw new AbortedError('the work was stopped', { cause: this.#signal.reason })
    this.#since = performance.now()
  }
}
