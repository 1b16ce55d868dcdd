import { join } from 'node:path'
import { Command } from 'commander'
import type { LawResult } from '../laws/results.js'
import { parseStudyConfig } from '../laws/study-config.js'
import { runStudy } from '../laws/study.js'
import { applyOverrides, type Override, parseOverride, readYaml } from './config-file.js'
import { Interrupt } from './interrupt.js'
import { numberFrom, repeated } from './options.js'
import { formatDuration, Progress } from './progress.js'

interface StudyFlags {
  readonly set?: readonly string[]
  readonly output?: string
  readonly minutes?: number
  readonly slice?: boolean
}

export function studyCommand(): Command {
  return new Command('study')
    .summary("test the laws on one's own model and corpus")
    .description(
      'Plan a study of the laws that a YAML file names, run what has not been run yet, and write results.json, ' +
        'report.html and summary.md. The same command goes on after a stop.',
    )
    .argument('<file>', 'the YAML file')
    .option('--output <folder>', 'overrides output')
    .option('--minutes <n>', 'overrides minutes: the study is cut to fit', numberFrom(0))
    .option('--slice', 'one seed an arm: a look at everything, without a verdict')
    .option('--set <key=value>', 'override any key, such as data.chatTemplate=true', repeated)
    .action(study)
}

async function study(file: string, flags: StudyFlags): Promise<void> {
  const config = parseStudyConfig(applyOverrides(await readYaml(file), overridesOf(flags)), file)
  const progress = new Progress('run')
  const say = (text: string) => {
    progress.message(text)
  }
  const interrupt = new Interrupt((signal) => {
    say(`${signal}: stopping; finished runs are kept, the same command goes on with the rest`)
  })
  try {
    const { laws } = await runStudy(config, {
      signal: interrupt.signal,
      onPlan: (plan, { runs, tokens }, seconds) => {
        say(
          `${runs} runs of ${plan.laws.length} laws, ${tokens.toLocaleString('en')} tokens: about ${formatDuration(seconds)}`,
        )
        for (const cut of plan.cuts) say(`cut: ${cut}`)
        if (config.minutes !== undefined && seconds > 60 * config.minutes)
          say(
            `that is longer than the ${config.minutes} minutes asked for; there is nothing left to cut`,
          )
      },
      onProgress: (done, total, facts) => {
        progress.update(done, total, facts)
      },
      onMessage: say,
    })
    progress.stop()
    for (const law of laws) console.log(describeLaw(law))
    console.log(`written to ${join(config.output, 'report.html')}, summary.md and results.json`)
  } catch (error) {
    progress.stop()
    if (interrupt.exitCode === null) throw error
    process.exitCode = interrupt.exitCode
  } finally {
    interrupt.dispose()
  }
}

function overridesOf({ output, minutes, slice, set = [] }: StudyFlags): Override[] {
  const given = Object.entries({ output, minutes, slice }).filter(
    ([, value]) => value !== undefined,
  )
  return [...given.map(([key, value]) => ({ key, value })), ...set.map(parseOverride)]
}

function describeLaw({ name, verdict, reason, adjustedP, failed, diverged }: LawResult): string {
  const p = adjustedP === null ? '' : `, adjusted p ${adjustedP.toPrecision(2)}`
  const why = reason === undefined ? '' : ` (${reason})`
  const lost = Object.entries({ failed, diverged }).flatMap(([what, n]) =>
    n > 0 ? [`, ${n} ${what}`] : [],
  )
  return `${name}: ${verdict}${why}${p}${lost.join('')}`
}
