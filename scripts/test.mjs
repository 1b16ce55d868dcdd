// npm test: builds what is missing, runs every suite, and ends with one line that sums them. What compiles CUDA's
// kernels, and what runs them slowly, is npm run test:cuda's.
// Arguments after -- go to mocha, which then runs alone: npm test -- test/errors.test.ts
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { bootstrap, buildNativePrograms, root } from './bootstrap.mjs'
import { emulatedLibrary } from './cuda.mjs'
import { runMocha } from './mocha.mjs'
import { runProgram } from './programs.mjs'
import { runMain, ScriptError } from './run.mjs'
import { closingLine, isSuccess, sum } from './totals.mjs'

/** The C++ programs of test/native. The emulated device, on which mocha runs the operations, is built beside them. */
async function runNativeTests() {
  const programs = await buildNativePrograms('tests', [emulatedLibrary])
  if (programs === null) {
    console.log('C++ programs and the emulated CUDA device: skipped, since they need cmake')
    return [{ skipped: 1 }]
  }
  const totals = []
  for (const program of programs) totals.push(await runProgram(program))
  return totals
}

runMain(async () => {
  const args = process.argv.slice(2)
  const named = args.some((arg) => arg.endsWith('.ts') || existsSync(join(root, arg)))
  try {
    await bootstrap()
    const totals = args.length === 0 ? await runNativeTests() : []
    totals.push(await runMocha(named ? args : ['test/**/*.test.ts', ...args], { parallel: !named }))
    const all = sum(totals)
    if (!isSuccess(all)) process.exitCode = 1
    console.log(closingLine(all))
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error
    console.error(`polylora: ${error.message}`)
    process.exitCode = 1
    console.log(closingLine({ passed: 0, failed: 1 }))
  }
})
