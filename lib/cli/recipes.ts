import { Command } from 'commander'
import { type RecipeName, runRecipe } from '../laws/recipe.js'
import { parseRecipeConfig } from '../laws/study-config.js'
import { applyOverrides, parseOverride, readYaml } from './config-file.js'
import { Interrupt } from './interrupt.js'
import { repeated } from './options.js'
import { Progress } from './progress.js'

interface RecipeFlags {
  readonly set?: readonly string[]
  readonly output?: string
}

const summaries: Readonly<Record<RecipeName, string>> = {
  align: 'train an adapter for each discipline, merge them, restore the following of instructions',
  optimize: 'search a design at small rank, then try more rank and more experts',
  specialize: 'train experts that share A, beside LoRA with as many parameters',
}

export const alignCommand = () => recipeCommand('align')
export const optimizeCommand = () => recipeCommand('optimize')
export const specializeCommand = () => recipeCommand('specialize')

function recipeCommand(name: RecipeName): Command {
  return new Command(name)
    .summary(summaries[name])
    .description(
      `A law as a recipe: ${summaries[name]}. The file has the keys of a study's; adapter (or model) is written in ` +
        'its output. The same command goes on after a stop.',
    )
    .argument('<file>', 'the YAML file')
    .option('--output <folder>', 'overrides output')
    .option('--set <key=value>', 'override any key, such as data.chatTemplate=true', repeated)
    .action((file: string, flags: RecipeFlags) => run(name, file, flags))
}

async function run(
  name: RecipeName,
  file: string,
  { output, set = [] }: RecipeFlags,
): Promise<void> {
  const own = [
    ...(output === undefined ? [] : [{ key: 'output', value: output }]),
    ...set.map(parseOverride),
  ]
  const config = parseRecipeConfig(name, applyOverrides(await readYaml(file), own), file)
  const progress = new Progress('training')
  const say = (text: string) => {
    progress.message(text)
  }
  const interrupt = new Interrupt((signal) => {
    say(`${signal}: stopping; what is trained is kept, the same command goes on with the rest`)
  })
  try {
    const { kind, folder, rows, facts } = await runRecipe(name, config, {
      signal: interrupt.signal,
      onMessage: say,
      onRun: (done) => {
        say(`${done} trainings and measurements done`)
      },
    })
    progress.stop()
    const width = Math.max(...rows.map((row) => row.name.length))
    console.log(`${'validation'.padEnd(width)}   points  parameters      tokens`)
    for (const row of rows)
      console.log(
        `${row.name.padEnd(width)}  ${(100 * row.score).toFixed(2).padStart(7)}  ${String(row.parameters).padStart(10)}  ${String(row.tokens).padStart(10)}`,
      )
    for (const fact of facts) console.log(fact)
    console.log(`${kind} written to ${folder}`)
  } catch (error) {
    progress.stop()
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    interrupt.dispose()
  }
}
