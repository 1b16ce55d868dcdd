/** A factor on the learning rate: linear warm-up, then constant, linear to zero, or half a cosine to zero. */
export interface Schedule {
  readonly kind: 'constant' | 'linear' | 'cosine'
  readonly warmupSteps: number
}

/**
 * The factor of step s = 1 … totalSteps: s / warmupSteps while s <= warmupSteps; after that, with progress p going from
 * 0 at the last step of the warm-up to 1 at the last step: 1, 1 - p, or (1 + cos(pi p)) / 2.
 */
export function scheduleFactor(
  { kind, warmupSteps }: Schedule,
  step: number,
  totalSteps: number,
): number {
  if (step <= warmupSteps) return step / warmupSteps
  if (kind === 'constant') return 1
  const progress = Math.min(1, (step - warmupSteps) / Math.max(1, totalSteps - warmupSteps))
  return kind === 'linear' ? 1 - progress : (1 + Math.cos(Math.PI * progress)) / 2
}
