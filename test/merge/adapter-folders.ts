import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraOptions } from '../../lib/adapters/declaration.js'
import { saveAdapter } from '../../lib/adapters/peft.js'
import type { Device } from '../../lib/device.js'
import { readConfig } from '../../lib/models/index.js'
import { Random } from '../random.js'

/** Writes a random adapter of a model and returns its weight deltas in float64, [out, in] by module. */
export async function randomAdapter(
  device: Device,
  model: string,
  folder: string,
  seed: number,
  options: LoraOptions,
  baseModel = 'base',
): Promise<Map<string, Float64Array>> {
  const random = new Random(seed)
  const adapter = Adapter.create(device, await readConfig(model), lora(options))
  const deltas = new Map<string, Float64Array>()
  try {
    for (const { path, group, part, rank, scale, inFeatures, outFeatures } of adapter.modules) {
      const a = random.normal(rank * inFeatures, 1 / Math.sqrt(inFeatures))
      const b = random.normal(outFeatures * rank, 0.3)
      using rows = group.a.value.slice(0, part.begin, part.end)
      rows.write(a)
      part.b.value.write(b)
      deltas.set(path, product(b, a, outFeatures, rank, inFeatures, scale))
    }
    await saveAdapter(adapter, folder, { baseModel })
  } finally {
    adapter.dispose()
  }
  return deltas
}

/** scale · b a, in float64. */
export function product(
  b: ArrayLike<number>,
  a: ArrayLike<number>,
  rows: number,
  rank: number,
  columns: number,
  scale = 1,
): Float64Array {
  const result = new Float64Array(rows * columns)
  for (let i = 0; i < rows; i++)
    for (let j = 0; j < columns; j++)
      for (let k = 0; k < rank; k++)
        result[i * columns + j] += scale * b[i * rank + k] * a[k * columns + j]
  return result
}
