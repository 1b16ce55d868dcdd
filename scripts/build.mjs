// npm run build
import { bootstrap } from './bootstrap.mjs'
import { runMain } from './run.mjs'

runMain(async () => {
  const done = await bootstrap()
  console.error(done ? 'polylora: ready' : 'polylora: ready, nothing to do')
})
