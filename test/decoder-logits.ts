import { join } from 'node:path'
import type { Device } from '../lib/device.js'
import { Decoder, type LowRankSource, readConfig } from '../lib/models/index.js'
import { type ComputeDType, disposeWeights, loadWeights } from '../lib/models/load.js'
import { logits } from '../lib/ops/logits.js'
import { SafetensorsFile } from '../lib/safetensors.js'
import { scope } from '../lib/scope.js'
import { Tensor, vector } from '../lib/tensor.js'

export const goldenFolder = new URL('golden/', import.meta.url).pathname

export const goldenModel = (name: string) => join(goldenFolder, 'models', name, 'model')

/** A model without tokenizer; ends with `using`. */
export async function openDecoder(device: Device, folder: string, compute?: ComputeDType) {
  const config = await readConfig(folder)
  const weights = await loadWeights(device, folder, config, { compute })
  const decoder = new Decoder(device, config, weights)
  return {
    decoder,
    config,
    weights,
    [Symbol.dispose]() {
      decoder.dispose()
      disposeWeights(weights)
    },
  }
}

/** Packed sequences. */
export interface Sequences {
  readonly tokens: Int32Array
  readonly cuSeqlens: Int32Array
}

/** Logits of every position, [T, vocabulary]. */
export async function logitsOf(
  decoder: Decoder,
  adapter: LowRankSource | null,
  { tokens, cuSeqlens }: Sequences,
): Promise<Float32Array> {
  const { device } = decoder
  const positions = new Int32Array(tokens.length)
  for (let s = 0; s + 1 < cuSeqlens.length; s++)
    for (let t = cuSeqlens[s]; t < cuSeqlens[s + 1]; t++) positions[t] = t - cuSeqlens[s]
  const result = scope(() => {
    const pass = { device, tape: null, dropout: null }
    const input = {
      inputIds: vector(device, tokens),
      positions: vector(device, positions),
      numPositions: Math.max(...positions) + 1,
      sequences: { cuSeqlens: vector(device, cuSeqlens) },
    }
    const hidden = decoder.forward(pass, input, adapter)
    const rows = vector(device, Int32Array.from(tokens.keys()))
    return logits(pass, hidden, rows, decoder.weights.head)
  })
  try {
    return await result.readFloats()
  } finally {
    result.release()
  }
}

/** Every tensor of a safetensors file, as float32 or int32. */
export async function readTensors(
  device: Device,
  path: string,
): Promise<Map<string, { shape: number[]; dtype: string; values: Float32Array | Int32Array }>> {
  using file = await SafetensorsFile.open(path)
  const all = new Map<
    string,
    { shape: number[]; dtype: string; values: Float32Array | Int32Array }
  >()
  for (const [name, { shape, dtype }] of file.entries) {
    using tensor = Tensor.empty(device, shape, dtype === 'I32' ? 'i32' : 'f32')
    await file.readTensor(name, tensor)
    const values = dtype === 'I32' ? await tensor.readInts() : await tensor.readFloats()
    all.set(name, { shape: [...shape], dtype, values })
  }
  return all
}

/** The sequences and numbers of an expected.safetensors. */
export async function readExpected(device: Device, folder: string) {
  const tensors = await readTensors(device, join(folder, 'expected.safetensors'))
  const get = (name: string) => tensors.get(name)?.values
  return {
    sequences: {
      tokens: get('tokens') as Int32Array,
      cuSeqlens: get('cu_seqlens') as Int32Array,
    },
    logits: get('logits') as Float32Array,
    mergedLogits: get('merged_logits') as Float32Array,
  }
}
