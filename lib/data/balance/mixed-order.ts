import { CountedOrder, mix, permute } from '../order.js'
import type { MixingPlan } from './plan.js'
import type { Pool } from './pool.js'

/**
 * The order of a mixing plan. Disciplines take turns so that after t samples the count of each differs from t times its
 * share by less than 1, or come one after another where the plan has a sequence. A discipline's copies are dealt out to
 * passes as evenly as they can, each pass in a permutation of its own; after the last a new round begins.
 */
export class MixedOrder extends CountedOrder {
  readonly #pools: readonly Pool[]
  readonly #plan: MixingPlan
  readonly #shares: readonly number[]
  readonly #rounds: readonly Round[]
  /** Disciplines with samples, one after another; null: at once. */
  readonly #sequence: readonly number[] | null

  /** @param pools of the corpus that the plan was made for */
  constructor(pools: readonly Pool[], plan: MixingPlan, seed: number) {
    super(pools.length)
    this.#pools = pools
    this.#plan = plan
    this.#shares = plan.disciplines.map(({ share }) => share)
    this.#rounds = plan.disciplines.map(({ copies }, i) => new Round(copies, mix(seed, i)))
    this.#sequence =
      plan.sequence
        ?.map((name) => plan.disciplines.findIndex((one) => one.name === name))
        .filter((i) => this.#shares[i] > 0) ?? null
  }

  next(): { group: number; index: number } {
    const { discipline, item } = this.nextItem()
    return this.#pools[discipline].locate(item)
  }

  /** The same as the number of a discipline, and of a sample in its pool. */
  nextItem(): { discipline: number; item: number } {
    const discipline = this.#sequence
      ? this.#nextInSequence(this.#sequence)
      : this.inTurn(this.#shares)
    return { discipline, item: this.#rounds[discipline].item(this.take(discipline)) }
  }

  #nextInSequence(sequence: readonly number[]): number {
    const { disciplines } = this.#plan
    // Beyond what was planned the last one goes on.
    return sequence.find((i) => this.counts[i] < disciplines[i].draws) ?? sequence.at(-1)!
  }
}

/** All copies of a discipline's samples, dealt out to as many passes as they are times the samples. */
class Round {
  readonly #key: number
  /** Samples pass by pass. */
  readonly #items: Int32Array
  /** Where each pass begins, and the end. */
  readonly #begins: readonly number[]

  constructor(copies: Uint16Array, key: number) {
    this.#key = key
    let total = 0
    let present = 0
    for (const count of copies) {
      total += count
      present += Number(count > 0)
    }
    const passes = present === 0 ? 0 : Math.ceil(total / present)
    const sizes = new Array<number>(passes).fill(0)
    // Copy c of m comes in pass ⌊(c + phase) passes / m⌋: at equal distances, from where a hash says.
    const passOf = (item: number, copy: number) => {
      const phase = mix(key, item) / 2 ** 32
      return Math.min(passes - 1, Math.floor(((copy + phase) * passes) / copies[item]))
    }
    copies.forEach((count, item) => {
      for (let copy = 0; copy < count; copy++) sizes[passOf(item, copy)]++
    })
    const begins = [0]
    for (const size of sizes) begins.push(begins.at(-1)! + size)
    const next = begins.slice(0, -1)
    this.#items = new Int32Array(total)
    copies.forEach((count, item) => {
      for (let copy = 0; copy < count; copy++) this.#items[next[passOf(item, copy)]++] = item
    })
    this.#begins = begins
  }

  /** The sample that comes after `count` others. */
  item(count: number): number {
    const round = Math.floor(count / this.#items.length)
    const at = count % this.#items.length
    let pass = 0
    while (at >= this.#begins[pass + 1]) pass++
    const begin = this.#begins[pass]
    const size = this.#begins[pass + 1] - begin
    const key = mix(mix(this.#key, round), pass)
    return this.#items[begin + permute(at - begin, size, key)]
  }
}
