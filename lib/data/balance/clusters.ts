import type { Device } from '../../device.js'
import { random } from '../../ops/random.js'
import { Tensor } from '../../tensor.js'
import { mix, permute } from '../order.js'
import { Pause } from '../pause.js'
import { products, Vectors } from './vectors.js'

export interface ClusterOptions {
  readonly device: Device
  readonly seed: number
  readonly signal?: AbortSignal
}

/** Clusters 0 … count - 1, none of them empty. */
export interface Clustering {
  readonly count: number
  /** Cluster of each item, in the order of the items. */
  readonly of: Uint16Array
}

const mostClusters = 256
/** Items a cluster that centres are found on; all are then given to the nearest. */
const sampledPerCluster = 64
const mostRounds = 10
const blockRows = 8192

/** min(256, ⌈√(n / 2)⌉). */
export function clusterCount(size: number): number {
  return Math.min(mostClusters, Math.ceil(Math.sqrt(size / 2)))
}

/**
 * Spherical k-means on the cosine: centres from k-means++ (Arthur and Vassilvitskii 2007) with Philox draws, at most ten
 * rounds on a sample, then every item to its nearest centre. Depends on the items and the seed alone.
 */
export async function cluster(
  vectors: Vectors,
  items: Int32Array,
  options: ClusterOptions,
): Promise<Clustering> {
  const { device, seed, signal } = options
  const pause = new Pause(signal)
  const count = clusterCount(items.length)
  const sampleSize = Math.min(items.length, sampledPerCluster * count)
  const sample = Int32Array.from(
    { length: sampleSize },
    (_, i) => items[permute(i, items.length, mix(seed, 1))],
  )
  let centres = await firstCentres(vectors, sample, count, options, pause)
  let previous: Uint16Array | null = null
  for (let round = 0; round < mostRounds; round++) {
    const of = await nearest(device, vectors, sample, centres, pause)
    if (previous && of.every((one, i) => one === previous![i])) break
    centres = meansOf(vectors, sample, of, centres)
    previous = of
  }
  const of = await nearest(device, vectors, items, centres, pause)
  const numbers = new Int32Array(centres.size).fill(-1)
  let used = 0
  for (let i = 0; i < of.length; i++) {
    if (numbers[of[i]] < 0) numbers[of[i]] = used++
    of[i] = numbers[of[i]]
  }
  return { count: used, of }
}

/** The mean direction of each centre's items; a centre without any stays. */
function meansOf(vectors: Vectors, items: Int32Array, of: Uint16Array, centres: Vectors): Vectors {
  const { dimensions } = vectors
  const sums = new Float64Array(centres.size * dimensions)
  const sizes = new Int32Array(centres.size)
  items.forEach((item, i) => {
    const row = vectors.row(item)
    const at = of[i] * dimensions
    sizes[of[i]]++
    for (let k = 0; k < dimensions; k++) sums[at + k] += row[k] * vectors.inverseNorms[item]
  })
  const means = new Vectors(centres.size, dimensions)
  for (let c = 0; c < centres.size; c++)
    means.set(
      c,
      sizes[c] > 0 ? sums.subarray(c * dimensions, (c + 1) * dimensions) : centres.row(c),
    )
  return means
}

/** Each centre is an item, drawn in proportion to its distance from the nearest before; fewer where nothing is far. */
async function firstCentres(
  vectors: Vectors,
  sample: Int32Array,
  count: number,
  { device, seed }: ClusterOptions,
  pause: Pause,
): Promise<Vectors> {
  const draws = await uniforms(device, count, seed)
  const chosen = [sample[Math.min(sample.length - 1, Math.floor(draws[0] * sample.length))]]
  const distances = new Float64Array(sample.length).fill(Infinity)
  while (chosen.length < count) {
    const newest = chosen.at(-1)!
    let total = 0
    for (let i = 0; i < sample.length; i++) {
      // Half the square of the distance of unit vectors; an item is no distance from itself, whatever rounding says.
      const distance = sample[i] === newest ? 0 : Math.max(0, 1 - vectors.cosine(sample[i], newest))
      distances[i] = Math.min(distances[i], distance)
      total += distances[i]
    }
    await pause.turn()
    if (total <= 1e-9 * sample.length) break
    let left = draws[chosen.length] * total
    let at = 0
    while (at < sample.length - 1 && left >= distances[at]) left -= distances[at++]
    chosen.push(sample[at])
  }
  const centres = new Vectors(chosen.length, vectors.dimensions)
  chosen.forEach((item, c) => {
    centres.set(c, vectors.row(item))
  })
  return centres
}

/** The centre of the largest cosine for each item; of equals the first. */
async function nearest(
  device: Device,
  vectors: Vectors,
  items: Int32Array,
  centres: Vectors,
  pause: Pause,
): Promise<Uint16Array> {
  const of = new Uint16Array(items.length)
  const all = centres.gather(Int32Array.from({ length: centres.size }, (_, c) => c))
  for (let begin = 0; begin < items.length; begin += blockRows) {
    const block = items.subarray(begin, begin + blockRows)
    const y = await products(device, vectors.gather(block), all, vectors.dimensions)
    for (let i = 0; i < block.length; i++) {
      let best = -Infinity
      for (let c = 0; c < centres.size; c++) {
        const along = y[i * centres.size + c] * centres.inverseNorms[c]
        if (along <= best) continue
        best = along
        of[begin + i] = c
      }
    }
    await pause.turn()
  }
  return of
}

async function uniforms(device: Device, count: number, seed: number): Promise<Float32Array> {
  using y = Tensor.empty(device, [count])
  random(y, { kind: 'uniform', low: 0, high: 1 }, BigInt(seed), 0n)
  return await y.readFloats()
}
