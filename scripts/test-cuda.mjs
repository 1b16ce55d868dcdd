// npm run test:cuda: the operation tests on the devices that run CUDA's kernels, once for each way
// in which the emulator may schedule what is asynchronous. Arguments after -- go to mocha.
import { bootstrap, buildNativePrograms, root } from './bootstrap.mjs'
import { run, runMain } from './run.mjs'

runMain(async () => {
  await bootstrap()
  await buildNativePrograms('tests')
  const args = process.argv.slice(2)
  const files = args.some((arg) => arg.endsWith('.ts'))
    ? []
    : ['test/ops/**/*.test.ts', 'test/tensor.test.ts', 'test/autograd.test.ts']
  const modes = [
    { POLYLORA_EMULATOR: 'lazy' },
    { POLYLORA_EMULATOR: 'eager', POLYLORA_EMULATOR_ARCHITECTURE: '80' },
    { POLYLORA_EMULATOR: 'random:1' },
    { POLYLORA_EMULATOR: 'random:20250101' },
  ]
  for (const mode of modes) {
    console.log(`\nThe emulator's mode: ${Object.values(mode).join(', sm_')}`)
    const { code } = await run(
      process.execPath,
      ['node_modules/mocha/bin/mocha.js', '--reporter', 'dot', '-g', 'on cuda', ...files, ...args],
      { cwd: root, env: { ...process.env, ...mode } },
    )
    if (code !== 0) process.exitCode = 1
  }
})
