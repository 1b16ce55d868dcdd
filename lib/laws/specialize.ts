import { cp } from 'node:fs/promises'
import { join } from 'node:path'
import { tuned } from './arms/design.js'
import { matchedMethods } from './arms/specialize.js'
import { type RecipeContext, type RecipeResult, tried, untouched } from './recipe-context.js'
import type { LayerSpecialization, Specialization } from './run-record.js'
import { mean } from './statistics/index.js'

/**
 * Share-then-Specialize: experts that share A against LoRA with as many parameters, each with its own best learning rate. The
 * mixture is the result, with what its experts specialise in.
 */
export async function specialize(context: RecipeContext): Promise<RecipeResult> {
  const { laboratory, setting, config, data, seed } = context
  const matched = matchedMethods(setting.countParameters)
  const lora = tuned(setting, matched.lora.method)
  const asymmetric = tuned(setting, matched.asymmetric.method)
  laboratory.keep(asymmetric)
  const rows = [
    await untouched(context),
    await tried(context, `LoRA, rank ${matched.lora.method.rank}`, lora),
    await tried(
      context,
      `experts that share A, rank ${matched.asymmetric.method.rank}`,
      asymmetric,
    ),
  ]
  const folder = join(config.output, 'adapter')
  await cp(await laboratory.keepAdapter(asymmetric, seed), folder, {
    recursive: true,
    force: true,
  })
  const tests = data.disciplines.map(({ name }) => `test ${name}`)
  const { experts } = await laboratory.run(asymmetric, seed, tests)
  return { kind: 'adapter', folder, rows, facts: experts ? describe(experts) : [] }
}

function describe({ information, layers, ablation }: Specialization): string[] {
  const over = (value: (layer: LayerSpecialization) => number) => mean(layers.map(value)).toFixed(3)
  return [
    `disciplines and experts share ${information.value.toFixed(3)} of their information (by chance ${information.byChance.toFixed(3)}, p ${information.p.toPrecision(2)})`,
    `gate entropy ${over(({ entropy }) => entropy)}, cosine of experts ${over(({ cosine }) => cosine)}`,
    ...ablation.map((changes, e) => {
      const by = Object.entries(changes).map(([name, change]) => `${name} ${change.toFixed(3)}`)
      return `without expert ${e + 1} the loss rises by: ${by.join(', ')}`
    }),
  ]
}
