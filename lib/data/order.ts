/** Which sample comes at which position of a run: a pure function of the seed and the sizes, resumable anywhere. */

/** The samples of one discipline. */
export interface OrderedGroup {
  readonly size: number
  /** How often each sample is seen for every time a sample of weight 1 is seen. */
  readonly weight: number
}

export interface OrderOptions {
  /** False: the groups one after another, each in its own order; only where all weights are equal. */
  readonly shuffle: boolean
  readonly seed: number
}

/** Where an order stands. Small, and JSON. */
export interface OrderState {
  readonly position: number
  /** Samples taken from each group so far. */
  readonly counts: readonly number[]
}

/** Says which sample comes next, for ever. */
export interface Order {
  /** Samples chosen so far. */
  readonly position: number
  readonly state: OrderState
  restore(state: OrderState): void
  /** The next sample: its group, and its index in the group. */
  next(): { group: number; index: number }
}

/** Where an order stands; what comes next is for those that extend it to say. */
export abstract class CountedOrder implements Order {
  /** Samples taken from each group so far. */
  protected readonly counts: number[]
  #position = 0

  constructor(numGroups: number) {
    this.counts = new Array<number>(numGroups).fill(0)
  }

  get position(): number {
    return this.#position
  }

  get state(): OrderState {
    return { position: this.#position, counts: [...this.counts] }
  }

  restore({ position, counts }: OrderState): void {
    this.#position = position
    counts.forEach((count, group) => {
      this.counts[group] = count
    })
  }

  abstract next(): { group: number; index: number }

  /** The group whose turn it is, if they take turns by shares that sum to 1. */
  protected inTurn(shares: readonly number[]): number {
    return nextInTurn(shares, this.counts, this.#position)
  }

  /** One more of a group. @returns how many it has given before */
  protected take(group: number): number {
    this.#position++
    return this.counts[group]++
  }
}

/**
 * An endless order over several groups of samples.
 *
 * Groups take turns so that after t samples the count of each differs from t times its share by less than 1 (Tijdeman
 * 1980, "The chairman assignment problem"); a group's share is its size times its weight. Within a group every sample
 * comes once a pass, in a permutation that is new each pass.
 */
export class SampleOrder extends CountedOrder {
  readonly #groups: readonly OrderedGroup[]
  readonly #shares: readonly number[]
  readonly #options: OrderOptions
  readonly #turns: boolean

  /** Groups without samples are never chosen; at least one must have some. */
  constructor(groups: readonly OrderedGroup[], options: OrderOptions) {
    super(groups.length)
    const total = groups.reduce((sum, { size, weight }) => sum + size * weight, 0)
    this.#groups = groups
    this.#shares = groups.map(({ size, weight }) => (size * weight) / total)
    this.#options = options
    const weights = new Set(groups.map(({ weight }) => weight))
    this.#turns = options.shuffle || weights.size > 1
  }

  next(): { group: number; index: number } {
    const group = this.#turns ? this.inTurn(this.#shares) : this.#nextInSequence()
    const { size } = this.#groups[group]
    const count = this.take(group)
    const pass = Math.floor(count / size)
    const index = count % size
    if (!this.#options.shuffle) return { group, index }
    return { group, index: permute(index, size, mix(mix(this.#options.seed, group), pass)) }
  }

  #nextInSequence(): number {
    const perPass = this.#groups.reduce((sum, { size }) => sum + size, 0)
    let at = this.position % perPass
    return this.#groups.findIndex(({ size }) => {
      if (at < size) return true
      at -= size
      return false
    })
  }
}

/**
 * Whose turn it is after `position` turns, so that all counts stay within one of their shares. Tijdeman's rule: of those
 * not ahead of their share, the one whose next turn must come first.
 *
 * @param shares sum to 1; those of 0 have no turn
 */
function nextInTurn(
  shares: readonly number[],
  counts: readonly number[],
  position: number,
): number {
  const active = shares.filter((share) => share > 0).length
  if (active === 1) return shares.findIndex((share) => share > 0)
  const slack = 1 / (2 * active - 2)
  const turn = position + 1
  let best = -1
  let earliest = Infinity
  shares.forEach((share, group) => {
    if (share === 0) return
    const behind = turn * share - counts[group]
    const deadline = (1 - slack - behind) / share
    // A rounding error must not leave nobody eligible.
    if (behind >= slack - 1e-9 && deadline < earliest) {
      earliest = deadline
      best = group
    }
  })
  return best
}

const rounds = 6

/**
 * A permutation of 0 … size - 1 by a keyed Feistel network on the next even number of bits, walked until it falls inside
 * (Black and Rogaway 2002): no memory, whatever the size.
 *
 * @param size at most 2^32
 */
export function permute(index: number, size: number, key: number): number {
  if (size < 2) return 0
  const half = Math.max(1, Math.ceil(Math.log2(size) / 2))
  const modulus = 2 ** half
  let value = index
  do {
    let left = Math.floor(value / modulus)
    let right = value % modulus
    for (let round = 0; round < rounds; round++) {
      const next = (left ^ mix(mix(key, round), right)) & (modulus - 1)
      left = right
      right = next
    }
    value = left * modulus + right
  } while (value >= size)
  return value
}

/** A 32-bit hash of two numbers below 2^53 (MurmurHash3's finaliser over their halves). */
export function mix(a: number, b: number): number {
  let hash = 0x9e3779b9
  for (const part of [a, a / 2 ** 32, b, b / 2 ** 32]) {
    hash = Math.imul(hash ^ (Math.floor(part) >>> 0), 0x85ebca6b)
    hash ^= hash >>> 13
    hash = Math.imul(hash, 0xc2b2ae35)
    hash ^= hash >>> 16
  }
  return hash >>> 0
}
