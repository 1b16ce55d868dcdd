import type { PackedBatch, StepPlan } from '../data/packed-batch.js'
import type { Decoder, LowRankSource } from '../models/index.js'
import { tokenLosses } from './validation.js'

/** Which samples count: those that are easy for the model now, those in between, or the hard ones; or one after the other. */
export type Difficulty = 'easy' | 'medium' | 'hard' | 'progressive'

/**
 * VL-Cogito's weight of a sample that the model gets right with probability `accuracy`: with g(a) = sin(πa), easy samples
 * count g below a half and 1 above, hard ones 1 below and g above, medium ones g.
 */
export function difficultyWeight(
  accuracy: number,
  stage: Exclude<Difficulty, 'progressive'>,
): number {
  const isBelow = accuracy <= 0.5
  if (stage === 'easy' && !isBelow) return 1
  if (stage === 'hard' && isBelow) return 1
  return Math.sin(Math.PI * accuracy)
}

/** The stage of a step: of `progressive` each a third of the run. */
export function stageOf(
  difficulty: Difficulty,
  step: number,
  totalSteps: number,
): Exclude<Difficulty, 'progressive'> {
  if (difficulty !== 'progressive') return difficulty
  const stages = ['easy', 'medium', 'hard'] as const
  return stages[Math.min(2, Math.floor((3 * (step - 1)) / totalSteps))]
}

/**
 * The same step with each sample's trained tokens counted by how hard it is for the model as it is now. VL-Cogito weighs
 * the advantages of rollouts by their accuracy; a sample that is only read has none, so its place takes the geometric
 * mean of its trained tokens' probabilities, for one more forward pass. Weights are scaled to a mean of 1 over the step's
 * trained tokens; a step in which all are 0 is left as it is.
 */
export async function weighByDifficulty<T extends StepPlan>(
  decoder: Decoder,
  adapter: LowRankSource | null,
  plan: T,
  stage: Exclude<Difficulty, 'progressive'>,
): Promise<T> {
  const weights: Float64Array[] = []
  let sum = 0
  for (const batch of plan.batches) {
    const losses = tokenLosses(decoder, adapter, batch)
    try {
      const own = sampleWeights(batch, await losses.readFloats(), stage)
      weights.push(own)
      for (const one of own) sum += one
    } finally {
      losses.release()
    }
  }
  // Where a loss is not finite the step is skipped as it would be.
  if (!(sum > 0)) return plan
  const scale = plan.trainedTokens / sum
  return {
    ...plan,
    batches: plan.batches.map((batch, b) => ({
      ...batch,
      labelWeight: Float32Array.from(weights[b], (one) => one * scale),
    })),
  }
}

/** [L]: the weight of its sample, for each labelled row. */
function sampleWeights(
  { cuSeqlens, labelRows }: PackedBatch,
  losses: Float32Array,
  stage: Exclude<Difficulty, 'progressive'>,
): Float64Array {
  const weights = new Float64Array(labelRows.length)
  let begin = 0
  for (let sequence = 1; sequence < cuSeqlens.length; sequence++) {
    let end = begin
    let total = 0
    while (end < labelRows.length && labelRows[end] < cuSeqlens[sequence]) total += losses[end++]
    if (end > begin)
      weights.fill(difficultyWeight(Math.exp(-total / (end - begin)), stage), begin, end)
    begin = end
  }
  return weights
}
