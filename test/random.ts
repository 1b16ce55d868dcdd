/** Seeded random inputs of tests, and the product's own numbering of its random bits, written a second time. */

/** Uniform and normal numbers from a seed (mulberry32); every value is a float32. */
export class Random {
  #state: number

  constructor(seed: number) {
    this.#state = seed >>> 0
  }

  /** In [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) >>> 0
    let t = this.#state
    t = Math.imul(t ^ (t >>> 15), t | 1)
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61)
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32
  }

  /** A whole number from 0 to below n. */
  integer(n: number): number {
    return Math.floor(this.next() * n)
  }

  integers(count: number, n: number): Int32Array {
    return Int32Array.from({ length: count }, () => this.integer(n))
  }

  /** Normal numbers with the given deviation. */
  normal(count: number, deviation = 1, mean = 0): Float32Array {
    return Float32Array.from(
      { length: count },
      () =>
        mean +
        deviation * Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next()),
    )
  }

  /** 0 … n - 1 in random order. */
  permutation(n: number): Int32Array {
    const order = Int32Array.from({ length: n }, (_, i) => i)
    for (let i = n - 1; i > 0; --i) {
      const j = this.integer(i + 1)
      ;[order[i], order[j]] = [order[j], order[i]]
    }
    return order
  }
}

type Words = [number, number, number, number]

/** Philox4x32-10 (Salmon et al. 2011). */
export function philox(counter: Readonly<Words>, key0: number, key1: number): Words {
  let [x, y, z, w] = counter
  for (let round = 0; round < 10; ++round) {
    const [high0, low0] = multiply(0xd2511f53, x)
    const [high1, low1] = multiply(0xcd9e8d57, z)
    ;[x, y, z, w] = [(high1 ^ y ^ key0) >>> 0, low1, (high0 ^ w ^ key1) >>> 0, low0]
    key0 = (key0 + 0x9e3779b9) >>> 0
    key1 = (key1 + 0xbb67ae85) >>> 0
  }
  return [x, y, z, w]
}

/** High and low 32 bits of a product. */
function multiply(a: number, b: number): [number, number] {
  const [aHigh, aLow, bHigh, bLow] = [a >>> 16, a & 0xffff, b >>> 16, b & 0xffff]
  const middle = aHigh * bLow + ((aLow * bLow) >>> 16)
  const high = aHigh * bHigh + Math.floor((middle + aLow * bHigh) / 65536)
  return [high >>> 0, Math.imul(a, b) >>> 0]
}

export interface DropoutKey {
  readonly probability: number
  readonly seed: bigint
  readonly module: number
  readonly step: number
}

const low32 = (value: bigint) => Number(BigInt.asUintN(32, value))

/** What dropout multiplies element (row, column) of the rows' input with, [rows, columns]: 0 or 1 / (1 - p). */
export function dropoutMask(
  { probability, seed, module, step }: DropoutKey,
  rowSample: Int32Array,
  rowPosition: Int32Array,
  columns: number,
): Float64Array {
  const threshold = Math.floor(Math.fround(probability) * 65536 + 0.5)
  // The scale is a float32.
  const scale = Math.fround(65536 / (65536 - threshold))
  const mask = new Float64Array(rowSample.length * columns)
  for (let row = 0; row < rowSample.length; ++row)
    for (let column = 0; column < columns; ++column) {
      const counter: Words = [
        ((module << 16) | (column >> 3)) >>> 0,
        rowPosition[row],
        rowSample[row],
        step,
      ]
      const word = philox(counter, low32(seed), low32(seed >> 32n))[(column % 8) >> 1]
      const bits = column % 2 === 0 ? word & 0xffff : word >>> 16
      mask[row * columns + column] = bits < threshold ? 0 : scale
    }
  return mask
}

/** The word behind element i of a random tensor. */
export function randomWord(seed: bigint, subsequence: bigint, i: number): number {
  const counter: Words = [i >>> 2, 0, low32(subsequence), low32(subsequence >> 32n)]
  return philox(counter, low32(seed), low32(seed >> 32n))[i % 4]
}
