import type { Random } from '../random.js'

/** One kind of hostility, in rounds that repeat by their number and the seed alone. */
export interface Part {
  /** 'call view', 'run matmul', 'file yaml' … */
  readonly name: string
  readonly rounds: number
  /** Throws what it finds. */
  run(round: Round): Promise<void>
}

export interface Round {
  readonly index: number
  readonly random: Random
  /** A folder of this process, where anything may be written. */
  readonly folder: string
  /** Says what comes next, when a round is replayed. */
  note(what: () => string): void
  /** How much slower than usual the process runs, for limits of time: 1, or more under a sanitizer. */
  readonly slowness: number
  /** How many calls or files this round has, where that is not as many as its part has for a round. */
  readonly calls?: number
}

export function pick<T>(random: Random, values: readonly T[]): T {
  return values[random.integer(values.length)]
}

export function chance(random: Random, probability: number): boolean {
  return random.next() < probability
}
