/** Seeded pseudo-random numbers. Everything generated here depends on them and on nothing else. */

/** FNV-1a over UTF-16 code units, then an avalanche step: a 32-bit hash for seeding and splitting. */
export function hash32(text: string): number {
  let hash = 0x811c9dc5
  for (let i = 0; i < text.length; i++) {
    hash = Math.imul(hash ^ text.charCodeAt(i), 0x01000193)
  }
  hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35)
  return (hash ^ (hash >>> 16)) >>> 0
}

/** Chris Doty-Humphrey's sfc32. The parts name a stream: equal parts give equal numbers. */
export class Random {
  private a: number
  private b: number
  private c: number
  private counter = 1

  constructor(...parts: readonly (string | number)[]) {
    const name = parts.join('\u0000')
    this.a = hash32(`a${name}`)
    this.b = hash32(`b${name}`)
    this.c = hash32(`c${name}`)
    for (let i = 0; i < 12; i++) this.next()
  }

  /** An integer in [0, 2^32). */
  next(): number {
    const result = (this.a + this.b + this.counter) | 0
    this.counter = (this.counter + 1) | 0
    this.a = this.b ^ (this.b >>> 9)
    this.b = (this.c + (this.c << 3)) | 0
    this.c = (((this.c << 21) | (this.c >>> 11)) + result) | 0
    return result >>> 0
  }

  /** An integer in [0, limit), without modulo bias. */
  below(limit: number): number {
    if (!Number.isInteger(limit) || limit < 1 || limit > 2 ** 32) {
      throw new RangeError(`below: the limit is ${limit}, expected an integer in 1..2^32`)
    }
    const bound = 2 ** 32 - (2 ** 32 % limit)
    let value = this.next()
    while (value >= bound) value = this.next()
    return value % limit
  }

  /** An integer in [low, high]. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1)
  }

  pick<T>(items: readonly T[]): T {
    return items[this.below(items.length)]
  }

  /** A new array in random order. */
  shuffle<T>(items: readonly T[]): T[] {
    const result = [...items]
    for (let i = result.length - 1; i > 0; i--) {
      const j = this.below(i + 1)
      const held = result[i]
      result[i] = result[j]!
      result[j] = held
    }
    return result
  }

  /** `count` different items, in random order. */
  sample<T>(items: readonly T[], count: number): T[] {
    return this.shuffle(items).slice(0, count)
  }
}
