// node scripts/start.mjs FILE [ARGUMENT ...]: makes the clone ready, then runs FILE, JavaScript or
// TypeScript, in this process, so that it gets the terminal's signals.
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import { bootstrap } from './bootstrap.mjs'
import { runMain, ScriptError } from './run.mjs'

runMain(async () => {
  const [file, ...args] = process.argv.slice(2)
  if (file === undefined) throw new ScriptError('usage: node scripts/start.mjs FILE [ARGUMENT ...]')
  const path = resolve(file)
  await bootstrap()
  process.argv = [process.execPath, path, ...args]
  if (path.endsWith('.ts')) {
    const { register } = await import('tsx/esm/api')
    register()
  }
  await import(pathToFileURL(path).href)
})
