import type { Device } from '../../device.js'
import { mix } from '../order.js'
import { products, type Vectors } from './vectors.js'

/** All are compared with all. */
export const mostCandidates = 1024
/** The expected value is at least 1 - 1/e - this of the best. */
const shortfall = 0.1

/**
 * Which of the candidates cover all of them best: the greedy maximum of Σ_j max over the chosen i of max(0, cos(i, j)),
 * each step over a random few (stochastic greedy, Mirzasoleiman et al. 2015). Unlike k-centre it takes what is typical,
 * not the outliers.
 *
 * @param candidates at most mostCandidates
 * @returns places in `candidates`, as chosen
 */
export async function chooseCovering(
  vectors: Vectors,
  candidates: Int32Array,
  count: number,
  { device, seed }: { device: Device; seed: number },
): Promise<Int32Array> {
  const size = candidates.length
  const rows = vectors.gather(candidates)
  const y = await products(device, rows, rows, vectors.dimensions)
  const scales = Float64Array.from(candidates, (item) => vectors.inverseNorms[item])
  for (let i = 0; i < size; i++) {
    const row = y.subarray(i * size, (i + 1) * size)
    for (let j = 0; j < size; j++) row[j] = Math.max(0, row[j] * scales[i] * scales[j])
  }
  const covered = new Float64Array(size)
  const left = Int32Array.from({ length: size }, (_, i) => i)
  const chosen = new Int32Array(Math.min(count, size))
  const tries = Math.ceil((size / Math.max(1, chosen.length)) * Math.log(1 / shortfall))
  for (let step = 0; step < chosen.length; step++) {
    const open = size - step
    let best = -1
    let bestAt = -1
    for (let t = 0; t < Math.min(tries, open); t++) {
      // Those tried in this step go to the front, so that none is tried twice.
      const at = t + (mix(mix(seed, step), t) % (open - t))
      ;[left[t], left[at]] = [left[at], left[t]]
      const row = left[t] * size
      let gain = 0
      for (let j = 0; j < size; j++) {
        const more = y[row + j] - covered[j]
        if (more > 0) gain += more
      }
      if (gain <= best) continue
      best = gain
      bestAt = t
    }
    const place = left[bestAt]
    chosen[step] = place
    left[bestAt] = left[open - 1]
    for (let j = 0; j < size; j++)
      if (y[place * size + j] > covered[j]) covered[j] = y[place * size + j]
  }
  return chosen
}
