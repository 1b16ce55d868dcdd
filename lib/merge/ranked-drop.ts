import { ConfigError } from '../errors.js'
import type { Sparsifier } from './sparsify.js'

/**
 * DELLA's MagPrune (Deep et al. 2024): within a row, an element stays with a probability that grows linearly with the
 * rank of its magnitude, from density - epsilon to density + epsilon, and is then divided by it.
 */
export const rankedDrop: Sparsifier = (tensor) => {
  for (const { density, epsilon } of tensor.each)
    if (density < 1 && density > 0 && (density + epsilon >= 1 || density - epsilon <= 0))
      throw new ConfigError(
        `density ${density} and epsilon ${epsilon} leave (0, 1): density - epsilon must be above 0 and density + epsilon below 1`,
        { details: { key: 'epsilon', received: epsilon } },
      )
  return Promise.resolve(
    tensor.each.map(({ density, epsilon }, model) => async (delta: Float32Array, { begin }) => {
      if (density >= 1) return delta
      const kept = new Float32Array(delta.length)
      if (density <= 0) return kept
      const draws = await tensor.random(model, begin, begin + delta.length)
      for (let row = 0; row < delta.length; row += tensor.columns) {
        const ranks = ranksByMagnitude(delta.subarray(row, row + tensor.columns))
        for (let column = 0; column < tensor.columns; column++) {
          const place = tensor.columns > 1 ? ranks[column] / (tensor.columns - 1) : 0.5
          const probability = density + epsilon * (2 * place - 1)
          const i = row + column
          if (draws[i] < probability)
            kept[i] = tensor.parameters.rescale ? delta[i] / probability : delta[i]
        }
      }
      return kept
    }),
  )
}

/** 0 for the smallest; of equal magnitudes the earlier counts as smaller. */
function ranksByMagnitude(row: Float32Array): Uint32Array {
  // A magnitude and its column as one number sort natively: both are exact in 53 bits.
  const bits = new Uint32Array(row.buffer, row.byteOffset, row.length)
  const keys = new Float64Array(row.length)
  for (let i = 0; i < row.length; i++) keys[i] = (bits[i] & 0x7fffffff) * 0x200000 + i
  keys.sort()
  const ranks = new Uint32Array(row.length)
  for (let rank = 0; rank < keys.length; rank++) ranks[keys[rank] % 0x200000] = rank
  return ranks
}
