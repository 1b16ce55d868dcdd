import { readFileSync } from 'node:fs'
import { mergeRecipe, parseRecipe } from '../../lib/merge/index.js'

/** A process of its own for one merge, which says how much memory it had before and at most. */

const peak = () =>
  1024 * Number(/^VmHWM:\s+(\d+) kB$/m.exec(readFileSync('/proc/self/status', 'utf8'))![1])

process.once('message', ({ recipe, output }: { recipe: unknown; output: string }) => {
  const before = peak()
  void mergeRecipe({ recipe: parseRecipe(recipe), output, device: 'cpu', threads: 1 }).then(() => {
    process.send!({ before, peak: peak() })
    process.disconnect()
  })
})
