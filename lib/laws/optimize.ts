import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { defaultMethod, training, tuned } from './arms/design.js'
import { designSearch, ranks } from './arms/optimize.js'
import type { Procedure } from './procedure.js'
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
  const candidates: { row: RecipeRow; procedure: Procedure }[] = []
  for (const rank of ranks)
    for (const [name, procedure] of [
      [`default design, rank ${rank}`, tuned(setting, defaultMethod(rank))],
      [
        `found design, rank ${rank}`,
        training(setting, defaultMethod(rank), { by: search, what: 'design' }),
      ],
    ] as const)
      candidates.push({ procedure, row: await tried(context, name, procedure) })
  const best = candidates.reduce((one, other) => (other.row.score > one.row.score ? other : one))
  const folder = join(config.output, 'adapter')
  await cp(await laboratory.keepAdapter(best.procedure, seed), folder, {
    recursive: true,
    force: true,
  })
  const searched = laboratory.records
    .filter((run) => run.seed === setting.searchSeed)
    .reduce((sum, run) => sum + run.tokens, 0)
  const design =
    found.kind === 'train' ? { learningRate: found.learningRate, ...found.method } : found
  return {
    kind: 'adapter',
    folder,
    rows: [await untouched(context), ...candidates.map(({ row }) => row)],
    facts: [
      `found: ${JSON.stringify(design)}`,
      `best on validation: ${best.row.name}`,
      `the search cost ${searched} tokens`,
    ],
  }
}
