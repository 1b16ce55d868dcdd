import { Adapter } from '../adapters/adapter.js'
import { Tape } from '../autograd.js'
import type { PackedBatch } from '../data/packed-batch.js'
import type { Decoder, DecoderInput, LowRankSource } from '../models/index.js'
import { headCrossEntropy } from '../ops/head-cross-entropy.js'
import type { Pass } from '../ops/pass.js'
import { scope } from '../scope.js'
import { type Tensor, vector } from '../tensor.js'
import { routingRows } from './routing.js'

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
  { checkpointing = false, onForward }: MicroBatchOptions = {},
): void {
  const { device } = decoder
  scope(() => {
    using tape = new Tape()
    const rowSample = vector(device, batch.rowSample)
    const input = decoderInput(decoder, batch)
    const pass: Pass = {
      device,
      tape,
      dropout: { step: inputs.step, rowSample, rowPosition: input.positions },
      routing:
        adapter instanceof Adapter ? routingRows(adapter, batch, inputs.routerScale ?? null) : null,
    }
    const hidden = decoder.forward(pass, input, adapter, { checkpointing })
    const { loss } = headCrossEntropy(
      pass,
      hidden,
      decoder.weights.head,
      vector(device, batch.labelRows),
      vector(device, batch.labels),
      {
        lossScale: inputs.lossScale,
        rowWeight: inputs.rowWeight ? vector(device, inputs.rowWeight) : null,
      },
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
