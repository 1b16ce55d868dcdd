import type { Composition } from './composition.js'

/** The one model's tensor, times `scale`: blocks of several models one after the other. */
export const passthrough: Composition =
  ({ each }) =>
  ({ base, deltas }, out) => {
    for (let i = 0; i < out.length; i++) out[i] = each[0].scale * (base[i] + deltas[0][i])
  }
