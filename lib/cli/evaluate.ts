import { Command } from 'commander'
import { ConfigError } from '../errors.js'
import { evaluate } from '../evaluate/evaluate.js'
import { ScoreFile } from '../evaluate/score-file.js'
import { Model } from '../model.js'
import { Interrupt } from './interrupt.js'
import type { TaskFlags } from './evaluate-task.js'
import {
  addAdapterOptions,
  addDeviceOptions,
  attachAdapter,
  type AdapterFlags,
  type DeviceFlags,
  wholeNumber,
} from './options.js'
import { Progress } from './progress.js'

interface EvaluateFlags extends DeviceFlags, AdapterFlags, TaskFlags {
  readonly dtype?: 'f32' | 'bf16'
}

export function evaluateCommand(): Command {
  const command = new Command('evaluate')
    .summary('score the completions of a file')
    .description(
      'Score the completions of a file: perplexity, and for multiple choice the accuracy. --output gets, for each record ' +
        'in order, tokens (of the completion, without end-of-sequence), logLikelihood (natural, summed) and greedy. ' +
        'With --task the records are asked and scored as lm-evaluation-harness does, or as your own task says.',
    )
    .requiredOption('--model <folder>', 'model folder')
    .requiredOption('--data <file>', 'JSONL, CSV or Parquet')
    .option('--output <file>', 'JSON lines with the score of each record')
    .option('--chat-template', "render prompts as a user's turn through the model's chat template")
    .option('--skip-bad-records', 'leave out records that cannot be used, instead of stopping')
    .option(
      '--task <task>',
      'mmlu, medmcqa, medqa, pubmedqa, gsm8k, ifeval, or a YAML file of your own',
    )
    .option('--shots <n>', 'examples before each question of a task', wholeNumber(1, 64))
    .option('--shots-data <file>', 'where the examples are')
    .option('--limit <n>', 'the first records of a task only', wholeNumber(1))
  return addDeviceOptions(addAdapterOptions(command)).action(run)
}

async function run(flags: EvaluateFlags): Promise<void> {
  if (flags.task !== undefined) {
    const { runTask } = await import('./evaluate-task.js')
    await runTask(flags, flags.task)
    return
  }
  for (const [name, value] of [
    ['--shots', flags.shots],
    ['--shots-data', flags.shotsData],
    ['--limit', flags.limit],
  ] as const)
    if (value !== undefined) throw new ConfigError(`${name} goes with --task`)
  await scoreRecords(flags)
}

async function scoreRecords(flags: EvaluateFlags): Promise<void> {
  const {
    data,
    output,
    adapter,
    discipline,
    chatTemplate = false,
    skipBadRecords,
    ...options
  } = flags
  const progress = new Progress('record')
  const interrupt = new Interrupt(() => undefined)
  const { signal } = interrupt
  const inputs = [flags.model, ...(adapter === undefined ? [] : [adapter]), data]
  const scores = output === undefined ? null : await ScoreFile.create(output, inputs)
  try {
    const model = await Model.load(flags.model, { ...options, signal })
    try {
      await attachAdapter(model, { adapter, discipline })
      const result = await evaluate(model, {
        data,
        chatTemplate,
        onBadRecord: skipBadRecords ? 'skip' : 'error',
        signal,
        onRecord: async (score) => {
          await scores?.write(score)
        },
        onMessage: (text) => {
          progress.message(text)
        },
      })
      await scores?.finish()
      const skipped = result.badRecords > 0 ? `, ${result.badRecords} left out` : ''
      console.log(`records ${result.records}${skipped}`)
      console.log(`perplexity ${result.perplexity.toPrecision(6)}`)
      if (result.accuracy !== null) {
        console.log(`accuracy ${result.accuracy.toFixed(4)}`)
        console.log(`accuracy by character ${result.accuracyNormalized!.toFixed(4)}`)
      }
    } finally {
      await model.dispose()
    }
  } catch (error) {
    await scores?.discard()
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    progress.stop()
    interrupt.dispose()
  }
}
