import type { Device, Recording } from './device.js'

/**
 * Work that is queued over and over with the same tensors and shapes: as usual at first, then recorded, and from there on
 * replayed, if the device can.
 */
export class Repeated {
  readonly #device: Device
  readonly #body: () => void
  readonly #recordAt: number
  #runs = 0
  #recording: Recording | null = null

  /**
   * @param body queues the work; a tensor that it makes must end in it
   * @param recordAt which run is recorded, from 1; default 2
   */
  constructor(device: Device, body: () => void, { recordAt = 2 } = {}) {
    this.#device = device
    this.#body = body
    this.#recordAt = recordAt
  }

  run(): void {
    if (++this.#runs === this.#recordAt) this.#recording = this.#device.record(this.#body)
    if (this.#recording) this.#recording.replay()
    else this.#body()
  }

  dispose(): void {
    this.#recording?.dispose()
    this.#recording = null
  }
}
