import { readdirSync } from 'node:fs'
import type { Device } from '../../lib/device.js'
import { logits } from '../../lib/ops/logits.js'
import { Decoder, type LowRankSource, readConfig } from '../../lib/models/index.js'
import { disposeWeights, type LoadOptions, loadWeights } from '../../lib/models/load.js'
import { Tensor, vector } from '../../lib/tensor.js'
import { evaluate } from '../evaluate.js'
import { goldenPath, goldenTensors } from '../golden-files.js'

/** The golden models with expected logits. */
export const goldenModels = readdirSync(goldenPath('models')).filter(
  (name) => name !== 'qwen2-text',
)

/** A model of test/golden on a device; dispose it. */
export async function loadGoldenModel(
  device: Device,
  name: string,
  options: LoadOptions = {},
): Promise<Decoder & Disposable> {
  return loadDecoder(device, goldenPath(`models/${name}/model`), options)
}

export async function loadDecoder(
  device: Device,
  folder: string,
  options: LoadOptions = {},
): Promise<Decoder & Disposable> {
  const config = await readConfig(folder)
  return disposable(new Decoder(device, config, await loadWeights(device, folder, config, options)))
}

/** Ends the weights with the decoder. */
export function disposable(decoder: Decoder): Decoder & Disposable {
  return Object.assign(decoder, {
    [Symbol.dispose]() {
      disposeWeights(decoder.weights)
      decoder.dispose()
    },
  })
}

export interface Expected {
  readonly tokens: Int32Array
  readonly cuSeqlens: Int32Array
  readonly logits: Float32Array
}

/** The packed sequences of an expected.safetensors, and what transformers made of them. */
export function expectedLogits(name: string): Expected {
  const tensors = goldenTensors(`${name}/expected.safetensors`)
  return {
    tokens: tensors.get('tokens')!.values as Int32Array,
    cuSeqlens: tensors.get('cu_seqlens')!.values as Int32Array,
    logits: tensors.get('logits')!.values as Float32Array,
  }
}

/** The position of each packed row in its sequence. */
export function positionsOf(cuSeqlens: Int32Array): Int32Array {
  const positions = new Int32Array(cuSeqlens.at(-1)!)
  for (let s = 0; s + 1 < cuSeqlens.length; ++s)
    for (let row = cuSeqlens[s]; row < cuSeqlens[s + 1]; ++row) positions[row] = row - cuSeqlens[s]
  return positions
}

/** Hidden states and logits of every row. */
export async function forwardAll(
  decoder: Decoder,
  { tokens, cuSeqlens }: Pick<Expected, 'tokens' | 'cuSeqlens'>,
  adapter: LowRankSource | null = null,
): Promise<{ hidden: Float32Array; logits: Float32Array }> {
  const { device, weights } = decoder
  return evaluate(() => {
    const pass = { device, tape: null, dropout: null }
    const positions = positionsOf(cuSeqlens)
    const hidden = decoder.forward(
      pass,
      {
        inputIds: vector(device, tokens),
        positions: vector(device, positions),
        numPositions: Math.max(0, ...positions) + 1,
        sequences: { cuSeqlens: vector(device, cuSeqlens) },
      },
      adapter,
    )
    const rows = Tensor.from(
      device,
      Int32Array.from(tokens, (_, row) => row),
    )
    return { hidden, logits: logits(pass, hidden, rows, weights.head) }
  })
}
