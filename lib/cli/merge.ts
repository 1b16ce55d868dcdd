import { Command, InvalidArgumentError, Option } from 'commander'
import { ConfigError } from '../errors.js'
import { loadAdapter } from '../adapters/peft.js'
import {
  type Composition,
  exportAdapter,
  isComposition,
  mergeAdapters,
  mergeModel,
  mergeRecipe,
  mergeReport,
  type ModelDType,
  parseComposition,
  parseRecipe,
  type Recipe,
  sideBySideAdapter,
  writeComposition,
} from '../merge/index.js'
import { readYaml } from './config-file.js'
import { Interrupt } from './interrupt.js'
import { addDeviceOptions, type DeviceFlags, repeated, wholeNumber } from './options.js'
import { Progress } from './progress.js'

interface MergeFlags extends DeviceFlags {
  readonly model?: string
  readonly adapter?: string
  readonly output: string
  readonly dtype?: ModelDType
  readonly seed?: number
  readonly as: 'model' | 'adapter'
  readonly prompt: readonly string[]
  readonly discipline?: string
  readonly gates?: readonly number[] | 'uniform'
  readonly rank?: number
}

export function mergeCommand(): Command {
  const command = new Command('merge')
    .summary('write a model with adapters or other models merged into it')
    .description(
      "Write a model folder: what a recipe in mergekit's format describes, whose models may also be adapter folders; or " +
        'with --model and --adapter that model with that adapter added to its weights.',
    )
    .argument('[recipe]', "YAML file in mergekit's format, or of a composition behind a gate")
    .option('--model <folder>', 'model folder')
    .option('--adapter <folder>', 'adapter or mixture folder')
    .requiredOption('--output <folder>', 'new or empty, and outside the folders that are read')
    .addOption(
      new Option('--dtype <dtype>', "of the file, without a recipe; default: the model's").choices([
        'f32',
        'bf16',
        'f16',
      ]),
    )
    .option('--seed <n>', "of a recipe's random drops; default 0", wholeNumber(0))
    .addOption(
      new Option(
        '--as <what>',
        'what to write; adapters merged by linear, task_arithmetic, cat, svd, knots or regmean can be one',
      )
        .choices(['model', 'adapter'])
        .default('model'),
    )
    .option(
      '--prompt <text>',
      'compare the logits of model and adapters side by side with those of the merged model; may be repeated',
      repeated,
      [],
    )
  command
    .option(
      '--discipline <name>',
      'of --adapter whose gates go by discipline: the one that is meant',
    )
    .option(
      '--gates <list>',
      "of --adapter with a router: constants in place of its gates, such as 0.2,0.5,0.3, or 'uniform'",
      gateList,
    )
    .option(
      '--rank <n>',
      'of --as adapter without a recipe: the highest rank; the lost energy is printed',
      wholeNumber(1, 4096),
    )
  return addDeviceOptions(command).action(run)
}

async function run(file: string | undefined, flags: MergeFlags): Promise<void> {
  checkFlags(file, flags)
  const progress = new Progress(file === undefined ? 'module' : 'tensor')
  const interrupt = new Interrupt(() => undefined)
  const { signal } = interrupt
  try {
    if (file === undefined) await mergeFolders(flags, progress, signal)
    else {
      const value = await readYaml(file)
      if (isComposition(value)) {
        await composeByFile(parseComposition(value, file), flags)
        return
      }
      const recipe = parseRecipe(value, file)
      for (const message of recipe.messages) progress.message(message)
      await mergeByRecipe(recipe, flags, progress, signal)
    }
  } catch (error) {
    progress.stop()
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    interrupt.dispose()
  }
}

async function mergeFolders(
  flags: MergeFlags,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  const model = flags.model!
  const folder = flags.adapter!
  if (flags.as === 'adapter') {
    const { lostEnergy } = await exportAdapter({ ...flags, model, adapter: folder })
    console.log(`adapter written to ${flags.output}`)
    console.log(`lost energy ${lostEnergy.toExponential(3)}`)
    return
  }
  await mergeModel({
    ...flags,
    model,
    adapter: folder,
    signal,
    onProgress: (done, total) => {
      progress.update(done, total)
    },
  })
  progress.stop()
  console.log(`merged model written to ${flags.output}`)
  await report(
    flags,
    model,
    async (device, config) => {
      const adapter = await loadAdapter(device, config, folder)
      if (flags.discipline !== undefined) adapter.useDiscipline(flags.discipline)
      return adapter
    },
    signal,
  )
}

/** Behind a gate the adapters stay what they are: the result is a mixture, whatever --as says. */
async function composeByFile(composition: Composition, flags: MergeFlags): Promise<void> {
  if (flags.prompt.length > 0)
    throw new ConfigError('--prompt compares a merged model; a composition is none', {
      details: { key: '--prompt' },
    })
  await writeComposition({ ...flags, composition })
  console.log(`mixture of ${composition.adapters.length} adapters written to ${flags.output}`)
}

async function mergeByRecipe(
  recipe: Recipe,
  flags: MergeFlags,
  progress: Progress,
  signal: AbortSignal,
): Promise<void> {
  if (flags.as === 'adapter') {
    const { lostEnergy } = await mergeAdapters({ ...flags, recipe, signal })
    console.log(`merged adapter written to ${flags.output}`)
    if (lostEnergy !== null) console.log(`lost energy ${lostEnergy.toExponential(3)}`)
    return
  }
  await mergeRecipe({
    ...flags,
    recipe,
    signal,
    onProgress: (done, total) => {
      progress.update(done, total)
    },
  })
  progress.stop()
  console.log(`merged model written to ${flags.output}`)
  const { base } = recipe.slices[0]
  if (flags.prompt.length === 0) return
  try {
    if (base === null) throw new ConfigError('there is no base_model')
    await report(flags, base, (device, config) => sideBySideAdapter(recipe, device, config), signal)
  } catch (error) {
    // The model is written; this was only a look at it.
    if (!(error instanceof ConfigError)) throw error
    progress.message(`nothing to compare the merged model with: ${error.message}`)
  }
}

async function report(
  flags: MergeFlags,
  model: string,
  adapter: Parameters<typeof mergeReport>[0]['adapter'],
  signal: AbortSignal,
): Promise<void> {
  if (flags.prompt.length === 0) return
  const { prompt: prompts, output: merged } = flags
  for (const row of await mergeReport({ ...flags, model, adapter, merged, prompts, signal }))
    console.log(
      `${JSON.stringify(row.prompt)}: ${row.tokens} tokens, logits differ by ${row.largestDifference.toExponential(2)} ` +
        `of ${row.largestLogit.toPrecision(3)}, divergence ${row.divergence.toExponential(2)}, ` +
        `same next token at ${row.agreement}`,
    )
}

function gateList(text: string): readonly number[] | 'uniform' {
  if (text === 'uniform') return text
  const values = text.split(',').map((one) => (one.trim() === '' ? NaN : Number(one)))
  if (values.every(Number.isFinite)) return values
  throw new InvalidArgumentError("It must be numbers with commas between them, or 'uniform'.")
}

function checkFlags(recipe: string | undefined, flags: MergeFlags): void {
  const wrong = (message: string, key: string): never => {
    throw new ConfigError(message, { details: { key } })
  }
  for (const name of ['model', 'adapter'] as const)
    if (recipe === undefined && flags[name] === undefined)
      wrong(`--${name} must be given, or a recipe in place of --model and --adapter`, `--${name}`)
  for (const name of ['discipline', 'gates', 'rank'] as const)
    if (recipe !== undefined && flags[name] !== undefined)
      wrong(`--${name} is for --adapter, not for a recipe`, `--${name}`)
  if (flags.rank !== undefined && flags.as !== 'adapter')
    wrong('--rank is for --as adapter: a model has no rank', '--rank')
  if (flags.as === 'adapter' && flags.prompt.length > 0)
    wrong('--prompt compares a merged model, so it does not go with --as adapter', '--prompt')
  for (const name of ['model', 'adapter', 'dtype'] as const)
    if (recipe !== undefined && flags[name] !== undefined)
      wrong(`--${name} and a recipe exclude each other: the recipe has its own`, `--${name}`)
}
