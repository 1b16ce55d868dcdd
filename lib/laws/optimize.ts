import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { defaultMethod, training, tuned } from './arms/design.js'
import { designSearch, ranks } from './arms/optimize.js'
import { trialsOf } from './procedure.js'
import {
  type RecipeContext,
  type RecipeResult,
  type RecipeRow,
  tried,
  untouched,
} from './recipe-context.js'

/** The recipe's search has routing in it, the law's has not: experts are parameters, and those are its scale. */
const routing = [{ kind: 'hydra-lora', experts: 4, targets: 'all-linear', dropout: 0 }] as const
const [smallest] = ranks
const sizes: readonly { name: string; change: object }[] = [
  ...ranks.map((rank) => ({ name: `rank ${rank}`, change: { rank } })),
  ...[2, 4, 8].map((experts) => ({
    name: `rank ${smallest}, ${experts} experts`,
    change: { kind: 'hydra-lora', rank: smallest, experts },
  })),
]

/**
 * Optimize-then-Scale: learning rate, alpha, targets, dropout and routing by successive halving at the smallest rank, then
 * more rank and more experts, each at the design that was found and at the default one. The best on validation is the result.
 */
export async function optimize(context: RecipeContext): Promise<RecipeResult> {
  const { laboratory, setting, config, seed } = context
  const search = designSearch(setting, smallest, routing)
  const found = await laboratory.chosen(search)
  if (found.kind !== 'train') throw new Error('a design is found among trainings')
  const candidates = sizes.flatMap(({ name, change }) => [
    {
      name: `default design, ${name}`,
      procedure: tuned(setting, { ...defaultMethod(smallest), ...change }),
    },
    {
      name: `found design, ${name}`,
      procedure: training(setting, { ...found.method, ...change }, found.learningRate),
    },
  ])
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
  const design = { learningRate: found.learningRate, ...found.method }
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
