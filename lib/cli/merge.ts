import { Command, Option } from 'commander'
import { mergeModel, type ModelDType } from '../merge/index.js'
import { Interrupt } from './interrupt.js'
import { addDeviceOptions, type DeviceFlags } from './options.js'
import { Progress } from './progress.js'

interface MergeFlags extends DeviceFlags {
  readonly model: string
  readonly adapter: string
  readonly output: string
  readonly dtype?: ModelDType
}

export function mergeCommand(): Command {
  const command = new Command('merge')
    .summary('write a model with an adapter added to its weights')
    .description('Write a model folder whose weights are those of a model with an adapter added.')
    .requiredOption('--model <folder>', 'model folder')
    .requiredOption('--adapter <folder>', 'adapter folder')
    .requiredOption('--output <folder>', 'new or empty, and outside the other two')
    .addOption(
      new Option('--dtype <dtype>', "of the file; default: the model's").choices([
        'f32',
        'bf16',
        'f16',
      ]),
    )
  return addDeviceOptions(command).action(run)
}

async function run(flags: MergeFlags): Promise<void> {
  const progress = new Progress('module')
  const interrupt = new Interrupt(() => undefined)
  try {
    await mergeModel({
      ...flags,
      signal: interrupt.signal,
      onProgress: (what, done, total) => {
        if (what === 'merged') progress.update(done, total)
      },
    })
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
