import { join } from 'node:path'
import { alignment, specialists } from './arms/align.js'
import {
  joinAdapters,
  type RecipeContext,
  type RecipeResult,
  tried,
  untouched,
} from './recipe-context.js'
import { accuracyOf } from './scoring.js'
import { base, type MergeProcedure, type Procedure } from './procedure.js'

const weights = [0.2, 0.35, 0.5, 0.75, 1] as const
/** Points of instruction accuracy that may be lost against the model as it is. */
const mostLost = 5

/**
 * Merge-then-Align: an adapter for each discipline, merged with the weight that is best on validation, then a small adapter
 * trained on instructions, all of them one adapter in the end. Passed if instructions are followed as before, but for 5
 * points.
 */
export async function align(context: RecipeContext): Promise<RecipeResult> {
  const { laboratory, setting, config, seed } = context
  const parts = Object.values(specialists(setting))
  const merge = (weight: number): MergeProcedure => ({
    kind: 'merge',
    parts,
    operator: 'task_arithmetic',
    weight,
  })
  for (const weight of weights) laboratory.announce(merge(weight))
  const rows = [await untouched(context)]
  for (const weight of weights)
    rows.push(await tried(context, `merged, weight ${weight}`, merge(weight)))
  const scores = rows.slice(1).map(({ score }) => score)
  const weight = weights[scores.indexOf(Math.max(...scores))]
  const merged = merge(weight)
  const aligned = alignment(setting, merged)
  rows.push(await tried(context, 'merged and aligned', aligned))

  const folders: string[] = []
  for (const part of parts) folders.push(await laboratory.keepAdapter(part, seed))
  const adapter = join(config.output, 'adapter')
  await joinAdapters(
    context,
    [
      ...folders.map((folder) => ({ folder, weight })),
      { folder: await laboratory.keepAdapter(aligned, seed), weight: 1 },
    ],
    adapter,
  )
  const before = await obedience(context, base)
  const after = await obedience(context, aligned)
  const passed = after >= before - mostLost
  return {
    adapter,
    rows,
    facts: [
      `instructions followed: ${before.toFixed(1)} points before, ${(await obedience(context, merged)).toFixed(1)} merged, ${after.toFixed(1)} aligned`,
      passed
        ? `gate passed: at most ${mostLost} points were lost`
        : `gate NOT passed: more than ${mostLost} points were lost`,
    ],
  }
}

/** Points on the instructions' test set. */
async function obedience(
  { laboratory, data, seed }: RecipeContext,
  procedure: Procedure,
): Promise<number> {
  const { sets } = await laboratory.run(procedure, seed, ['instructions'])
  return 100 * accuracyOf(sets.instructions, data.sets.get('instructions')!)
}
