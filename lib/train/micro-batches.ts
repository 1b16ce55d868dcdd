import type { Adapter } from '../adapters/adapter.js'
import type { PackedBatch } from '../data/packed-batch.js'
import type { Device } from '../device.js'
import type { Decoder } from '../models/index.js'
import { Repeated } from '../repeated.js'
import { Scope, scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import {
  batchData,
  type BatchData,
  mapBatch,
  type MicroBatchOptions,
  queueMicroBatch,
  type StepInputs,
} from './step.js'

/**
 * Batches of one shape come at least so often in a row before they are recorded: then they are no accident. On the CPU
 * never: queueing is under 1% of a step there, and a recording would hold the memory of a whole one.
 */
const recordAt = (device: Device) => (device.kind === 'cpu' ? Infinity : 4)

/** Batches of one shape, whose data stay where they are. */
interface Shape {
  readonly key: string
  readonly data: BatchData<Tensor>
  readonly losses: Tensor
  readonly work: Repeated
}

/**
 * The micro-batches of a training run. Packed batches mostly differ in their shapes; while they do not, as where every
 * sequence is full and every token is trained, a GPU replays them.
 */
export class MicroBatches {
  readonly #decoder: Decoder
  readonly #adapter: Adapter | null
  readonly #inputs: StepInputs
  readonly #options: MicroBatchOptions
  #shape: Shape | null = null

  constructor(
    decoder: Decoder,
    adapter: Adapter | null,
    inputs: StepInputs,
    options: MicroBatchOptions,
  ) {
    this.#decoder = decoder
    this.#adapter = adapter
    this.#inputs = inputs
    this.#options = options
  }

  /** Queues the forward and backward pass of one; see `trainMicroBatch`. */
  run(batch: PackedBatch, losses: Tensor): void {
    const data = batchData(this.#adapter, batch, batch.labelWeight ?? null)
    const shape = this.#shapeFor(data, batch.maxSeqlen)
    for (const name of Object.keys(data) as (keyof BatchData<Tensor>)[])
      shape.data[name]?.write(data[name]!)
    shape.work.run()
    losses.copyFrom(shape.losses)
  }

  dispose(): void {
    if (!this.#shape) return
    const { data, losses, work } = this.#shape
    work.dispose()
    for (const tensor of [losses, ...Object.values(data)]) tensor?.release()
    this.#shape = null
  }

  #shapeFor(data: BatchData<Int32Array | Float32Array>, numPositions: number): Shape {
    const sizes = mapBatch(data, ({ length }) => length)
    const key = JSON.stringify([numPositions, sizes])
    if (this.#shape?.key === key) return this.#shape
    this.dispose()
    const decoder = this.#decoder
    const empty = (values: Int32Array | Float32Array) =>
      Tensor.empty(decoder.device, [values.length], values instanceof Int32Array ? 'i32' : 'f32')
    const made = scope(() => {
      return {
        ...mapBatch(data, empty),
        losses: Tensor.empty(decoder.device, [data.labels.length]),
      }
    })
    for (const tensor of Object.values(made)) if (tensor) Scope.detach(tensor)
    const { losses, ...tensors } = made
    const body = () => {
      queueMicroBatch(
        decoder,
        this.#adapter,
        tensors,
        numPositions,
        this.#inputs,
        losses,
        this.#options,
      )
    }
    const work = new Repeated(decoder.device, body, { recordAt: recordAt(decoder.device) })
    this.#shape = { key, data: tensors, losses, work }
    return this.#shape
  }
}
