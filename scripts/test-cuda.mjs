// npm run test:cuda: everything about CUDA's kernels. The programs of test/cuda (on the device too
// where there is one), the mutation suite, the operation tests once for each way in which the
// emulator may schedule what is asynchronous, in race mode and under the sanitizers, and what nvcc
// says. Arguments after -- are files, or options of mocha, for the operation tests, which then run
// alone.
import { bootstrap } from './bootstrap.mjs'
import { buildEmulated, checkNvcc, runCudaPrograms, runEmulated, runOnDevice } from './cuda.mjs'
import { runKernelMutants } from './kernel-mutants.mjs'
import { runMain, ScriptError } from './run.mjs'
import { closingLine, isSuccess, sum } from './totals.mjs'

const modes = [
  { POLYLORA_EMULATOR: 'lazy' },
  { POLYLORA_EMULATOR: 'eager', POLYLORA_EMULATOR_ARCHITECTURE: '80' },
  { POLYLORA_EMULATOR: 'random:1' },
  { POLYLORA_EMULATOR: 'random:20250101' },
]

runMain(async () => {
  await bootstrap()
  if (!(await buildEmulated()))
    throw new ScriptError('cmake is not on the PATH: it builds the emulator.')
  const args = process.argv.slice(2)
  const files = args.some((arg) => arg.endsWith('.ts'))
    ? args
    : ['test/ops/**/*.test.ts', 'test/tensor.test.ts', 'test/autograd.test.ts', ...args]
  const totals = []
  if (args.length === 0) {
    totals.push(await checkNvcc())
    totals.push(...(await runOnDevice()))
    for (const mode of modes) totals.push(...(await runCudaPrograms('plain', mode)))
    totals.push(...(await runCudaPrograms('race')), ...(await runCudaPrograms('sanitized')))
    totals.push(await runKernelMutants())
  }
  for (const mode of modes) totals.push(await runEmulated('plain', files, mode))
  totals.push(await runEmulated('race', files), await runEmulated('sanitized', files))
  const all = sum(totals)
  console.log(closingLine(all))
  if (!isSuccess(all)) process.exitCode = 1
})
