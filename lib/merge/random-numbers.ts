import type { Device } from '../device.js'
import { random } from '../ops/random.js'
import { Tensor } from '../tensor.js'

/** Philox numbers for the searches: one subsequence a draw, so that a search depends on its seed alone. */
export class RandomNumbers {
  readonly #device: Device
  readonly #seed: bigint
  #subsequence = 0n

  constructor(device: Device, seed: number) {
    this.#device = device
    this.#seed = BigInt(seed)
  }

  /** In [0, 1). */
  uniform(count: number): Promise<number[]> {
    return this.#draw(count, { kind: 'uniform', low: 0, high: 1 })
  }

  normal(count: number): Promise<number[]> {
    return this.#draw(count, { kind: 'normal', mean: 0, deviation: 1 })
  }

  async #draw(count: number, distribution: Parameters<typeof random>[1]): Promise<number[]> {
    using y = Tensor.empty(this.#device, [count])
    random(y, distribution, this.#seed, this.#subsequence++)
    return [...(await y.readFloats())]
  }
}
