/**
 * A score that is 0 for guessing and 1 for a right answer: (score - chance) / (1 - chance). The mean over items is the
 * chance-corrected accuracy also where items have different chances.
 *
 * @param score 1 for a right answer, 0 for a wrong one
 * @param chance of a guess, from 0 to below 1
 */
export function correctForChance(score: number, chance: number): number {
  return (score - chance) / (1 - chance)
}

export function mean(values: ArrayLike<number>): number {
  let sum = 0
  for (let i = 0; i < values.length; i++) sum += values[i]
  return sum / values.length
}

export function median(values: ArrayLike<number>): number {
  const sorted = Float64Array.from(values)
  // By insertion: lists of a few are sorted thousands of times.
  if (sorted.length <= 32)
    for (let i = 1; i < sorted.length; i++) {
      const value = sorted[i]
      let at = i
      for (; at > 0 && sorted[at - 1] > value; at--) sorted[at] = sorted[at - 1]
      sorted[at] = value
    }
  else sorted.sort()
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

/** Mean absolute deviation from the median (Brown and Forsythe 1974 compare spreads by it). */
export function meanDeviation(values: readonly number[]): number {
  const center = median(values)
  return mean(values.map((value) => Math.abs(value - center)))
}
