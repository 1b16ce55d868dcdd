import { Command, Option } from 'commander'
import { ConfigError } from '../errors.js'
import { mergeModel, mergeRecipe, type ModelDType, parseRecipe } from '../merge/index.js'
import { readYaml } from './config-file.js'
import { Interrupt } from './interrupt.js'
import { addDeviceOptions, type DeviceFlags, wholeNumber } from './options.js'
import { Progress } from './progress.js'

interface MergeFlags extends DeviceFlags {
  readonly model?: string
  readonly adapter?: string
  readonly output: string
  readonly dtype?: ModelDType
  readonly seed?: number
}

export function mergeCommand(): Command {
  const command = new Command('merge')
    .summary('write a model with adapters or other models merged into it')
    .description(
      "Write a model folder: what a recipe in mergekit's format describes, whose models may also be adapter folders; or " +
        'with --model and --adapter that model with that adapter added to its weights.',
    )
    .argument('[recipe]', "YAML file in mergekit's format")
    .option('--model <folder>', 'model folder')
    .option('--adapter <folder>', 'adapter folder')
    .requiredOption('--output <folder>', 'new or empty, and outside the folders that are read')
    .addOption(
      new Option('--dtype <dtype>', "of the file, without a recipe; default: the model's").choices([
        'f32',
        'bf16',
        'f16',
      ]),
    )
    .option('--seed <n>', "of a recipe's random drops; default 0", wholeNumber(0))
  return addDeviceOptions(command).action(run)
}

async function run(recipe: string | undefined, flags: MergeFlags): Promise<void> {
  checkFlags(recipe, flags)
  const progress = new Progress(recipe === undefined ? 'module' : 'tensor')
  const interrupt = new Interrupt(() => undefined)
  const { signal } = interrupt
  try {
    if (recipe === undefined)
      await mergeModel({
        ...flags,
        model: flags.model!,
        adapter: flags.adapter!,
        signal,
        onProgress: (what, done, total) => {
          if (what === 'merged') progress.update(done, total)
        },
      })
    else {
      const checked = parseRecipe(await readYaml(recipe), recipe)
      for (const message of checked.messages) progress.message(message)
      await mergeRecipe({
        ...flags,
        recipe: checked,
        signal,
        onProgress: (done, total) => {
          progress.update(done, total)
        },
      })
    }
    progress.stop()
    console.log(`merged model written to ${flags.output}`)
  } catch (error) {
    progress.stop()
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    interrupt.dispose()
  }
}

function checkFlags(recipe: string | undefined, flags: MergeFlags): void {
  const wrong = (message: string, key: string): never => {
    throw new ConfigError(message, { details: { key } })
  }
  for (const name of ['model', 'adapter'] as const)
    if (recipe === undefined && flags[name] === undefined)
      wrong(`--${name} must be given, or a recipe in place of --model and --adapter`, `--${name}`)
  for (const name of ['model', 'adapter', 'dtype'] as const)
    if (recipe !== undefined && flags[name] !== undefined)
      wrong(`--${name} and a recipe exclude each other: the recipe has its own`, `--${name}`)
}
