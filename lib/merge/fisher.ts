import type { Composition } from './composition.js'

// Where no model has any information all count alike.
const least = 1e-30

/**
 * Fisher-weighted averaging (Matena and Raffel 2022): W0 + Σ w_i F_i τ_i / Σ w_i F_i element by element, F_i being the
 * diagonal of model i's Fisher information. The base cancels as long as it is none of the models.
 */
export const fisher: Composition = ({ each }) => {
  const weights = each.map(({ weight }) => weight)
  return ({ base, deltas, information }, out) => {
    for (let i = 0; i < out.length; i++) {
      let mixed = 0
      let total = 0
      for (let m = 0; m < deltas.length; m++) {
        const importance = weights[m] * Math.max(least, information[m][i])
        mixed += importance * deltas[m][i]
        total += importance
      }
      out[i] = base[i] + (total > 0 ? mixed / total : 0)
    }
  }
}
