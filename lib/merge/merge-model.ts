import { loadAdapter } from '../adapters/peft.js'
import { Device, type DeviceOptions } from '../device.js'
import { readConfig } from '../models/index.js'
import { disposeWeights, loadWeights } from '../models/load.js'
import { mergeAdapter } from './merge.js'
import { type ModelDType, modelDType, requireModelOutput, saveModel } from './save-model.js'

export interface MergeModelOptions extends DeviceOptions {
  /** Model folder. */
  readonly model: string
  /** Adapter folder. */
  readonly adapter: string
  /** New or empty, and outside the other two. */
  readonly output: string
  /** Of the file that is written; default: the model's. */
  readonly dtype?: ModelDType
  readonly device?: string
  readonly signal?: AbortSignal
  readonly onProgress?: (what: 'read' | 'merged', done: number, total: number) => void
}

/** Writes a model folder whose weights are those of `model` with `adapter` added. */
export async function mergeModel(options: MergeModelOptions): Promise<void> {
  const { model, adapter: adapterFolder, output, dtype, signal, onProgress } = options
  const { index, threads, instructionSet, memoryBudget } = options
  await requireModelOutput(output, [model, adapterFolder])
  const config = await readConfig(model)
  const device = Device.open(options.device, { index, threads, instructionSet, memoryBudget })
  try {
    const weights = await loadWeights(device, model, config, {
      signal,
      onProgress: (read, total) => onProgress?.('read', read, total),
    })
    try {
      const adapter = await loadAdapter(device, config, adapterFolder)
      try {
        await mergeAdapter(weights, adapter, {
          float32: (dtype ?? modelDType(config)) !== 'bf16',
          signal,
          onProgress: (merged, total) => onProgress?.('merged', merged, total),
        })
      } finally {
        adapter.dispose()
      }
      signal?.throwIfAborted()
      await saveModel(output, { config, weights, tokenizerFrom: model, dtype })
    } finally {
      disposeWeights(weights)
    }
  } finally {
    await device.close()
  }
}
