#!/usr/bin/env node
import { Command } from 'commander'
import { version } from '../version.js'
import { describeError, exitCodeOf } from './report.js'

/** A command brings all that it works with, which takes a while to load: only what was called does. */
const commands: Readonly<Record<string, () => Promise<Command>>> = {
  train: async () => (await import('./train.js')).trainCommand(),
  balance: async () => (await import('./balance.js')).balanceCommand(),
  evaluate: async () => (await import('./evaluate.js')).evaluateCommand(),
  generate: async () => (await import('./generate.js')).generateCommand(),
  merge: async () => (await import('./merge.js')).mergeCommand(),
  study: async () => (await import('./study.js')).studyCommand(),
  align: async () => (await import('./recipes.js')).alignCommand(),
  optimize: async () => (await import('./recipes.js')).optimizeCommand(),
  specialize: async () => (await import('./recipes.js')).specializeCommand(),
  describe: async () => (await import('./describe.js')).describeCommand(),
  doctor: async () => (await import('./doctor.js')).doctorCommand(),
}

async function main(): Promise<void> {
  const program = new Command('polylora')
    .description('Fine-tune language models with LoRA over several disciplines at once.')
    .version(version())
    .helpCommand(false)
    .showHelpAfterError(false)
  try {
    const called = process.argv[2] ?? ''
    const needed = Object.hasOwn(commands, called) ? [commands[called]] : Object.values(commands)
    for (const create of needed) program.addCommand(await create())
    for (const command of [program, ...program.commands])
      command.exitOverride().configureOutput({
        outputError: (text, write) => {
          write(`polylora: ${text.replace(/^error: /, '')}`)
        },
      })
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
