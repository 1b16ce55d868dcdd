// npm test: builds what is missing, runs every suite, and ends with one line that sums them. What compiles CUDA's
// kernels, and what runs them slowly, is npm run test:cuda's.
// Arguments after -- go to mocha, which then runs alone: npm test -- test/errors.test.ts
import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { bootstrap, buildNativePrograms, root } from './bootstrap.mjs'
import { checkLaunched, emulatedLibrary } from './cuda.mjs'
import { noteLaunched } from './launched-kernels.mjs'
import { runMocha } from './mocha.mjs'
import { runProgram } from './programs.mjs'
import { runMain, ScriptError } from './run.mjs'
import { closingLine, isSuccess, sum } from './totals.mjs'

const everyTest = ['test/**/*.test.ts']

/**
 * The C++ programs of test/native, and mocha, which runs the operations on the emulated device too: it is built beside
 * the programs, and every kernel that it has must be among what ran.
 */
async function runAll() {
  const programs = await buildNativePrograms('tests', [emulatedLibrary])
  const totals = []
  for (const program of programs ?? []) totals.push(await runProgram(program))
  const launched = join(root, 'build/launched')
  rmSync(launched, { force: true })
  totals.push(await runMocha(everyTest, { parallel: true, env: noteLaunched(launched) }))
  if (programs) return [...totals, await checkLaunched('plain', launched)]
  console.log('C++ programs and the emulated CUDA device: skipped, since they need cmake')
  return [...totals, { skipped: 1 }]
}

runMain(async () => {
  const args = process.argv.slice(2)
  const named = args.some((arg) => arg.endsWith('.ts') || existsSync(join(root, arg)))
  try {
    await bootstrap()
    const all = sum(
      args.length === 0
        ? await runAll()
        : [await runMocha(named ? args : [...everyTest, ...args], { parallel: !named })],
    )
    if (!isSuccess(all)) process.exitCode = 1
    console.log(closingLine(all))
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error
    console.error(`polylora: ${error.message}`)
    process.exitCode = 1
    console.log(closingLine({ passed: 0, failed: 1 }))
  }
})
