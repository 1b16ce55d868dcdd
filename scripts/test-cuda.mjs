// npm run test:cuda: everything about CUDA's kernels. The programs of test/cuda (on the device too
// where there is one), the mutation suite, the operation tests once for each way in which the
// emulator may schedule what is asynchronous, in race mode and under the sanitizers, and what nvcc
// says. With --gates only what every change must pass: nvcc, the programs, and quick operations in
// race mode. Other arguments after -- are files, or options of mocha, for the operation tests, which
// then run alone.
import { bootstrap } from './bootstrap.mjs'
import { buildEmulated, checkNvcc, runCudaPrograms, runEmulated, runOnDevice } from './cuda.mjs'
import { runKernelMutants } from './kernel-mutants.mjs'
import { runMain, ScriptError } from './run.mjs'
import { closingLine, sum } from './totals.mjs'

const modes = [
  { POLYLORA_EMULATOR: 'lazy' },
  { POLYLORA_EMULATOR: 'eager', POLYLORA_EMULATOR_ARCHITECTURE: '80' },
  { POLYLORA_EMULATOR: 'random:1' },
  { POLYLORA_EMULATOR: 'random:20250101' },
]

/** Race mode costs ten times as much: the quick ones. */
const raceSlice = ['add', 'embedding', 'logits', 'rms-norm', 'rope', 'swiglu'].map(
  (name) => `test/ops/${name}.test.ts`,
)

async function runGates() {
  return [
    await checkNvcc(),
    ...(await runOnDevice()),
    ...(await runCudaPrograms('plain')),
    ...(await runCudaPrograms('race')),
    await runEmulated('race', raceSlice),
  ]
}

function finish(totals) {
  const all = sum(totals)
  console.log(closingLine(all))
  if (all.failed > 0) process.exitCode = 1
}

runMain(async () => {
  const gates = process.argv.includes('--gates')
  await bootstrap()
  const isBuilt = await buildEmulated(gates ? ['plain', 'race'] : undefined)
  if (gates) {
    if (!isBuilt) console.log('CUDA: skipped, since the emulator needs cmake')
    finish(isBuilt ? await runGates() : [{ skipped: 1 }])
    return
  }
  if (!isBuilt) throw new ScriptError('cmake is not on the PATH: it builds the emulator.')
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
  finish(totals)
})
