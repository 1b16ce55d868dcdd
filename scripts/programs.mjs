// Runs C++ programs of the tests: one that prints a closing line counts by it, others as one.
import { basename } from 'node:path'
import { root } from './bootstrap.mjs'
import { ending } from './mocha.mjs'
import { run } from './run.mjs'
import { parseClosingLine } from './totals.mjs'

const PROGRAM_MS = 5 * 60_000

/** @param {{ env?: Record<string, string>, note?: string }} [options] variables to add, and words to print with the name */
export async function runProgram(program, { env = {}, note = '' } = {}) {
  const result = await run(program, [], {
    cwd: root,
    env: { ...process.env, ...env },
    quiet: true,
    timeoutMs: PROGRAM_MS,
  })
  const printed = parseClosingLine(result.output)
  const good = result.code === 0 && (printed === null || printed.failed === 0)
  if (!good) console.log(result.output.trimEnd())
  else
    for (const [reason] of result.output.matchAll(/^skipped: .*$/gm)) console.log(`  - ${reason}`)
  const what = printed ? `${printed.passed} checks` : 'one check'
  console.log(`  ${good ? '✔' : '✘'} ${basename(program)}${note} (${good ? what : ending(result)})`)
  if (good) return printed ?? { passed: 1 }
  return { ...printed, failed: Math.max(1, printed?.failed ?? 0) }
}
