import { Command } from 'commander'
import { ConfigError } from '../errors.js'
import { parseTrainConfig, type TrainConfig } from '../train/options.js'
import {
  type RunOptions,
  type RunPlan,
  type RunResult,
  type RunStepReport,
  runTraining,
} from '../train/run.js'
import { applyOverrides, type Override, parseOverride, readYaml } from './config-file.js'
import { Interrupt } from './interrupt.js'
import { numberFrom, repeated, wholeNumber } from './options.js'
import { Progress } from './progress.js'

export interface TrainFlags {
  readonly config?: string
  readonly resume?: boolean
  readonly set?: readonly string[]
  readonly [flag: string]: unknown
}

/** Flags that stand for a key of the file. */
const keys: Readonly<Record<string, string>> = {
  model: 'model',
  output: 'output',
  steps: 'steps',
  epochs: 'epochs',
  batchSize: 'batch.size',
  learningRate: 'optimizer.learningRate',
  seed: 'seed',
  dtype: 'dtype',
  device: 'device',
  threads: 'threads',
}

export function trainCommand(): Command {
  const command = new Command('train')
    .summary('fine-tune a model as a YAML file says')
    .description(
      'Fine-tune a model as a YAML file says. The keys of the file are the options of the library; flags override them.',
    )
  return addTrainOptions(command).action(async (file: string | undefined, flags: TrainFlags) => {
    await trainAs('train', parseTrainConfig, file, flags, runTraining)
  })
}

/** The options of every command that trains. */
export function addTrainOptions(command: Command): Command {
  return command
    .argument('[file]', 'the YAML file')
    .option('--config <file>', 'the same')
    .option('--resume', 'continue the run that the output folder holds')
    .option('--set <key=value>', 'override any key, such as optimizer.betas=[0.9,0.99]', repeated)
    .option('--model <folder>', 'overrides model')
    .option('--output <folder>', 'overrides output')
    .option('--steps <n>', 'overrides steps and epochs', wholeNumber(1))
    .option('--epochs <n>', 'overrides epochs and steps', numberFrom(0))
    .option('--batch-size <n>', 'overrides batch.size', wholeNumber(1))
    .option('--learning-rate <x>', 'overrides optimizer.learningRate', numberFrom(0))
    .option('--seed <n>', 'overrides seed', wholeNumber(0))
    .option('--dtype <dtype>', 'overrides dtype: f32 or bf16')
    .option('--device <kind>', 'overrides device')
    .option('--threads <n>', 'overrides threads', wholeNumber(1, 1024))
}

type Parse<C extends TrainConfig> = (value: unknown, file: string) => C

/** The configuration that a command was given, flags included. */
export async function readConfiguration<C extends TrainConfig>(
  name: string,
  parse: Parse<C>,
  argument: string | undefined,
  flags: TrainFlags,
): Promise<C> {
  const file = argument ?? flags.config
  if (file === undefined || (argument !== undefined && flags.config !== undefined))
    throw new ConfigError(`${name} takes one YAML file, such as: polylora ${name} run.yaml`)
  return parse(withFlags(await readYaml(file), flags), file)
}

/** Trains with progress on a terminal, and saves at the first Ctrl-C. */
export async function trainAs<C extends TrainConfig>(
  name: string,
  parse: Parse<C>,
  argument: string | undefined,
  flags: TrainFlags,
  run: (config: C, options: RunOptions) => Promise<RunResult>,
): Promise<void> {
  const config = await readConfiguration(name, parse, argument, flags)
  const progress = new Progress('step')
  const say = (text: string) => {
    progress.message(text)
  }
  const interrupt = new Interrupt((signal) => {
    say(`${signal}: finishing the step and saving; a second one quits at once`)
  })
  try {
    const result = await run(config, {
      resume: flags.resume ?? false,
      signal: interrupt.signal,
      onStart: (plan) => {
        say(describePlan(plan))
      },
      onStep: (report) => {
        progress.update(report.step, report.totalSteps, factsOf(report))
      },
      onEvaluation: ({ step, loss, lossByDiscipline }) => {
        say(`step ${step}: validation loss ${loss.toFixed(4)}${disciplines(lossByDiscipline)}`)
      },
      onMessage: say,
    })
    progress.stop()
    const validation = result.validation
      ? `, validation loss ${result.validation.loss.toFixed(4)}${disciplines(result.validation.lossByDiscipline)}`
      : ''
    console.log(
      `trained ${result.steps} steps: loss ${result.lastLoss.toFixed(4)}${validation}; written to ${result.output}`,
    )
  } catch (error) {
    progress.stop()
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
    say(`${(error as Error).message}; continue it with --resume`)
  } finally {
    interrupt.dispose()
  }
}

function withFlags(config: unknown, flags: TrainFlags): unknown {
  const overrides: Override[] = []
  for (const [flag, key] of Object.entries(keys))
    if (flags[flag] !== undefined) overrides.push({ key, value: flags[flag] })
  overrides.push(...(flags.set ?? []).map(parseOverride))
  // Of steps and epochs the one that a flag names counts, whichever the file has.
  const named = new Set(overrides.map(({ key }) => key))
  for (const [key, other] of [
    ['steps', 'epochs'],
    ['epochs', 'steps'],
  ])
    if (named.has(key) && !named.has(other)) overrides.push({ key: other, value: undefined })
  return overrides.length > 0 ? applyOverrides(config, overrides) : config
}

function factsOf(report: RunStepReport): string[] {
  return [
    `loss ${report.loss.toFixed(4)}`,
    `${formatRate(report.tokensPerSecond)} tokens/s`,
    ...(report.applied ? [] : ['skipped']),
  ]
}

function describePlan(plan: RunPlan): string {
  const { firstStep, totalSteps, numSamples, numTokens, trainedParameters } = plan
  const from = firstStep > 1 ? `, going on at step ${firstStep}` : ''
  return `training ${trainedParameters} parameters on ${numSamples} samples of ${numTokens} tokens for ${totalSteps} steps${from}`
}

function disciplines(losses: Readonly<Record<string, number>>): string {
  const names = Object.keys(losses)
  if (names.length < 2) return ''
  return ` (${names.map((name) => `${name} ${losses[name].toFixed(4)}`).join(', ')})`
}

function formatRate(rate: number): string {
  return rate >= 100 ? rate.toFixed(0) : rate.toPrecision(3)
}
