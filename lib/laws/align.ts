import { join } from 'node:path'
import { alignment, mergeOf, specialists } from './arms/align.js'
import {
  joinAdapters,
  type RecipeContext,
  type RecipeResult,
  type RecipeRow,
  tried,
  untouched,
} from './recipe-context.js'
import { accuracyOf } from './scoring.js'
import {
  base,
  type ChatVectorProcedure,
  type MergeProcedure,
  type Procedure,
  type TrainProcedure,
} from './procedure.js'

const weights = [0.2, 0.35, 0.5, 0.75, 1] as const
/** Tried where the configuration has no lambda. */
const lambdas = {
  'chat-vector': [0.25, 0.5, 0.75, 1],
  interpolation: [0.1, 0.25, 0.5, 0.75],
} as const
/** Points of instruction accuracy that may be lost against the model as it is. */
const mostLost = 5

type Aligned = TrainProcedure | MergeProcedure | ChatVectorProcedure

interface Candidate {
  readonly name: string
  readonly procedure: Aligned
}

/**
 * Merge-then-Align: an adapter for each discipline, merged with the weight that is best on validation; then the following
 * of instructions is restored, by a small adapter trained on them, by a chat vector, or by interpolation with an adapter
 * for them. Passed if instructions are followed as before, but for 5 points.
 */
export async function align(context: RecipeContext): Promise<RecipeResult> {
  const { setting, laboratory } = context
  const parts = Object.values(specialists(setting))
  const merges = weights.map((weight) => ({
    name: `merged, weight ${weight}`,
    procedure: mergeOf(parts, weight),
  }))
  const candidates = merges.flatMap(({ procedure }) => candidatesOf(context, procedure))
  for (const { procedure } of merges) laboratory.announce(procedure)
  for (const { procedure } of candidates)
    for (const { of } of updatesOf(procedure)) laboratory.keep(of)

  const rows = [await untouched(context)]
  for (const { name, procedure } of merges) rows.push(await tried(context, name, procedure))
  const scores = rows.slice(1).map(({ score }) => score)
  const merged = merges[scores.indexOf(Math.max(...scores))].procedure

  const { chosen, tried: more } = await choose(context, candidatesOf(context, merged))
  const before = await obedience(context, base, 'instructions')
  const between = await obedience(context, merged, 'instructions')
  const after = await obedience(context, chosen.procedure, 'instructions')
  return {
    ...(await publish(context, chosen.procedure)),
    rows: [...rows, ...more],
    facts: [
      ...(more.length > 1 ? [`chosen on validation: ${chosen.name}`] : []),
      `instructions followed: ${before.toFixed(1)} points before, ${between.toFixed(1)} merged, ${after.toFixed(1)} aligned`,
      after >= before - mostLost
        ? `gate passed: at most ${mostLost} points were lost`
        : `gate NOT passed: more than ${mostLost} points were lost`,
    ],
  }
}

/** What may be made of a merge to align it. */
function candidatesOf({ config, setting }: RecipeContext, merged: MergeProcedure): Candidate[] {
  const { align, model } = config
  switch (align.kind) {
    case 'replay':
      return [{ name: 'merged and aligned', procedure: alignment(setting, merged) }]
    case 'chat-vector': {
      const { base, instruct = model, lambda } = align
      return (lambda === undefined ? lambdas[align.kind] : [lambda]).map((weight) => ({
        name: `with ${weight} of the chat vector`,
        procedure: { kind: 'chat-vector', from: merged, instruct, base, weight },
      }))
    }
    case 'interpolation': {
      const instructed = alignment(setting, base)
      const { lambda } = align
      return (lambda === undefined ? lambdas[align.kind] : [lambda]).map((share) => ({
        name: `with ${share} of the alignment`,
        procedure: {
          ...merged,
          parts: [
            ...merged.parts.map(({ of, weight }) => ({ of, weight: (1 - share) * weight })),
            { of: instructed, weight: share },
          ],
        },
      }))
    }
  }
}

/** Of those that pass the gate on validation the best on disciplines; where none does, the one that follows most. */
async function choose(
  context: RecipeContext,
  candidates: readonly Candidate[],
): Promise<{ chosen: Candidate; tried: RecipeRow[] }> {
  const rows: RecipeRow[] = []
  if (candidates.length === 1) {
    const [chosen] = candidates
    rows.push(await tried(context, chosen.name, chosen.procedure, ['instructions']))
    return { chosen, tried: rows }
  }
  const set = 'validation instructions'
  const least = (await obedience(context, base, set)) - mostLost
  const followed: number[] = []
  for (const { name, procedure } of candidates) {
    rows.push(await tried(context, name, procedure, [set]))
    followed.push(await obedience(context, procedure, set))
  }
  const rank = (i: number) => (followed[i] >= least ? rows[i].score : followed[i] - 1e6)
  const order = candidates.map((_, i) => i).sort((i, j) => rank(j) - rank(i))
  return { chosen: candidates[order[0]], tried: rows }
}

/** Points on a set of instructions. */
async function obedience(
  { laboratory, data, seed }: RecipeContext,
  procedure: Procedure,
  set: 'instructions' | 'validation instructions',
): Promise<number> {
  const { sets } = await laboratory.run(procedure, seed, [set])
  return 100 * accuracyOf(sets[set], data.sets.get(set)!)
}

/** Writes the result: one adapter where only adapters were added, which is exact, or else a model. */
async function publish(
  context: RecipeContext,
  procedure: Aligned,
): Promise<Pick<RecipeResult, 'kind' | 'folder'>> {
  const { laboratory, config, seed } = context
  if (procedure.kind === 'chat-vector') {
    const folder = join(config.output, 'model')
    await laboratory.writeModel(procedure, seed, folder)
    return { kind: 'model', folder }
  }
  const folder = join(config.output, 'adapter')
  const parts: { folder: string; weight: number }[] = []
  for (const { of, weight } of updatesOf(procedure))
    parts.push({ folder: await laboratory.keepAdapter(of, seed), weight })
  await joinAdapters(context, parts, folder)
  return { kind: 'adapter', folder }
}

/** All that is added to the weights of the untouched model. */
function updatesOf(procedure: Procedure): MergeProcedure['parts'] {
  if (procedure.kind === 'merge') return procedure.parts
  if (procedure.kind !== 'train') return []
  return [...updatesOf(procedure.from), { of: procedure, weight: 1 }]
}
