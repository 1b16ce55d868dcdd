// npm run build:cuda: polylora_cuda.so beside the addon, where nvcc is; then the check of what ptxas
// said of its kernels.
import { join } from 'node:path'
import { bootstrap, buildTargets, root } from './bootstrap.mjs'
import { findProgram, run, runMain, ScriptError } from './run.mjs'

runMain(async () => {
  await bootstrap()
  if (!findProgram('nvcc'))
    throw new ScriptError('nvcc is not on the PATH: the CUDA device needs the CUDA toolkit 13.')
  if (!(await buildTargets('The CUDA device', ['polylora_cuda'])))
    throw new ScriptError('cmake is not on the PATH: the CUDA device is built by it alone.')
  const check = [join(root, 'scripts/check-ptxas.mjs'), join(root, 'build/cuda')]
  const { code } = await run(process.execPath, check, { cwd: root })
  if (code !== 0) process.exitCode = 1
})
