import { ConfigError } from '../errors.js'
import type { Composition } from './composition.js'

/**
 * Σ w_i W_i, with `normalize` over Σ w_i (model soups: Wortsman et al. 2022). A base that is not among the models only
 * says what the adapters are added to: W_i = W0 + τ_i.
 */
export const linear: Composition = ({ parameters, each }) => {
  const weights = each.map(({ weight }) => weight)
  const total = weights.reduce((sum, weight) => sum + weight, 0)
  if (parameters.normalize && Math.abs(total) < 1e-8)
    throw new ConfigError(
      `weight: the weights [${weights.join(', ')}] add up to nothing, so they cannot be normalized`,
      { details: { key: 'weight', received: weights } },
    )
  const scale = parameters.normalize ? 1 / total : 1
  return ({ base, deltas }, out) => {
    for (let i = 0; i < out.length; i++) {
      let mixed = 0
      for (let m = 0; m < deltas.length; m++) mixed += weights[m] * deltas[m][i]
      // Exactly the base where every task vector is zero.
      out[i] = (parameters.normalize ? base[i] : total * base[i]) + scale * mixed
    }
  }
}
