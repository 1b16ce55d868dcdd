import { Adapter } from '../adapters/adapter.js'
import { lora } from '../adapters/declaration.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import type { LowRank } from './low-rank.js'

/**
 * An adapter whose updates are given factors, with a scaling of 1: alpha is the rank of every module.
 *
 * @param factors by the name of the module; the adapter belongs to the caller
 */
export function factoredAdapter(
  device: Device,
  config: DecoderConfig,
  factors: ReadonlyMap<string, LowRank>,
): Adapter {
  if (factors.size === 0)
    throw new ConfigError('the adapters update no layer', { details: { key: 'models' } })
  const ranks = [...factors].map(([path, { rank }]) => [path, rank] as const)
  const rank = Math.max(...ranks.map(([, rank]) => rank))
  const others = Object.fromEntries(ranks.filter(([, own]) => own !== rank))
  const adapter = Adapter.create(
    device,
    config,
    lora({
      rank,
      alpha: rank,
      targets: [...factors.keys()],
      rankPattern: others,
      alphaPattern: others,
    }),
  )
  for (const { path, group, part } of adapter.modules) {
    const { a, b } = factors.get(path)!
    const rows = group.a.value.slice(0, part.begin, part.end)
    rows.write(Float32Array.from(a))
    rows.release()
    part.b.value.write(Float32Array.from(b))
  }
  return adapter
}
