// npm test: builds what is missing, runs every suite, and ends with one line that sums them.
// Arguments after -- go to mocha, which then runs alone: npm test -- test/errors.test.ts
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import { bootstrap, buildNativePrograms, root } from './bootstrap.mjs'
import { run, runMain, ScriptError } from './run.mjs'
import { closingLine, isSuccess, parseClosingLine, sum } from './totals.mjs'

const PROGRAM_MS = 5 * 60_000
const MOCHA_MS = 30 * 60_000

/** Why a program that ended without totals did so. */
function ending({ code, signal }) {
  return signal ? `ended by ${signal}` : `exit code ${code}`
}

/** The C++ programs of test/native: one that prints a closing line counts by it, others as one. */
async function runNativeTests() {
  const programs = await buildNativePrograms('tests')
  if (programs === null) {
    console.log('C++ programs: skipped, since they need cmake')
    return [{ skipped: 1 }]
  }
  const totals = []
  for (const program of programs) {
    const result = await run(program, [], { cwd: root, quiet: true, timeoutMs: PROGRAM_MS })
    const printed = parseClosingLine(result.output)
    const good = result.code === 0 && (printed === null || printed.failed === 0)
    if (!good) console.log(result.output.trimEnd())
    const what = printed ? `${printed.passed} checks` : 'one check'
    console.log(`  ${good ? '✔' : '✘'} ${basename(program)} (${good ? what : ending(result)})`)
    if (good) totals.push(printed ?? { passed: 1 })
    else totals.push({ ...printed, failed: Math.max(1, printed?.failed ?? 0) })
  }
  return totals
}

async function runMocha(args) {
  const named = args.some((arg) => arg.endsWith('.ts') || existsSync(join(root, arg)))
  const files = named ? [] : ['test/**/*.test.ts']
  const folder = mkdtempSync(join(tmpdir(), 'polylora-test-'))
  const file = join(folder, 'totals.json')
  const options = [
    '--reporter',
    'scripts/mocha-reporter.mjs',
    '--reporter-option',
    `totals=${file}`,
  ]
  try {
    const result = await run(
      process.execPath,
      ['node_modules/mocha/bin/mocha.js', ...options, ...files, ...args],
      { cwd: root, timeoutMs: MOCHA_MS },
    )
    let totals
    try {
      totals = JSON.parse(readFileSync(file, 'utf8'))
    } catch {
      console.log(`mocha gave no totals (${ending(result)})`)
      return { failed: 1 }
    }
    if (result.code === 0 || totals.failed > 0) return totals
    console.log(`mocha failed after its tests had passed (${ending(result)})`)
    return { ...totals, failed: 1 }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

runMain(async () => {
  const args = process.argv.slice(2)
  try {
    await bootstrap()
    const native = args.length === 0 ? await runNativeTests() : []
    const totals = sum([...native, await runMocha(args)])
    if (!isSuccess(totals)) process.exitCode = 1
    console.log(closingLine(totals))
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error
    console.error(`polylora: ${error.message}`)
    process.exitCode = 1
    console.log(closingLine({ passed: 0, failed: 1 }))
  }
})
