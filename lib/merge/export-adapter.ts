import { loadAdapter, saveAdapter } from '../adapters/peft.js'
import { Device, type DeviceOptions } from '../device.js'
import { readConfig } from '../models/index.js'
import { requireOutside } from '../output-folder.js'
import { plainAdapter, type PlainAdapterOptions } from './plain-adapter.js'

export interface ExportAdapterOptions extends DeviceOptions, PlainAdapterOptions {
  /** Model folder: its configuration alone is read. */
  readonly model: string
  /** Adapter or mixture folder. */
  readonly adapter: string
  /** New, empty, or an adapter already. */
  readonly output: string
  readonly device?: string
}

/**
 * Writes an adapter of any kind as the plain LoRA in PEFT's format that `plainAdapter` makes of it.
 *
 * @returns the part of the energy that a lower rank has lost; 0: none
 * @throws ConfigError for an adapter without a fixed update
 */
export async function exportAdapter(
  options: ExportAdapterOptions,
): Promise<{ lostEnergy: number }> {
  const { model, adapter: folder, output, index, threads, instructionSet, memoryBudget } = options
  await requireOutside(output, [model, folder])
  const config = await readConfig(model)
  const device = Device.open(options.device, { index, threads, instructionSet, memoryBudget })
  try {
    using adapter = await loadAdapter(device, config, folder)
    const made = await plainAdapter(device, config, adapter, options)
    using plain = made.adapter
    await saveAdapter(plain, output, { baseModel: model })
    return { lostEnergy: made.lostEnergy }
  } finally {
    await device.close()
  }
}
