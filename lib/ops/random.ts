import type { Tensor } from '../tensor.js'

export type Distribution =
  | { readonly kind: 'uniform'; readonly low: number; readonly high: number }
  | { readonly kind: 'normal'; readonly mean: number; readonly deviation: number }

/** Fills an f32 tensor with Philox numbers: element i of `subsequence` under `seed`, the same on every device. */
export function random(
  y: Tensor,
  distribution: Distribution,
  seed: bigint,
  subsequence: bigint,
): void {
  const [first, second] =
    distribution.kind === 'uniform'
      ? [distribution.low, distribution.high]
      : [distribution.mean, distribution.deviation]
  y.device.run('random', {
    distribution: distribution.kind,
    first,
    second,
    seed,
    subsequence,
    y: y.native,
  })
}
