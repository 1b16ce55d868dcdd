import { mix } from '../order.js'
import { Pause } from '../pause.js'
import type { Pool } from './pool.js'
import type { Vectors } from './vectors.js'

/** Above this cosine two samples with the same facts are one sample in other words. */
export const nearDuplicateCosine = 0.95

/** Samples of a pool that stand for themselves, and how many were found to repeat one of them. */
export interface Unique {
  /** Ascending. */
  readonly items: Int32Array
  readonly exactDuplicates: number
  readonly nearDuplicates: number
}

/** The first of each group of samples with the same text. */
export async function withoutExactDuplicates(pool: Pool, signal?: AbortSignal): Promise<Unique> {
  const pause = new Pause(signal)
  const seen = new Numbers(pool.size)
  const items = new Int32Array(pool.size)
  let count = 0
  for (let item = 0; item < pool.size; item++) {
    if (seen.number(pool.content(item)) === count) items[count++] = item
    await pause.turn()
  }
  const exactDuplicates = pool.size - count
  return { items: items.slice(0, count), exactDuplicates, nearDuplicates: 0 }
}

/**
 * Of samples with the same numbers, entities and answer, those that no earlier one comes nearer than the cosine. A
 * sample is only ever linked to one that stands for itself, so links make no chains: what is left out is within the
 * cosine of something that stays. Up to `exactBelow` samples with the same facts are compared one by one; beyond, with
 * those of the same signs of 16 differences in one of 16 choices of coordinates, which finds 96% of what is at the
 * cosine, and more of what is nearer.
 */
export async function withoutNearDuplicates(
  pool: Pool,
  unique: Unique,
  vectors: Vectors,
  { signal, exactBelow = 512 }: { signal?: AbortSignal; exactBelow?: number } = {},
): Promise<Unique> {
  const pause = new Pause(signal)
  const items = new Int32Array(unique.items.length)
  let count = 0
  const numbers = new Numbers(unique.items.length)
  /** By facts: the last sample that stays, and from each to the one before. */
  const last = new Int32Array(unique.items.length).fill(-1)
  const before = new Int32Array(unique.items.length)
  const sizes = new Int32Array(unique.items.length)
  const hashed = new Map<number, Neighbours>()
  for (const item of unique.items) {
    const facts = numbers.number(pool.facts(item))
    const isNear = (kept: number) => vectors.cosine(items[kept], item) > nearDuplicateCosine
    let near = false
    let neighbours = hashed.get(facts)
    if (!neighbours && sizes[facts] >= exactBelow) {
      hashed.set(facts, (neighbours = new Neighbours(vectors)))
      for (let kept = last[facts]; kept >= 0; kept = before[kept]) neighbours.add(kept, items[kept])
    }
    if (neighbours) near = neighbours.some(item, isNear)
    else for (let kept = last[facts]; kept >= 0 && !near; kept = before[kept]) near = isNear(kept)
    if (!near) {
      neighbours?.add(count, item)
      before[count] = last[facts]
      last[facts] = count
      sizes[facts]++
      items[count++] = item
    }
    await pause.turn()
  }
  return {
    items: items.slice(0, count),
    exactDuplicates: unique.exactDuplicates,
    nearDuplicates: unique.items.length - count,
  }
}

/** Numbers keys 0, 1, 2 … as they come for the first time: a hash table in two arrays. */
class Numbers {
  readonly #keys: Float64Array
  readonly #numbers: Int32Array
  readonly #mask: number
  #count = 0

  constructor(capacity: number) {
    const size = 2 ** Math.ceil(Math.log2(2 * capacity + 2))
    this.#mask = size - 1
    this.#keys = new Float64Array(size)
    this.#numbers = new Int32Array(size).fill(-1)
  }

  /** The count of the keys before if the key is new. */
  number(key: number): number {
    let at = mix(key, 0) & this.#mask
    while (this.#numbers[at] >= 0) {
      if (this.#keys[at] === key) return this.#numbers[at]
      at = (at + 1) & this.#mask
    }
    this.#keys[at] = key
    return (this.#numbers[at] = this.#count++)
  }
}

const tables = 16
const bits = 16
/** Newest first; what has more of the same signs than this is as good as repeated anyway. */
const mostVisited = 8

/** Vectors by the signs of differences of coordinates, which are hyperplanes through the origin (Charikar 2002). */
class Neighbours {
  readonly #vectors: Vectors
  readonly #heads = new Int32Array(tables << bits).fill(-1)
  readonly #kept: number[] = []
  readonly #next: number[] = []

  constructor(vectors: Vectors) {
    this.#vectors = vectors
  }

  add(kept: number, item: number): void {
    for (let table = 0; table < tables; table++) {
      const slot = this.#slot(table, item)
      this.#next.push(this.#heads[slot])
      this.#heads[slot] = this.#kept.length
      this.#kept.push(kept)
    }
  }

  some(item: number, isNear: (kept: number) => boolean): boolean {
    for (let table = 0; table < tables; table++) {
      let entry = this.#heads[this.#slot(table, item)]
      for (let visited = 0; entry >= 0 && visited < mostVisited; visited++) {
        if (isNear(this.#kept[entry])) return true
        entry = this.#next[entry]
      }
    }
    return false
  }

  #slot(table: number, item: number): number {
    const row = this.#vectors.row(item)
    let signs = 0
    for (let bit = 0; bit < bits; bit++) {
      const draw = mix(table, bit)
      const a = row[draw % row.length]
      const b = row[(draw >>> 16) % row.length]
      signs = (signs << 1) | Number(a > b)
    }
    return (table << bits) | signs
  }
}
