import { ArgumentError } from './errors.js'

/** Uniform numbers by Philox4x32-10 (Salmon et al. 2011): a seed and a stream say all that will come. */
export class Philox {
  readonly #key: readonly [number, number]
  readonly #stream: number
  readonly #words = new Uint32Array(4)
  #block = 0
  #used = 4

  /** @param stream tells sequences of one seed apart, below 2^32 */
  constructor(seed: number, stream = 0) {
    if (!Number.isSafeInteger(seed) || seed < 0)
      throw new ArgumentError(`seed must be a whole number from 0 to 2^53 - 1, not ${seed}`)
    this.#key = [seed >>> 0, Math.floor(seed / 2 ** 32) >>> 0]
    this.#stream = stream >>> 0
  }

  /** 32 bits. */
  word(): number {
    if (this.#used === 4) this.#refill()
    return this.#words[this.#used++]
  }

  /** In [0, 1), of 53 bits. */
  uniform(): number {
    const high = this.word() >>> 5
    return (high * 2 ** 26 + (this.word() >>> 6)) / 2 ** 53
  }

  /** A whole number from 0 to below `count`, which is at most 2^32; without bias. */
  below(count: number): number {
    for (;;) {
      const word = this.word()
      // The exact limit is looked at only where it may matter: a division for each draw would take as long as the draw.
      if (word < 2 ** 32 - count || word < 2 ** 32 - (2 ** 32 % count)) return word % count
    }
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform())
  }

  /** Puts a list in random order, in place (Fisher and Yates). */
  shuffle<T extends { length: number; [index: number]: unknown }>(list: T): T {
    for (let i = list.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const held = list[i]
      list[i] = list[j]
      list[j] = held
    }
    return list
  }

  #refill(): void {
    let [x, y, z, w] = [this.#block >>> 0, Math.floor(this.#block / 2 ** 32) >>> 0, this.#stream, 0]
    let [key0, key1] = this.#key
    for (let round = 0; round < 10; round++) {
      const high0 = highProduct(0xd2511f53, x)
      const low0 = Math.imul(0xd2511f53, x)
      const high1 = highProduct(0xcd9e8d57, z)
      const low1 = Math.imul(0xcd9e8d57, z)
      x = high1 ^ y ^ key0
      y = low1
      z = high0 ^ w ^ key1
      w = low0
      key0 = (key0 + 0x9e3779b9) | 0
      key1 = (key1 + 0xbb67ae85) | 0
    }
    this.#words.set([x, y, z, w])
    this.#block++
    this.#used = 0
  }
}

/** The upper 32 bits of a product of two unsigned numbers of 32. */
function highProduct(a: number, b: number): number {
  const aHigh = a >>> 16
  const aLow = a & 0xffff
  const bHigh = (b >>> 16) & 0xffff
  const bLow = b & 0xffff
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  return (
    (aHigh * bHigh + Math.floor(middle / 65536) + ((middle & 0xffff) + aLow * bHigh) / 65536) | 0
  )
}
