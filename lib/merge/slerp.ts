import type { Composition } from './composition.js'

// Above this cosine the two directions are as good as parallel.
const parallel = 0.9995
const smallestNorm = 1e-8

/**
 * Spherical interpolation (Shoemake 1985) at t from a to b along the arc between their directions, both taken as one
 * vector a tensor: sin((1-t) θ)/sin θ a + sin(t θ)/sin θ b; linear where they are parallel. Of one model: a is the base
 * and b the model's whole weights, as in mergekit. Of two: a and b are their task vectors, added to the base.
 */
export const slerp: Composition = async (tensor) => {
  const { t } = tensor.parameters
  const isPair = tensor.count === 2
  const ends = (base: Float32Array, deltas: readonly Float32Array[], i: number) =>
    isPair ? [deltas[0][i], deltas[1][i]] : [base[i], base[i] + deltas[0][i]]
  let [aa, bb, ab] = [0, 0, 0]
  for await (const { base, deltas } of tensor.chunks())
    for (let i = 0; i < base.length; i++) {
      const [a, b] = ends(base, deltas, i)
      aa += a * a
      bb += b * b
      ab += a * b
    }
  const norm = (square: number) => (Math.sqrt(square) > smallestNorm ? Math.sqrt(square) : 1)
  const cosine = Math.max(-1, Math.min(1, ab / (norm(aa) * norm(bb))))
  const [fromA, fromB] = coefficients(cosine, t)
  return ({ base, deltas }, out) => {
    for (let i = 0; i < out.length; i++) {
      const [a, b] = ends(base, deltas, i)
      out[i] = (isPair ? base[i] : 0) + fromA * a + fromB * b
    }
  }
}

function coefficients(cosine: number, t: number): [number, number] {
  if (Math.abs(cosine) > parallel) return [1 - t, t]
  const angle = Math.acos(cosine)
  return [Math.sin((1 - t) * angle) / Math.sin(angle), Math.sin(t * angle) / Math.sin(angle)]
}
