// What ptxas said of the kernels (build/cuda/*.log): products and attention may use no stack and
// spill nothing, and no wgmma may be serialised (C7510). Prints what breaks this.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'

/** Kernels whose registers must suffice. */
const strict = /matmul|shrink|gradient|attention|cross_entropy/

/** The kernels of one log: `{ name, architecture, stack, stores, loads, registers, shared }`, `shared` in bytes, static. */
export function parsePtxas(text) {
  const kernels = []
  let current = null
  for (const line of text.split('\n')) {
    const entry = /Compiling entry function '(\S+)' for '(\S+)'/.exec(line)
    if (entry) {
      const counts = { stack: 0, stores: 0, loads: 0, registers: 0, shared: 0 }
      current = { name: entry[1], architecture: entry[2], ...counts }
      kernels.push(current)
    }
    const used = /Used (\d+) registers(?:.*?, (\d+) bytes smem)?/.exec(line)
    if (used && current) {
      current.registers = Number(used[1])
      current.shared = Number(used[2] ?? 0)
    }
    const use = /(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads/.exec(
      line,
    )
    if (use && current) {
      current.stack = Number(use[1])
      current.stores = Number(use[2])
      current.loads = Number(use[3])
    }
  }
  return kernels
}

/** One sentence for everything that is wrong in a log. */
export function complaints(text) {
  const found = parsePtxas(text)
    .filter(({ name, stack, stores, loads }) => strict.test(name) && stack + stores + loads > 0)
    .map(
      ({ name, architecture, stack, stores, loads }) =>
        `${name} for ${architecture}: ${stack} bytes of stack, ${stores} and ${loads} bytes spilled`,
    )
  if (/C7510/.test(text)) found.push('a wgmma is serialised (C7510)')
  return found
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const folder = process.argv[2] ?? 'build/cuda'
  const logs = readdirSync(folder).filter((name) => name.endsWith('.log'))
  let kernels = 0
  let failed = 0
  for (const log of logs) {
    const text = readFileSync(join(folder, log), 'utf8')
    kernels += parsePtxas(text).length
    for (const complaint of complaints(text)) {
      failed += 1
      console.log(`${log}: ${complaint}`)
    }
  }
  console.log(`${kernels} kernels in ${logs.length} files, ${failed} complaints`)
  if (kernels === 0 || failed > 0) process.exitCode = 1
}
