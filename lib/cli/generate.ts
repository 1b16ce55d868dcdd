import { Command } from 'commander'
import { Model } from '../model.js'
import { Interrupt } from './interrupt.js'
import {
  addAdapterOptions,
  addDeviceOptions,
  type AdapterFlags,
  attachAdapter,
  type DeviceFlags,
  numberFrom,
  repeated,
  wholeNumber,
} from './options.js'

interface GenerateFlags extends DeviceFlags, AdapterFlags {
  readonly model: string
  readonly prompt: string
  readonly maxTokens: number
  readonly temperature: number
  readonly topK: number
  readonly topP: number
  readonly seed: number
  readonly stop?: readonly string[]
  readonly chatTemplate?: boolean
}

export function generateCommand(): Command {
  const command = new Command('generate')
    .summary('continue a prompt')
    .description('Continue a prompt, printing the text as it comes.')
    .requiredOption('--model <folder>', 'model folder')
    .requiredOption('--prompt <text>', 'text to continue')
    .option('--max-tokens <n>', 'most tokens to add', wholeNumber(1), 256)
    .option('--temperature <x>', '0: the most likely token, always', numberFrom(0), 1)
    .option('--top-k <n>', 'keep the k most likely tokens; 0: all', wholeNumber(0), 0)
    .option('--top-p <x>', 'then keep the fewest whose probability reaches p', numberFrom(0, 1), 1)
    .option('--seed <n>', 'of the random choices', wholeNumber(0), 0)
    .option('--stop <text>', 'end before this text; may be given several times', repeated)
    .option(
      '--chat-template',
      "render the prompt as a user's turn through the model's chat template",
    )
  return addDeviceOptions(addAdapterOptions(command)).action(run)
}

async function run(flags: GenerateFlags): Promise<void> {
  const {
    model: folder,
    adapter,
    discipline,
    prompt,
    device,
    threads,
    instructionSet,
    ...options
  } = flags
  const interrupt = new Interrupt(() => undefined)
  const { signal } = interrupt
  try {
    const model = await Model.load(folder, { device, threads, instructionSet, signal })
    try {
      await attachAdapter(model, { adapter, discipline })
      for await (const text of model.generate(prompt, { ...options, signal })) {
        // Whoever read it has gone.
        if (process.stdout.destroyed) return
        process.stdout.write(text)
      }
      process.stdout.write('\n')
    } finally {
      await model.dispose()
    }
  } catch (error) {
    if (interrupt.exitCode === null) throw error
    process.stdout.write('\n')
    process.exitCode = interrupt.exitCode
  } finally {
    interrupt.dispose()
  }
}
