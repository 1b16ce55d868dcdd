/** Processes and workers that end in mid-step: by terminate(), by exit(), by errors that nobody catches. */

import { spawn } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import type { Part, Round } from './part.js'
import { reportsOf, withoutReports } from './sanitizer.js'

const child = fileURLToPath(new URL('./ending-child.mjs', import.meta.url))
const model = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))

interface Ending {
  readonly name: string
  /** How the process ends. */
  readonly code: number
  /** What it says on its way; N stands for the number of endings. */
  readonly says: RegExp
  /** Endings in one process. */
  readonly times: number
}

const left = 'left: 0 bytes, 0 threads'
const uncaught = /Error: nobody catches this/

const endings: readonly Ending[] = [
  { name: 'terminate', code: 0, says: RegExp(`^terminated N; ${left}\ntrained on\n$`), times: 10 },
  { name: 'exit', code: 7, says: /^$/, times: 1 },
  { name: 'throw', code: 1, says: uncaught, times: 1 },
  { name: 'reject', code: 1, says: uncaught, times: 1 },
  { name: 'exit in a worker', code: 0, says: RegExp(`^exited with 7; ${left}\n$`), times: 1 },
  { name: 'throw in a worker', code: 1, says: uncaught, times: 1 },
]

async function round(
  { name, code, says, times }: Ending,
  { random, slowness, calls = times }: Round,
): Promise<void> {
  const delays = Array.from({ length: calls }, () => random.integer(60 * slowness))
  const { ending, stdout, stderr } = await run([name, model, delays.join()], 60_000 * slowness)
  const reports = reportsOf(stderr)
  if (reports.length > 0) throw new Error(`after ${delays.join()} ms: ${reports[0]}`)
  const output = stdout + withoutReports(stderr)
  const expected = RegExp(says.source.replace('N', String(calls)))
  if (ending !== String(code) || !expected.test(output))
    throw new Error(
      `after ${delays.join()} ms: ended with ${ending} instead of ${code}, and said ${JSON.stringify(output.slice(-2000))}`,
    )
}

function run(
  args: string[],
  deadlineMs: number,
): Promise<{ ending: string; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const running = spawn(process.execPath, [child, ...args], {
      stdio: ['ignore', 'pipe', 'pipe'],
      timeout: deadlineMs,
      killSignal: 'SIGKILL',
    })
    const said = { stdout: '', stderr: '' }
    for (const stream of ['stdout', 'stderr'] as const)
      running[stream].on('data', (chunk: Buffer) => {
        said[stream] += chunk.toString()
      })
    running.on('error', reject)
    running.on('close', (code, signal) => {
      resolve({ ending: String(signal ?? code), ...said })
    })
  })
}

/** Every way as often as the issue of its round says; 50 endings of each of the first two. */
export function endingParts(): Part[] {
  return endings.map((ending) => ({
    name: `end ${ending.name}`,
    rounds: ending.name.includes('worker') || ending.code === 1 ? 10 : 50 / ending.times,
    run: (context) => round(ending, context),
  }))
}
