import type { Adapter } from '../adapters/adapter.js'
import { Device, type DeviceOptions } from '../device.js'
import { Model } from '../model.js'
import type { DecoderConfig } from '../models/index.js'
import { logits } from '../ops/logits.js'
import { scope } from '../scope.js'
import { vector } from '../tensor.js'

export interface MergeReportOptions extends DeviceOptions {
  /** Model folder. */
  readonly model: string
  /** What its merged form is compared with: the adapters beside the model. It is disposed here. */
  readonly adapter: (device: Device, config: DecoderConfig) => Promise<Adapter>
  /** The merged model's folder. */
  readonly merged: string
  readonly prompts: readonly string[]
  readonly device?: string
  readonly signal?: AbortSignal
}

/** How far a merged model is from model and adapters on one prompt. */
export interface MergeReportRow {
  readonly prompt: string
  readonly tokens: number
  /** Of all logits: the largest absolute difference, and the largest absolute value. */
  readonly largestDifference: number
  readonly largestLogit: number
  /** Kullback-Leibler divergence of the merged model's next-token distribution, in nats: the mean over positions. */
  readonly divergence: number
  /** Positions at which both think the same token the likeliest. */
  readonly agreement: number
}

/** Compares the logits of a model with adapters beside it to those of a merged model, on the same prompts. */
export async function mergeReport(options: MergeReportOptions): Promise<MergeReportRow[]> {
  const { index, threads, instructionSet, memoryBudget, signal } = options
  const device = Device.open(options.device, { index, threads, instructionSet, memoryBudget })
  try {
    const expected: Float32Array[] = []
    let tokens: Int32Array[] = []
    {
      // One model after the other: both need not fit in memory.
      const model = await Model.load(options.model, { device, signal })
      try {
        tokens = await model.tokenizer.encode(options.prompts, { addSpecialTokens: true })
        const adapter = await options.adapter(device, model.config)
        try {
          await adapter.bind(model.decoder.weights, { loaded: true })
          for (const one of tokens) expected.push(await logitsOf(model, adapter, one))
        } finally {
          adapter.dispose()
        }
      } finally {
        await model.dispose()
      }
    }
    const merged = await Model.load(options.merged, { device, signal })
    try {
      const rows: MergeReportRow[] = []
      for (const [i, prompt] of options.prompts.entries()) {
        const actual = await logitsOf(merged, null, tokens[i])
        rows.push({ prompt, ...compare(expected[i], actual, merged.config.vocabSize) })
      }
      return rows
    } finally {
      await merged.dispose()
    }
  } finally {
    await device.close()
  }
}

/** [T, vocabulary] */
async function logitsOf(
  { decoder, device }: Model,
  adapter: Adapter | null,
  tokens: Int32Array,
): Promise<Float32Array> {
  if (tokens.length === 0) return new Float32Array()
  const positions = Int32Array.from(tokens.keys())
  const result = scope(() => {
    const pass = { device, tape: null, dropout: null }
    const input = {
      inputIds: vector(device, tokens),
      positions: vector(device, positions),
      numPositions: tokens.length,
      sequences: { cuSeqlens: vector(device, Int32Array.of(0, tokens.length)) },
    }
    const hidden = decoder.forward(pass, input, adapter)
    return logits(pass, hidden, vector(device, positions), decoder.weights.head)
  })
  try {
    return await result.readFloats()
  } finally {
    result.release()
  }
}

function compare(expected: Float32Array, actual: Float32Array, vocabSize: number) {
  const tokens = expected.length / vocabSize
  let [largestDifference, largestLogit, divergence, agreement] = [0, 0, 0, 0]
  for (let t = 0; t < tokens; t++) {
    const p = expected.subarray(t * vocabSize, (t + 1) * vocabSize)
    const q = actual.subarray(t * vocabSize, (t + 1) * vocabSize)
    const [logP, logQ] = [logSumExp(p), logSumExp(q)]
    let [bestP, bestQ] = [0, 0]
    for (let i = 0; i < vocabSize; i++) {
      largestDifference = Math.max(largestDifference, Math.abs(p[i] - q[i]))
      largestLogit = Math.max(largestLogit, Math.abs(p[i]))
      divergence += (Math.exp(p[i] - logP) * (p[i] - logP - (q[i] - logQ))) / tokens
      if (p[i] > p[bestP]) bestP = i
      if (q[i] > q[bestQ]) bestQ = i
    }
    if (bestP === bestQ) agreement++
  }
  return { tokens, largestDifference, largestLogit, divergence, agreement }
}

function logSumExp(values: Float32Array): number {
  let largest = -Infinity
  for (const value of values) largest = Math.max(largest, value)
  let sum = 0
  for (const value of values) sum += Math.exp(value - largest)
  return largest + Math.log(sum)
}
