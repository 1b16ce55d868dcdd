import type { Device } from '../../device.js'
import { mix, permute } from '../order.js'
import { Pause } from '../pause.js'
import type { Clustering } from './clusters.js'
import { chooseCovering, mostCandidates } from './facility-location.js'
import type { Vectors } from './vectors.js'
import { apportion, waterFill } from './water-fill.js'

export interface SelectionOptions {
  readonly device: Device
  readonly seed: number
  /** Clusters share in proportion to size^(1 - beta): 0 as they are, 1 all alike. */
  readonly beta: number
  /** Most times that an item may come. */
  readonly limit: number
  readonly signal?: AbortSignal
}

/**
 * How often each item comes, `draws` in all. If there are as many draws as items every item comes once, and what is left
 * goes to the clusters by size^(1 - beta), in a cluster as evenly as it can, the rest to those that cover it best. With
 * fewer draws than items the same shares and the same choice, and no item comes twice.
 *
 * @param draws at most limit · items
 * @returns copies in the order of the items
 */
export async function chooseCopies(
  vectors: Vectors,
  items: Int32Array,
  { count, of }: Clustering,
  draws: number,
  options: SelectionOptions,
): Promise<Uint16Array> {
  const { beta, limit, device, seed, signal } = options
  const base = draws >= items.length ? 1 : 0
  const copies = new Uint16Array(items.length).fill(base)
  const sizes = new Int32Array(count)
  for (const one of of) sizes[one]++
  const members = Array.from(sizes, (size) => new Int32Array(size))
  const filled = new Int32Array(count)
  of.forEach((one, i) => {
    members[one][filled[one]++] = i
  })
  const extra = draws - base * items.length
  const caps = Array.from(sizes, (size) => size * (base === 1 ? limit - 1 : 1))
  const weights = Array.from(sizes, (size) => size ** (1 - beta))
  const shares = apportion(waterFill(weights, caps, extra), caps, extra)
  const pause = new Pause(signal)
  for (const [c, own] of members.entries()) {
    const each = Math.floor(shares[c] / own.length)
    if (each > 0) for (const i of own) copies[i] += each
    const rest = shares[c] - each * own.length
    if (rest === 0) continue
    for (const i of await covering(own, rest, mix(seed, c))) copies[i]++
    await pause.turn()
  }
  return copies

  /** A cluster that is too large to compare all with all is cut at random into parts, which share the wanted. */
  async function covering(own: Int32Array, wanted: number, key: number): Promise<Int32Array> {
    const parts = Math.ceil(own.length / mostCandidates)
    const shuffled = parts === 1 ? own : own.map((_, i) => own[permute(i, own.length, key)])
    const begins = Array.from({ length: parts + 1 }, (_, i) => Math.floor((own.length * i) / parts))
    const lengths = begins.slice(1).map((end, i) => end - begins[i])
    const each = apportion(
      lengths.map((length) => (wanted * length) / own.length),
      lengths,
      wanted,
    )
    const chosen = new Int32Array(wanted)
    let at = 0
    for (let i = 0; i < parts; i++) {
      if (each[i] === 0) continue
      const candidates = shuffled.subarray(begins[i], begins[i + 1])
      const of = candidates.map((one) => items[one])
      const places = await chooseCovering(vectors, of, each[i], { device, seed: mix(key, i) })
      for (const place of places) chosen[at++] = candidates[place]
    }
    return chosen
  }
}
