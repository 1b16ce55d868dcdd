import { Adapter } from '../adapters/adapter.js'
import { Tape } from '../autograd.js'
import type { PackedBatch } from '../data/packed-batch.js'
import type { Decoder, DecoderInput, LowRankSource } from '../models/index.js'
import { headCrossEntropy } from '../ops/head-cross-entropy.js'
import type { Pass } from '../ops/pass.js'
import { scope } from '../scope.js'
import { type Tensor, vector } from '../tensor.js'
import { routingData } from './routing.js'

/** What changes from one optimiser step to the next, in device memory. */
export interface StepInputs {
  /** i32 [1]: the optimiser step, which keys the dropout masks. */
  readonly step: Tensor
  /** f32 [1]: one over the trained tokens of the step. */
  readonly lossScale: Tensor
  /** By label, what it counts beside lossScale; absent: 1. */
  readonly rowWeight?: Float32Array | null
  /** f32 [1]: one over the tokens of the step and over the routers; absent: they have no losses of their own. */
  readonly routerScale?: Tensor | null
}

export interface MicroBatchOptions {
  /** Recompute each block in the backward pass instead of keeping its activations; default false. */
  checkpointing?: boolean
  /** Called when the forward pass is queued and the backward pass is not: the device holds what is kept between them. */
  onForward?: () => void
}

/**
 * Forward and backward pass of one packed micro-batch; gradients are added to the parameters'. Only queues work.
 *
 * @param losses f32 [L']: the micro-batch's part of the step's losses, one a labelled row, filled here
 */
export function trainMicroBatch(
  decoder: Decoder,
  adapter: LowRankSource | null,
  batch: PackedBatch,
  inputs: StepInputs,
  losses: Tensor,
  options: MicroBatchOptions = {},
): void {
  scope(() => {
    const upload = (values: Int32Array | Float32Array) => vector(decoder.device, values)
    const data = mapBatch(batchData(adapter, batch, inputs.rowWeight ?? null), upload)
    queueMicroBatch(decoder, adapter, data, batch.maxSeqlen, inputs, losses, options)
  })
}

/** What the device needs of a batch. */
export interface BatchData<T> {
  readonly inputIds: T
  readonly positions: T
  readonly cuSeqlens: T
  readonly rowSample: T
  readonly labelRows: T
  readonly labels: T
  readonly rowWeight: T | null
  readonly rowDiscipline: T | null
  readonly rowExpert: T | null
}

export function batchData(
  adapter: LowRankSource | null,
  batch: PackedBatch,
  rowWeight: Float32Array | null,
): BatchData<Int32Array | Float32Array> {
  const { inputIds, positions, cuSeqlens, rowSample, labelRows, labels } = batch
  const routing = adapter instanceof Adapter ? routingData(adapter, batch) : null
  return {
    inputIds,
    positions,
    cuSeqlens,
    rowSample,
    labelRows,
    labels,
    rowWeight,
    rowDiscipline: routing?.rowDiscipline ?? null,
    rowExpert: routing?.rowExpert ?? null,
  }
}

export function mapBatch<S, T>(data: BatchData<S>, map: (part: S) => T): BatchData<T> {
  const entries = Object.entries(data) as [string, S | null][]
  return Object.fromEntries(
    entries.map(([name, part]) => [name, part === null ? null : map(part)]),
  ) as unknown as BatchData<T>
}

/** {@link trainMicroBatch} of a batch that is on the device; `numPositions` is one above its largest position. */
export function queueMicroBatch(
  decoder: Decoder,
  adapter: LowRankSource | null,
  data: BatchData<Tensor>,
  numPositions: number,
  { step, lossScale, routerScale = null }: StepInputs,
  losses: Tensor,
  { checkpointing = false, onForward }: MicroBatchOptions,
): void {
  const { device } = decoder
  scope(() => {
    using tape = new Tape()
    const { inputIds, positions, cuSeqlens, rowDiscipline, rowExpert, rowWeight } = data
    const pass: Pass = {
      device,
      tape,
      dropout: { step, rowSample: data.rowSample, rowPosition: positions },
      routing: rowDiscipline && { rowDiscipline, rowExpert, lossScale: routerScale },
    }
    const input = { inputIds, positions, numPositions, sequences: { cuSeqlens } }
    const hidden = decoder.forward(pass, input, adapter, { checkpointing })
    const { loss } = headCrossEntropy(
      pass,
      hidden,
      decoder.weights.head,
      data.labelRows,
      data.labels,
      { lossScale, rowWeight },
    )
    device.run('copy', { x: loss.native, y: losses.native })
    onForward?.()
    tape.backward()
  })
}

/** Uploads a packed batch. The tensors belong to the current scope. */
export function decoderInput(decoder: Decoder, batch: PackedBatch): DecoderInput {
  const { device } = decoder
  return {
    inputIds: vector(device, batch.inputIds),
    positions: vector(device, batch.positions),
    numPositions: batch.maxSeqlen,
    sequences: { cuSeqlens: vector(device, batch.cuSeqlens) },
  }
}
