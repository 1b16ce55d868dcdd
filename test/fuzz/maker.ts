/** Tensors, weights and numbers for the arguments of one call of an operation. */

import type { DType, NativeDevice, NativeTensor, NativeWeight } from '../../lib/native.js'
import type { Random } from '../random.js'
import { chance, pick } from './part.js'
import { bytesOfDtype, native, type World } from './world.js'

/** Where the maker gets its weights and views, and which is told of its tensors. */
export type Shelf = Pick<World, 'random' | 'own' | 'facts' | 'view' | 'weight'>

export interface MakerOptions {
  /** Which of the tensors gets values that nobody expects; default: none. */
  readonly hostileOne?: number
  /** What a size may be. */
  readonly sizes?: readonly number[]
}

const oddSizes = [0, 1, 1, 2, 3, 5, 7, 8, 9, 15, 16, 17, 31, 33, 64, 67]

/** Makes the tensors of one call. */
export class Maker {
  readonly shelf: Shelf
  readonly random: Random
  readonly device: NativeDevice
  readonly #hostileOne: number
  readonly #sizes: readonly number[]
  #made = 0

  constructor(
    shelf: Shelf,
    device: NativeDevice,
    { hostileOne = -1, sizes = oddSizes }: MakerOptions = {},
  ) {
    this.shelf = shelf
    this.random = shelf.random
    this.device = device
    this.#hostileOne = hostileOne
    this.#sizes = sizes
  }

  size(least = 0): number {
    return Math.max(least, pick(this.random, this.#sizes))
  }
  flag(): boolean {
    return chance(this.random, 0.5)
  }
  maybe<T>(make: () => T): T | undefined {
    return this.flag() ? make() : undefined
  }
  /** `same`, or a tensor of its own: for outputs that may lie where an input does. */
  either(same: NativeTensor, shape: readonly number[]): NativeTensor {
    return this.flag() ? same : this.f32(...shape)
  }

  f32(...shape: number[]): NativeTensor {
    return this.#tensor('f32', shape, (count) => this.random.normal(count), true)
  }
  /** Without gaps between its elements. */
  f32Packed(...shape: number[]): NativeTensor {
    return this.#tensor('f32', shape, (count) => this.random.normal(count), false)
  }
  /** Numbers from 0 to 1. */
  share(count: number): NativeTensor {
    return this.#tensor(
      'f32',
      [count],
      () => Float32Array.from({ length: count }, () => this.random.next()),
      false,
    )
  }
  scalar(value: number): NativeTensor {
    return this.#tensor('f32', [1], () => Float32Array.of(value), false)
  }
  step(): NativeTensor {
    return this.#tensor('i32', [1], () => Int32Array.of(1 + this.random.integer(9)), false)
  }
  /** Integers from 0 to below `limit`. */
  i32(limit: number, ...shape: number[]): NativeTensor {
    return this.#tensor('i32', shape, (count) => this.random.integers(count, limit), false)
  }
  /** `count` of the numbers below `limit`, rising. */
  rising(count: number, limit: number): NativeTensor {
    const values = this.random.permutation(limit).slice(0, count).sort()
    return this.#tensor('i32', [count], () => values, false)
  }
  cuSeqlens(rows: number): NativeTensor {
    const cuts = this.random.integers(this.random.integer(4), rows + 1).sort()
    return this.#tensor('i32', [cuts.length + 2], () => Int32Array.of(0, ...cuts, rows), false)
  }
  narrow(dtype: DType, ...shape: number[]): NativeTensor {
    return this.#tensor(dtype, shape, (count) => new Uint16Array(count).fill(0x3c00), false)
  }
  weight(rows: number, columns: number): NativeWeight {
    const weight = this.shelf.weight(rows, columns, this.device)
    native.run(this.device, 'weight_update', {
      weight,
      source: this.f32(rows, columns),
      rowBegin: 0,
    })
    return weight
  }
  dropout(rows: number): object | undefined {
    return this.maybe(() => ({
      probability: pick(this.random, [0, 0.1, 0.5, 0.99]),
      module: this.random.integer(1 << 16),
      seed: BigInt(this.random.integer(2 ** 31)),
      step: this.step(),
      rowSample: this.i32(2 ** 31 - 1, rows),
      rowPosition: this.i32(2 ** 31 - 1, rows),
    }))
  }

  #tensor(
    dtype: DType,
    shape: readonly number[],
    values: (count: number) => Float32Array | Int32Array | Uint16Array,
    mayHaveGaps: boolean,
  ): NativeTensor {
    const { shelf, random } = this
    // Rows that are further apart than they are long.
    const gap =
      mayHaveGaps && shape.length > 1 && !shape.includes(0) && chance(random, 0.25)
        ? 1 + random.integer(5)
        : 0
    const last = (shape.at(-1) ?? 1) + gap
    const whole = [...shape.slice(0, -1), last]
    const count = whole.reduce((a, b) => a * b, 1)
    const tensor = native.allocate(this.device, dtype, gap > 0 ? whole : shape)
    const content =
      this.#made++ === this.#hostileOne ? hostileValues(random, dtype, count) : values(count)
    native.writeTensor(tensor, bytesOfDtype[dtype] === 4 ? content : new Uint16Array(content))
    shelf.own('allocate', tensor, `a tensor ${dtype} [${shape.join(', ')}]`)
    const strides = whole.map((_, i) => whole.slice(i + 1).reduce((a, b) => a * b, 1))
    shelf.facts.set(tensor, { dtype, shape: whole, strides })
    return gap > 0 ? shelf.view(tensor, random.integer(gap + 1), [...shape], strides) : tensor
  }
}

function hostileValues(random: Random, dtype: DType, count: number): Float32Array | Int32Array {
  const floats = [NaN, Infinity, -Infinity, 3e38, -3e38, 1e-42, -0, 1]
  const integers = [-1, -(2 ** 31), 2 ** 31 - 1, 2 ** 30, 70, 1, 0]
  // Everywhere, or here and there.
  const density = pick(random, [0.05, 0.3, 1])
  return dtype === 'i32'
    ? Int32Array.from({ length: count }, () =>
        chance(random, density) ? pick(random, integers) : 0,
      )
    : Float32Array.from({ length: count }, () =>
        chance(random, density) ? pick(random, floats) : random.next(),
      )
}
