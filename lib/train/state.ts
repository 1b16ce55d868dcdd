import { join } from 'node:path'
import { CheckpointError } from '../errors.js'
import { SafetensorsFile, type SafetensorsSource, writeSafetensors } from '../safetensors.js'
import type { Tensor } from '../tensor.js'
import type { Trainer } from './trainer.js'

/** The float32 values and moments of everything that is trained: what a resumed run needs to go on bit for bit. */

const fileName = 'training.safetensors'
const momentSuffix = '#moment'
const varianceSuffix = '#variance'

/** Bytes that {@link saveTrainingState} writes, without the header. */
export function trainingStateBytes(trainer: Trainer): number {
  let bytes = 0
  for (const { tensor } of stateTensors(trainer)) bytes += tensor.byteLength
  return bytes
}

/** Writes training.safetensors into a folder. The trainer must not step before the promise resolves. */
export async function saveTrainingState(trainer: Trainer, folder: string): Promise<void> {
  const entries: SafetensorsSource[] = Array.from(stateTensors(trainer), ({ name, tensor }) => ({
    name,
    source: tensor,
  }))
  await writeSafetensors(join(folder, fileName), [['format', 'pt']], entries)
}

/** @throws CheckpointError if the file holds other tensors than the trainer has */
export async function restoreTrainingState(trainer: Trainer, folder: string): Promise<void> {
  using file = await SafetensorsFile.open(join(folder, fileName))
  const tensors = [...stateTensors(trainer)]
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
  trainer.optimizer.repack()
}

function* stateTensors(trainer: Trainer): Generator<{ name: string; tensor: Tensor }> {
  for (const { name, value, moment, variance } of trainer.optimizer.state()) {
    yield { name, tensor: value }
    yield { name: `${name}${momentSuffix}`, tensor: moment }
    yield { name: `${name}${varianceSuffix}`, tensor: variance }
  }
  if (trainer.adapter) yield* trainer.adapter.buffers()
}
