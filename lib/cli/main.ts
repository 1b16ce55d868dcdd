#!/usr/bin/env node
import { Command } from 'commander'
import { version } from '../version.js'
import { balanceCommand } from './balance.js'
import { describeCommand } from './describe.js'
import { doctorCommand } from './doctor.js'
import { evaluateCommand } from './evaluate.js'
import { generateCommand } from './generate.js'
import { mergeCommand } from './merge.js'
import { describeError, exitCodeOf } from './report.js'
import { alignCommand, optimizeCommand, specializeCommand } from './recipes.js'
import { studyCommand } from './study.js'
import { trainCommand } from './train.js'

const commands = [
  trainCommand,
  balanceCommand,
  evaluateCommand,
  generateCommand,
  mergeCommand,
  studyCommand,
  alignCommand,
  optimizeCommand,
  specializeCommand,
  describeCommand,
  doctorCommand,
]

async function main(): Promise<void> {
  const program = new Command('polylora')
    .description('Fine-tune language models with LoRA over several disciplines at once.')
    .version(version())
    .helpCommand(false)
    .showHelpAfterError(false)
  for (const create of commands) program.addCommand(create())
  for (const command of [program, ...program.commands])
    command.exitOverride().configureOutput({
      outputError: (text, write) => {
        write(`polylora: ${text.replace(/^error: /, '')}`)
      },
    })
  try {
    await program.parseAsync()
  } catch (error) {
    process.exitCode = exitCodeOf(error)
    // Commander has printed its own.
    if ((error as { code?: unknown }).code?.toString().startsWith('commander.')) return
    console.error(`polylora: ${describeError(error)}`)
  }
}

// A reader that has gone (`polylora ... | head`) is no error of ours.
for (const stream of [process.stdout, process.stderr])
  stream.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error
  })

void main()
