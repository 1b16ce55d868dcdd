// npm test: builds what is missing, runs every suite, and ends with one line that sums them.
// Arguments after -- go to mocha, which then runs alone: npm test -- test/errors.test.ts
import { existsSync } from 'node:fs'
import { join } from 'node:path'
import { bootstrap, buildNativePrograms, root } from './bootstrap.mjs'
import { buildEmulated, checkNvcc, runCudaPrograms, runEmulated, runOnDevice } from './cuda.mjs'
import { runMocha } from './mocha.mjs'
import { runProgram } from './programs.mjs'
import { runMain, ScriptError } from './run.mjs'
import { closingLine, isSuccess, sum } from './totals.mjs'

/** The C++ programs of test/native. */
async function runNativeTests() {
  const programs = await buildNativePrograms('tests')
  if (programs === null) {
    console.log('C++ programs: skipped, since they need cmake')
    return [{ skipped: 1 }]
  }
  const totals = []
  for (const program of programs) totals.push(await runProgram(program))
  return totals
}

/** Race mode costs ten times as much: here the quick ones. */
const raceSlice = ['add', 'embedding', 'logits', 'rms-norm', 'rope', 'swiglu'].map(
  (name) => `test/ops/${name}.test.ts`,
)

/** CUDA's kernels: what nvcc says, the programs of test/cuda, and a slice of race mode; the rest: npm run test:cuda. */
async function runCudaTests() {
  console.log('CUDA')
  if (!(await buildEmulated(['plain', 'race']))) {
    console.log('  - skipped, since it needs cmake')
    return [{ skipped: 1 }]
  }
  return [
    await checkNvcc(),
    ...(await runOnDevice()),
    ...(await runCudaPrograms('plain')),
    ...(await runCudaPrograms('race')),
    await runEmulated('race', raceSlice),
  ]
}

runMain(async () => {
  const args = process.argv.slice(2)
  const named = args.some((arg) => arg.endsWith('.ts') || existsSync(join(root, arg)))
  try {
    await bootstrap()
    const totals = args.length === 0 ? [...(await runNativeTests()), ...(await runCudaTests())] : []
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
