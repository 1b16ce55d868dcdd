import type { Composition } from './composition.js'

/**
 * Model Stock (Jang et al. 2024): W0 + r · mean of the task vectors, r = n cos θ / (1 + (n - 1) cos θ), θ the angle
 * between them (the mean over pairs), for each tensor, or with `filter_wise` each row. Where the vectors oppose each
 * other so much that r has no finite value, the base stays.
 */
export const modelStock: Composition = async (tensor) => {
  const { columns, count } = tensor
  const width = tensor.parameters.filter_wise ? columns : tensor.rows * columns
  const groups = (tensor.rows * columns) / Math.max(1, width)
  // Inner products of the task vectors, [count, count] for each group.
  const products = new Float64Array(groups * count * count)
  for await (const { begin, deltas } of tensor.chunks())
    for (let a = 0; a < count; a++)
      for (let b = a; b < count; b++)
        for (let i = 0; i < deltas[a].length; i++)
          products[(Math.floor((begin + i) / width) * count + a) * count + b] +=
            deltas[a][i] * deltas[b][i]
  const ratios = Float64Array.from({ length: groups }, (_, group) =>
    ratio(products.subarray(group * count * count, (group + 1) * count * count), count),
  )
  return ({ begin, base, deltas }, out) => {
    for (let i = 0; i < out.length; i++) {
      let mean = 0
      for (const delta of deltas) mean += delta[i]
      out[i] = base[i] + (ratios[Math.floor((begin + i) / width)] * mean) / count
    }
  }
}

function ratio(products: Float64Array, count: number): number {
  let cosines = 0
  for (let a = 0; a < count; a++)
    for (let b = a + 1; b < count; b++) {
      const norms = Math.sqrt(products[a * count + a] * products[b * count + b])
      const cosine = norms > 0 ? products[a * count + b] / norms : 0
      cosines += Math.max(-1, Math.min(1, cosine))
    }
  const cosine = cosines / ((count * (count - 1)) / 2)
  const denominator = 1 + (count - 1) * cosine
  return Math.abs(denominator) < 1e-6 ? 0 : (count * cosine) / denominator
}
