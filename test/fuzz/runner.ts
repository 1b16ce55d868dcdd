/** Runs parts of the fuzz, each in processes of its own, and says what ended one: a signal, an error, no sign of life. */

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { memoryFolder } from '../temporary-folder.js'
import type { Part } from './part.js'
import { reportsOf, type Sanitizer, sanitizerEnvironment } from './sanitizer.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const child = fileURLToPath(new URL('./child.ts', import.meta.url))
// Long, since others may be at the processor too.
const silentMs = 300_000
/** A part that fails again and again is not followed to its end. */
const mostProblems = 5

export interface FuzzOptions {
  readonly seed: number
  readonly environment: NodeJS.ProcessEnv
  readonly slowness: number
}

/** @throws if the sanitizer's addon cannot be built */
export function fuzzOptions(seed: number, sanitizer: Sanitizer | undefined): FuzzOptions {
  return sanitizer === undefined
    ? { seed, environment: process.env, slowness: 1 }
    : { seed, environment: sanitizerEnvironment(sanitizer), slowness: 10 }
}

interface Ending {
  /** Null: the rounds went well. */
  readonly problem: string | null
  /** The last round that was begun. */
  readonly round: number
  readonly output: string
}

/** Rounds first … last - 1 of a part, in one process. */
async function runRounds(
  part: Part,
  first: number,
  last: number,
  { seed, environment, slowness }: FuzzOptions,
  verbose: boolean,
): Promise<Ending> {
  const folder = mkdtempSync(join(memoryFolder(), 'polylora-fuzz-'))
  const args = ['--expose-gc', '--import', 'tsx', child, part.name]
  args.push(String(seed), String(first), String(last), folder)
  const running = spawn(process.execPath, verbose ? [...args, '--verbose'] : args, {
    cwd: root,
    env: { ...environment, POLYLORA_FUZZ_SLOWNESS: String(slowness) },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let round = first
  let output = ''
  let silent = false
  let timer: NodeJS.Timeout | undefined
  const alive = () => {
    clearTimeout(timer)
    timer = setTimeout(
      () => {
        silent = true
        running.kill('SIGKILL')
      },
      silentMs * Math.min(slowness, 3),
    )
  }
  alive()
  running.stdout.on('data', (chunk: Buffer) => {
    round = Number(chunk.toString().trim().split('\n').at(-1))
    alive()
  })
  running.stderr.on('data', (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-4_000_000)
  })
  const [code, signal] = await new Promise<[number | null, NodeJS.Signals | null]>(
    (resolve, reject) => {
      running.on('error', reject)
      running.on('close', (...ending) => resolve(ending))
    },
  )
  clearTimeout(timer)
  rmSync(folder, { recursive: true, force: true })
  const reports = reportsOf(output)
  if (reports.length > 0)
    return { problem: `${reports.length} reports of ThreadSanitizer`, round, output: reports[0] }
  output = output.slice(-20_000)
  if (code === 0) return { problem: null, round, output }
  const problem = silent
    ? `no sign of life for ${(silentMs * Math.min(slowness, 3)) / 1000} s`
    : signal
      ? `ended by ${signal}`
      : `exit code ${code}`
  return { problem, round, output }
}

/** What was found in rounds first … last - 1, with how to repeat it; empty: nothing. */
export async function problemsOf(
  part: Part,
  [first, last]: readonly [number, number],
  options: FuzzOptions,
): Promise<string[]> {
  const problems: string[] = []
  for (let next = first; next < last && problems.length < mostProblems;) {
    const ending = await runRounds(part, next, last, options, false)
    if (ending.problem === null) break
    const again = await runRounds(part, ending.round, ending.round + 1, options, true)
    problems.push(
      [
        `round ${ending.round}: ${ending.problem}`,
        ending.output.trimEnd(),
        again.problem === null
          ? 'the round went well when it was repeated alone'
          : `the last calls before it:\n${again.output.trimEnd().split('\n').slice(-12).join('\n')}`,
        `to repeat it: npm run test:fuzz -- --part '${part.name}' --seed ${options.seed} --round ${ending.round}`,
      ].join('\n'),
    )
    next = ending.round + 1
  }
  return problems
}

/** One round, with the name of each call before it is made. */
export async function replay(
  part: Part,
  round: number,
  options: FuzzOptions,
): Promise<{ problem: string | null; output: string }> {
  return runRounds(part, round, round + 1, options, true)
}
