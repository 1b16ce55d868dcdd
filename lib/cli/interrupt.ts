import { constants } from 'node:os'

const signals = ['SIGINT', 'SIGTERM'] as const
type Signal = (typeof signals)[number]

/**
 * Ctrl-C and SIGTERM: the first asks the work to stop where it can, the second ends the process at once. Only the
 * command line does this; the library takes the AbortSignal.
 */
export class Interrupt {
  readonly #controller = new AbortController()
  readonly #onFirst: (signal: Signal) => void
  #received: Signal | null = null

  constructor(onFirst: (signal: Signal) => void) {
    this.#onFirst = onFirst
    for (const signal of signals) process.on(signal, this.#handle)
  }

  get signal(): AbortSignal {
    return this.#controller.signal
  }

  /** 128 + the signal's number, as a shell gives it; null if none came. */
  get exitCode(): number | null {
    return this.#received && exitCode(this.#received)
  }

  readonly #handle = (signal: Signal): void => {
    if (this.#received !== null) process.exit(exitCode(signal))
    this.#received = signal
    this.#onFirst(signal)
    this.#controller.abort(new Error(`stopped by ${signal}`))
  }

  dispose(): void {
    for (const signal of signals) process.off(signal, this.#handle)
  }
}

function exitCode(signal: Signal): number {
  return 128 + constants.signals[signal]
}
