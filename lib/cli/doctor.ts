import { Command } from 'commander'
import { doctor } from '../doctor.js'
import { formatBytes } from './progress.js'
import { exitFailure } from './report.js'

export function doctorCommand(): Command {
  return new Command('doctor')
    .summary('say which devices can be used, and why others cannot')
    .description(
      'Say which devices loaded and from which file, the instruction set, threads and memory in use, and why others ' +
        'did not load. The exit code is 1 if there is none.',
    )
    .action(run)
}

async function run(): Promise<void> {
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
