// Runs mocha and returns its totals, whatever its end.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { jobsOf, root } from './bootstrap.mjs'
import { run } from './run.mjs'

const MOCHA_MS = 30 * 60_000

/** Why a program that ended without totals did so. */
export function ending({ code, signal }) {
  return signal ? `ended by ${signal}` : `exit code ${code}`
}

/** The lines of skipped tests, which say why. */
const pendingIn = (output) =>
  output
    .split('\n')
    .filter((line) => /^ +- /.test(line))
    .join('\n')

/**
 * @param {readonly string[]} args files and options
 * @param {{ env?: Record<string, string>, quiet?: boolean | 'always', parallel?: boolean }} [options] variables to add;
 *   `quiet` shows the output if something failed, else what was skipped, or never; `parallel` runs files side by side
 * @returns {Promise<{ passed?: number, failed: number, skipped?: number, output: string }>}
 */
export async function runMocha(args, { env = {}, quiet = false, parallel = false } = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'polylora-test-'))
  const file = join(folder, 'totals.json')
  const sideBySide = parallel ? ['--parallel', '--jobs', String(jobsOf(4e9))] : []
  const reporter = ['--reporter', 'scripts/mocha-reporter.mjs', '--reporter-option']
  try {
    const result = await run(
      process.execPath,
      ['node_modules/mocha/bin/mocha.js', ...sideBySide, ...reporter, `totals=${file}`, ...args],
      { cwd: root, env: { ...process.env, ...env }, quiet: Boolean(quiet), timeoutMs: MOCHA_MS },
    )
    let totals
    try {
      totals = JSON.parse(readFileSync(file, 'utf8'))
    } catch {
      if (quiet !== 'always')
        console.log(`${result.output}mocha gave no totals (${ending(result)})`)
      return { failed: 1, output: result.output }
    }
    if (quiet === true && totals.failed > 0) console.log(result.output)
    else if (quiet === true && totals.skipped > 0) console.log(pendingIn(result.output))
    if (result.code === 0 || totals.failed > 0) return { ...totals, output: result.output }
    console.log(`mocha failed after its tests had passed (${ending(result)})`)
    return { ...totals, failed: 1, output: result.output }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}
