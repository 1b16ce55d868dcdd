/**
 * npm run test:fuzz -- [--part TEXT] [--seed N] [--rounds N] [--sanitizer asan|tsan] [--jobs N]
 *
 * Calls every export of the addon and every operation with hostile arguments, opens hostile files, and ends processes
 * and workers in mid-step: see the parts. Each part runs in processes of its own; what ends one (a signal, an error, no
 * sign of life) is reported with the seed and the command that repeats the round.
 *
 *   --part run        only the parts whose names contain this
 *   --part 'call view' --seed 7 --round 12    repeats one round, and names each call before it is made
 *   --sanitizer asan  with an addon built for AddressSanitizer and UndefinedBehaviorSanitizer
 *   --sanitizer tsan  with one for ThreadSanitizer
 *
 * The sanitizers' addons are built by the CMake presets into build/asan and build/tsan, and loaded into the usual node,
 * into which their run-time library is preloaded.
 */

import { spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { availableParallelism, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'
import { allParts } from './parts.js'
import type { Part } from './part.js'
import { racesOf, type Sanitizer, sanitizerEnvironment } from './sanitizer.js'

const root = fileURLToPath(new URL('../..', import.meta.url))
const child = fileURLToPath(new URL('./child.ts', import.meta.url))
const silentMs = 60_000

interface Options {
  readonly seed: number
  readonly environment: NodeJS.ProcessEnv
  readonly slowness: number
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
  options: Options,
  verbose: boolean,
): Promise<Ending> {
  const folder = mkdtempSync(join(tmpdir(), 'polylora-fuzz-'))
  const { seed, environment, slowness } = options
  const args = [
    '--expose-gc',
    '--import',
    'tsx',
    child,
    part.name,
    String(seed),
    String(first),
    String(last),
    folder,
  ]
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
    timer = setTimeout(() => {
      silent = true
      running.kill('SIGKILL')
    }, silentMs * slowness)
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
  const races = racesOf(output)
  if (races.length > 0) return { problem: `${races.length} data races`, round, output: races[0] }
  output = output.slice(-20_000)
  if (code === 0) return { problem: null, round, output }
  const problem = silent
    ? `no sign of life for ${(silentMs * slowness) / 1000} s`
    : signal
      ? `ended by ${signal}`
      : `exit code ${code}`
  return { problem, round, output }
}

/** Whether all rounds of the part went well; what did not is printed. */
async function examine(
  part: Part,
  rounds: readonly [number, number],
  options: Options,
  alone: boolean,
): Promise<boolean> {
  const start = performance.now()
  const ending = await runRounds(part, ...rounds, options, alone)
  const seconds = ((performance.now() - start) / 1000).toFixed(1)
  if (ending.problem === null) {
    console.log(`  ✔ ${part.name} (${seconds} s)`)
    if (alone) console.log(ending.output.trimEnd())
    return true
  }
  console.log(
    `  ✘ ${part.name}, round ${ending.round}: ${ending.problem}\n${ending.output.trimEnd()}`,
  )
  if (alone) return false
  const again = await runRounds(part, ending.round, ending.round + 1, options, true)
  console.log(
    again.problem === null
      ? '    the round went well when it was repeated alone'
      : `    the last calls before it:\n${again.output.trimEnd().split('\n').slice(-12).join('\n')}`,
  )
  console.log(
    `    to repeat it: npm run test:fuzz -- --part '${part.name}' --seed ${options.seed} --round ${ending.round}`,
  )
  return false
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      part: { type: 'string', default: '' },
      seed: { type: 'string', default: '1' },
      round: { type: 'string' },
      rounds: { type: 'string' },
      jobs: { type: 'string', default: String(availableParallelism()) },
      sanitizer: { type: 'string' },
    },
  })
  const seed = Number(values.seed)
  const parts = allParts().filter(({ name }) =>
    values.round === undefined ? name.includes(values.part) : name === values.part,
  )
  if (parts.length === 0) throw new Error(`no part's name contains ${JSON.stringify(values.part)}`)
  const sanitizer = values.sanitizer as Sanitizer | undefined
  const environment = sanitizer === undefined ? process.env : sanitizerEnvironment(sanitizer)
  const options: Options = { seed, environment, slowness: sanitizer === undefined ? 1 : 10 }

  console.log(`seed ${seed}${sanitizer === undefined ? '' : `, ${sanitizer}`}`)
  const start = performance.now()
  let [passed, failed] = [0, 0]
  const waiting = [...parts]
  const lane = async () => {
    for (let part = waiting.shift(); part !== undefined; part = waiting.shift()) {
      const only = values.round === undefined ? null : Number(values.round)
      const rounds: [number, number] =
        only === null
          ? [0, Math.min(part.rounds, Number(values.rounds ?? Infinity))]
          : [only, only + 1]
      if (await examine(part, rounds, options, only !== null)) ++passed
      else ++failed
    }
  }
  await Promise.all(Array.from({ length: Number(values.jobs) }, lane))
  console.log(`${((performance.now() - start) / 1000).toFixed(0)} s`)
  console.log(`${passed} passed, ${failed} failed`)
  if (failed > 0) process.exitCode = 1
}

await main()
