import { Command } from 'commander'
import { doctor } from '../doctor.js'
import {
  checkpointingTime,
  type MemoryPlan,
  planMemory,
  requireMemory,
} from '../train/memory-plan.js'
import { parseTrainConfig } from '../train/options.js'
import { readYaml } from './config-file.js'
import { formatBytes } from './progress.js'
import { exitFailure } from './report.js'

export function doctorCommand(): Command {
  return new Command('doctor')
    .summary('say which devices can be used, and what a run would need')
    .description(
      'Say which devices loaded and from which file, the instruction set, threads and memory in use, and why others ' +
        'did not load. The exit code is 1 if there is none. With --memory, say what memory a run would hold at its ' +
        'worst moment, without running it; the exit code is 2 if that does not fit.',
    )
    .option('--memory <file>', 'the YAML file of a run')
    .action(async ({ memory }: { memory?: string }) => {
      if (memory === undefined) await inspect()
      else await plan(memory)
    })
}

async function inspect(): Promise<void> {
  const report = await doctor()
  console.log(`polylora ${report.version}, Node.js ${report.node}, ${report.platform}`)
  console.log(`processor: ${report.processor}`)
  for (const { kind, file, reason, info } of report.devices) {
    if (info === null) {
      console.log(`${kind}: not available: ${reason}`)
      continue
    }
    console.log(`${kind}: ${info.name}`)
    console.log(`  loaded from ${file}`)
    console.log(`  instruction set ${info.instructionSet}`)
    console.log(`  threads ${info.threads}`)
    console.log(`  memory budget ${formatBytes(info.memoryBudget)}`)
  }
  if (report.devices.every(({ info }) => info === null)) process.exitCode = exitFailure
}

const rows = {
  weights: 'weights',
  trainedValues: 'trained values',
  gradients: 'gradients',
  moments: 'moments of AdamW',
  activations: 'activations kept for the backward pass',
  working: 'gradients of activations, workspaces',
  peak: 'at the worst moment',
  reserved: 'with what the allocator holds beside',
} as const

async function plan(file: string): Promise<void> {
  const plan = await planMemory(parseTrainConfig(await readYaml(file), file), {
    onMessage: (message) => {
      console.error(message)
    },
  })
  for (const line of describePlan(plan)) console.log(line)
  requireMemory(plan)
}

function describePlan(plan: MemoryPlan): string[] {
  const { plain, checkpointed, largestBatch } = plan
  const line = (name: string, ...cells: string[]) =>
    `${name.padEnd(40)}${cells.map((cell) => cell.padStart(16)).join('')}`
  const others = plan.activationCheckpointing ? ['', '(as configured)'] : ['(as configured)', '']
  const slower = Math.round(100 * (checkpointingTime - 1))
  return [
    `largest micro-batch: ${largestBatch.tokens} tokens, ${largestBatch.trainedTokens} of them trained`,
    '',
    line(`memory of the ${plan.device} device`, 'activations kept', 'recomputed'),
    line('', ...others),
    ...Object.entries(rows).map(([key, name]) =>
      line(
        name,
        formatBytes(plain[key as keyof typeof rows]),
        formatBytes(checkpointed[key as keyof typeof rows]),
      ),
    ),
    '',
    `the device may use ${formatBytes(plan.budget)}; the process holds about ${formatBytes(plan.javascript)} beside it`,
    `recomputing activations (activationCheckpointing: true) takes about ${slower}% more time`,
  ]
}
