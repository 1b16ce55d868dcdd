import type { Adapter } from '../adapters/adapter.js'
import { requireOneBase } from '../adapters/base-name.js'
import type { Device } from '../device.js'
import { ArgumentError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { layerName, linearNames } from '../models/index.js'
import { AdapterDeltas } from './adapter-deltas.js'
import { factoredAdapter } from './factored-adapter.js'
import { type LowRank, stack } from './low-rank.js'

/**
 * Several trained adapters as one in memory, Σ w_i ΔW_i exactly, whose weights can be changed at no cost: what a search for
 * weights evaluates.
 */
export class WeightedAdapters {
  /** For the model: it is the side-by-side sum. Disposed with this. */
  readonly adapter: Adapter
  readonly count: number
  /** Of each module the rank of each adapter. */
  readonly #ranks: ReadonlyMap<string, readonly number[]>

  private constructor(
    adapter: Adapter,
    count: number,
    ranks: ReadonlyMap<string, readonly number[]>,
  ) {
    this.adapter = adapter
    this.count = count
    this.#ranks = ranks
    this.setWeights(new Array<number>(count).fill(1))
  }

  /**
   * All weights are 1 at first.
   *
   * @param folders of adapters of one base
   */
  static async open(
    device: Device,
    config: DecoderConfig,
    folders: readonly string[],
  ): Promise<WeightedAdapters> {
    const deltas: AdapterDeltas[] = []
    try {
      for (const folder of folders) deltas.push(await AdapterDeltas.open(device, config, folder))
      requireOneBase(deltas)
      const factors = new Map<string, LowRank>()
      const ranks = new Map<string, number[]>()
      for (let layer = 0; layer < config.numLayers; layer++)
        for (const name of Object.values(linearNames)) {
          const path = `${layerName(layer)}.${name}`
          const each = await Promise.all(deltas.map((one) => one.factors(path)))
          const present = each.filter((one) => one !== null)
          if (present.length === 0) continue
          factors.set(path, stack(present))
          ranks.set(
            path,
            each.map((one) => one?.rank ?? 0),
          )
        }
      return new WeightedAdapters(factoredAdapter(device, config, factors), deltas.length, ranks)
    } finally {
      for (const one of deltas) one.dispose()
    }
  }

  /** @throws ArgumentError for weights that are not finite, or are not one for each adapter */
  setWeights(weights: readonly number[]): void {
    if (weights.length !== this.count || !weights.every(Number.isFinite))
      throw new ArgumentError(
        `${this.count} finite weights are needed, one for each adapter, not [${weights.join(', ')}]`,
      )
    for (const { path, group, part } of this.adapter.modules) {
      const ranks = this.#ranks.get(path)!
      const scales = ranks.flatMap((rank, i) => new Array<number>(rank).fill(weights[i]))
      const rows = group.rankScale.slice(0, part.begin, part.end)
      rows.write(Float32Array.from(scales))
      rows.release()
    }
  }

  dispose(): void {
    this.adapter.dispose()
  }
}
