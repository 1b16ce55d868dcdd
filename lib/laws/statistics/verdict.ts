import type { Estimate } from './paired-difference.js'

export type Verdict = 'holds' | 'does not hold' | 'undecided'

/** Whether a difference is there and large enough to matter. @param delta the smallest that matters, as the estimate */
export function contrastVerdict({ estimate, lower, upper }: Estimate, delta: number): Verdict {
  if (lower === null || upper === null) return 'undecided'
  if (lower > 0 && estimate >= delta) return 'holds'
  return upper < delta ? 'does not hold' : 'undecided'
}

/**
 * Of a law from those of its contrasts: it holds if all hold, and does not if one does not; if what it presupposes is not
 * so, the study could not show it.
 */
export function lawVerdict(contrasts: readonly Verdict[], preconditionMet: boolean): Verdict {
  if (!preconditionMet || contrasts.length === 0) return 'undecided'
  if (contrasts.includes('does not hold')) return 'does not hold'
  return contrasts.includes('undecided') ? 'undecided' : 'holds'
}

/**
 * Adjusted for having been many (Holm 1979): the largest of (m - rank) p up to each, in ascending order. Null for what has
 * no p, which counts among the many all the same.
 */
export function holm(p: readonly (number | null)[]): (number | null)[] {
  const order = p.map((_, i) => i).filter((i) => p[i] !== null)
  order.sort((i, j) => p[i]! - p[j]!)
  const adjusted = p.map((): number | null => null)
  let largest = 0
  order.forEach((i, rank) => {
    largest = Math.max(largest, Math.min(1, (p.length - rank) * p[i]!))
    adjusted[i] = largest
  })
  return adjusted
}
