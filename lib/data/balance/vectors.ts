import type { Device } from '../../device.js'
import { scope } from '../../scope.js'
import { Tensor } from '../../tensor.js'

/**
 * Directions in bytes: each row is a vector rounded to whole numbers of at most 127. A product of two rows is a whole
 * number below 2^24, so float32 holds it exactly: clusters and neighbours are the same on every device.
 */
export class Vectors {
  readonly dimensions: number
  /** One over the length of each row; 0 for a vector without a direction. */
  readonly inverseNorms: Float64Array
  readonly #bytes: Int8Array

  /** @param dimensions at most 1,024, for exact products */
  constructor(size: number, dimensions: number) {
    this.dimensions = dimensions
    this.inverseNorms = new Float64Array(size)
    this.#bytes = new Int8Array(size * dimensions)
  }

  get size(): number {
    return this.inverseNorms.length
  }

  /** Rounds a direction, of any length, into a row. */
  set(index: number, direction: ArrayLike<number>): void {
    const row = this.row(index)
    let largest = 0
    for (let i = 0; i < row.length; i++) largest = Math.max(largest, Math.abs(direction[i]))
    const scale = largest > 0 && Number.isFinite(largest) ? 127 / largest : 0
    let square = 0
    for (let i = 0; i < row.length; i++) {
      row[i] = scale === 0 ? 0 : Math.round(direction[i] * scale)
      square += row[i] * row[i]
    }
    this.inverseNorms[index] = square > 0 ? 1 / Math.sqrt(square) : 0
  }

  row(index: number): Int8Array {
    return this.#bytes.subarray(index * this.dimensions, (index + 1) * this.dimensions)
  }

  cosine(i: number, j: number): number {
    const { dimensions } = this
    const a = i * dimensions
    const b = j * dimensions
    const bytes = this.#bytes
    let sum = 0
    for (let k = 0; k < dimensions; k++) sum += bytes[a + k] * bytes[b + k]
    return sum * this.inverseNorms[i] * this.inverseNorms[j]
  }

  /** Some rows as numbers, f32 [items, dimensions]. */
  gather(items: ArrayLike<number>): Float32Array {
    const rows = new Float32Array(items.length * this.dimensions)
    for (let k = 0; k < items.length; k++) rows.set(this.row(items[k]), k * this.dimensions)
    return rows
  }
}

/** All products of the rows of two matrices [m, d] and [n, d], f32 [m, n]. */
export async function products(
  device: Device,
  a: Float32Array,
  b: Float32Array,
  dimensions: number,
): Promise<Float32Array> {
  const y = scope(() => {
    const x = Tensor.from(device, a, [a.length / dimensions, dimensions])
    const w = Tensor.from(device, b, [b.length / dimensions, dimensions])
    const y = Tensor.empty(device, [x.shape[0], w.shape[0]])
    device.run('matmul', {
      layout: 'nt',
      segments: [{ x: x.native, w: w.native }],
      y: y.native,
    })
    return y
  })
  try {
    return await y.readFloats()
  } finally {
    y.release()
  }
}
