import { join } from 'node:path'
import type { Adapter } from '../adapters/adapter.js'
import { CheckpointError } from '../errors.js'
import { SafetensorsFile, type SafetensorsSource, writeSafetensors } from '../safetensors.js'
import type { Tensor } from '../tensor.js'
import type { AdamW } from './optimizer.js'

/** The float32 values and moments of everything that is trained: what a resumed run needs to go on bit for bit. */

const fileName = 'training.safetensors'
const momentSuffix = '#moment'
const varianceSuffix = '#variance'

/** An optimiser, and the adapter that it trains, if any. */
export interface Trained {
  readonly optimizer: AdamW
  readonly adapter: Adapter | null
}

/** Bytes that {@link saveTrainingState} writes, without the header. */
export function trainingStateBytes(trained: Trained): number {
  let bytes = 0
  for (const { tensor } of stateTensors(trained)) bytes += tensor.byteLength
  return bytes
}

/** Writes training.safetensors into a folder. Nothing may be trained before the promise resolves. */
export async function saveTrainingState(trained: Trained, folder: string): Promise<void> {
  const entries: SafetensorsSource[] = Array.from(stateTensors(trained), ({ name, tensor }) => ({
    name,
    source: tensor,
  }))
  await writeSafetensors(join(folder, fileName), [['format', 'pt']], entries)
}

/** @throws CheckpointError if the file holds other tensors than are trained */
export async function restoreTrainingState(trained: Trained, folder: string): Promise<void> {
  using file = await SafetensorsFile.open(join(folder, fileName))
  const tensors = [...stateTensors(trained)]
  for (const { name, tensor } of tensors) {
    const entry = file.entries.get(name)
    if (entry?.shape.join() !== tensor.shape.join())
      throw new CheckpointError(
        `${file.path}: tensor ${name} is ${entry ? `[${entry.shape.join(', ')}]` : 'missing'}, the run needs [${tensor.shape.join(', ')}]`,
        { details: { file: file.path, key: name } },
      )
  }
  if (file.entries.size !== tensors.length)
    throw new CheckpointError(
      `${file.path} has ${file.entries.size} tensors, the run needs ${tensors.length}`,
      { details: { file: file.path } },
    )
  for (const { name, tensor } of tensors) await file.readTensor(name, tensor)
  trained.optimizer.repack()
}

function* stateTensors(trained: Trained): Generator<{ name: string; tensor: Tensor }> {
  for (const { name, value, moment, variance } of trained.optimizer.state()) {
    yield { name, tensor: value }
    yield { name: `${name}${momentSuffix}`, tensor: moment }
    yield { name: `${name}${varianceSuffix}`, tensor: variance }
  }
  if (trained.adapter) yield* trained.adapter.buffers()
}
