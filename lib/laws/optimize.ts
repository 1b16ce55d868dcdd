import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { defaultMethod, training, tuned } from './arms/design.js'
import { designSearch, ranks } from './arms/optimize.js'
import { type ChoiceProcedure, type Procedure, runId, withTokens } from './procedure.js'
import {
  type RecipeContext,
  type RecipeResult,
  type RecipeRow,
  tried,
  untouched,
} from './recipe-context.js'

/**
 * Optimize-then-Scale: learning rate, alpha, targets and dropout by successive halving at the smallest rank, then every rank
 * at the design that was found and at the default one. The best on validation is the result.
 */
export async function optimize(context: RecipeContext): Promise<RecipeResult> {
  const { laboratory, setting, config, seed } = context
  const search = designSearch(setting, ranks[0])
  const found = await laboratory.chosen(search)
  const candidates: { name: string; procedure: Procedure }[] = []
  for (const rank of ranks)
    for (const [name, procedure] of [
      [`default design, rank ${rank}`, tuned(setting, defaultMethod(rank))],
      [
        `found design, rank ${rank}`,
        training(setting, defaultMethod(rank), { by: search, what: 'design' }),
      ],
    ] as const)
      candidates.push({ name, procedure })
  for (const { procedure } of candidates) laboratory.keep(procedure)
  const rows: RecipeRow[] = []
  for (const { name, procedure } of candidates) rows.push(await tried(context, name, procedure))
  const scores = rows.map(({ score }) => score)
  const best = candidates[scores.indexOf(Math.max(...scores))]
  const folder = join(config.output, 'adapter')
  await cp(await laboratory.keepAdapter(best.procedure, seed), folder, {
    recursive: true,
    force: true,
  })
  const trials = trialsOf(search)
  const spent = (isOne: (id: string) => boolean) =>
    laboratory.records
      .filter(({ id, seed }) => seed === setting.searchSeed && isOne(id))
      .reduce((sum, { tokens }) => sum + tokens, 0)
  const design =
    found.kind === 'train' ? { learningRate: found.learningRate, ...found.method } : found
  return {
    kind: 'adapter',
    folder,
    rows: [await untouched(context), ...rows],
    facts: [
      `found: ${JSON.stringify(design)}`,
      `best on validation: ${best.name}`,
      `the search cost ${spent((id) => trials.has(id))} tokens, the learning rates of the default design ${spent((id) => !trials.has(id))}`,
    ],
  }
}

/** Ids of the runs that a search may make. */
function trialsOf({ candidates, rungs, seed }: ChoiceProcedure): ReadonlySet<string> {
  return new Set(
    rungs.flatMap(({ tokens }) => candidates.map((one) => runId(withTokens(one, tokens), seed))),
  )
}
