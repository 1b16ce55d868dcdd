import type { Sparsifier } from './sparsify.js'

/**
 * DARE (Yu et al. 2023): each element stays with probability `density`, and is then divided by it, so that its expected
 * value is what it was. Without `rescale` it is not.
 */
export const randomDrop: Sparsifier = (tensor) =>
  Promise.resolve(
    tensor.each.map(({ density }, model) => async (delta: Float32Array, { begin }) => {
      if (density >= 1) return delta
      const kept = new Float32Array(delta.length)
      if (density <= 0) return kept
      const scale = tensor.parameters.rescale ? 1 / density : 1
      const draws = await tensor.random(model, begin, begin + delta.length)
      for (let i = 0; i < delta.length; i++) if (draws[i] < density) kept[i] = delta[i] * scale
      return kept
    }),
  )
