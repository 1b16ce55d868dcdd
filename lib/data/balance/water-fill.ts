/**
 * UniMax's filling (Chung et al. 2023): amounts level · weight_i, none above its cap, whose cost Σ price_i · amount_i is
 * the budget. Where all caps together cost less than the budget every amount is its cap.
 *
 * @param weights at least 0
 * @param prices above 0; UniMax's are 1
 */
export function waterFill(
  weights: readonly number[],
  caps: readonly number[],
  budget: number,
  prices: readonly number[] = weights.map(() => 1),
): number[] {
  const amounts = weights.map(() => 0)
  const open = weights
    .map((_, i) => i)
    .filter((i) => weights[i] > 0 && caps[i] > 0)
    .sort((i, j) => caps[i] / weights[i] - caps[j] / weights[j])
  let left = budget
  let cost = open.reduce((sum, i) => sum + prices[i] * weights[i], 0)
  open.forEach((i, rank) => {
    // Cancellation may leave a little less than the last one's own.
    if (rank === open.length - 1) cost = prices[i] * weights[i]
    amounts[i] = Math.max(0, Math.min(caps[i], (left / cost) * weights[i]))
    left -= prices[i] * amounts[i]
    cost -= prices[i] * weights[i]
  })
  return amounts
}

/**
 * Whole numbers nearest to the amounts from below, and one more for the largest remainders (Hamilton) until they sum to
 * `total`, none above its cap.
 *
 * @param caps whole numbers, whose sum is at least `total`
 */
export function apportion(
  amounts: readonly number[],
  caps: readonly number[],
  total: number,
): number[] {
  // What is a whole number but for rounding is that number.
  const whole = amounts.map((amount, i) => Math.min(caps[i], Math.floor(amount + 1e-9)))
  let left = total - whole.reduce((sum, one) => sum + one, 0)
  const byRemainder = amounts
    .map((_, i) => i)
    .sort((i, j) => amounts[j] - whole[j] - (amounts[i] - whole[i]) || i - j)
  while (left !== 0) {
    const before = left
    for (const i of left > 0 ? byRemainder : byRemainder.toReversed()) {
      const step = Math.sign(left)
      if (step === 0) break
      if (whole[i] + step < 0 || whole[i] + step > caps[i]) continue
      whole[i] += step
      left -= step
    }
    if (left === before) break
  }
  return whole
}
