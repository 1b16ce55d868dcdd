// npm run lint: eslint, and the types of everything, tests included.
import { bootstrap, root } from './bootstrap.mjs'
import { run, runMain } from './run.mjs'

runMain(async () => {
  await bootstrap({ build: false })
  const program = (args) => run(process.execPath, args, { cwd: root })
  const results = [
    await program(['node_modules/eslint/bin/eslint.js', '.']),
    await program(['node_modules/typescript/bin/tsc', '--noEmit']),
  ]
  if (results.some(({ code }) => code !== 0)) process.exitCode = 1
})
