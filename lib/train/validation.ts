import { Adapter } from '../adapters/adapter.js'
import type { PackedBatch } from '../data/packed-batch.js'
import type { Decoder, LowRankSource } from '../models/index.js'
import { headCrossEntropy } from '../ops/head-cross-entropy.js'
import type { Pass } from '../ops/pass.js'
import { scope } from '../scope.js'
import { Tensor, vector } from '../tensor.js'
import { routingRows } from './routing.js'
import { decoderInput } from './step.js'
import { LossSums } from './loss-sums.js'

export interface ValidationLoss {
  /** Mean in nats over all labelled tokens. */
  readonly loss: number
  readonly lossByDiscipline: Readonly<Record<string, number>>
}

/** Mean loss over packed batches, without dropout and without keeping anything for a backward pass. */
export async function validationLoss(
  decoder: Decoder,
  adapter: LowRankSource | null,
  batches: AsyncIterable<PackedBatch>,
  signal?: AbortSignal,
): Promise<ValidationLoss> {
  const sums = new LossSums()
  for await (const batch of batches) {
    signal?.throwIfAborted()
    const loss = tokenLosses(decoder, adapter, batch)
    try {
      sums.add(batch, await loss.readFloats())
    } finally {
      loss.release()
    }
  }
  return sums.means()
}

/** The loss of each labelled row in nats, without dropout: f32 [L]. */
export function tokenLosses(
  decoder: Decoder,
  adapter: LowRankSource | null,
  batch: PackedBatch,
): Tensor {
  return scope(() => batchLoss(decoder, adapter, batch))
}

function batchLoss(decoder: Decoder, adapter: LowRankSource | null, batch: PackedBatch): Tensor {
  const { device } = decoder
  const routing = adapter instanceof Adapter ? routingRows(adapter, batch, null) : null
  const pass: Pass = { device, tape: null, dropout: null, routing }
  const hidden = decoder.forward(pass, decoderInput(decoder, batch), adapter)
  const { loss } = headCrossEntropy(
    pass,
    hidden,
    decoder.weights.head,
    vector(device, batch.labelRows),
    vector(device, batch.labels),
    { lossScale: Tensor.full(device, [1], 1) },
  )
  return loss
}
