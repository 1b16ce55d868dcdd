import { basename, join } from 'node:path'
import { mix, permute } from '../data/order.js'
import { readRecords } from '../data/index.js'
import { nodeFileSystem } from '../file-system.js'
import type { TrainConfigInput } from '../train/options.js'

type Sources = TrainConfigInput['data']['train']

export interface DrawnSources extends AsyncDisposable {
  readonly sources: Sources
}

/** A part of each file's items, drawn by the seed alone: two runs of one seed have the same. The files are gone when it is disposed. */
export async function drawSubset(
  sources: Sources,
  part: number,
  seed: number,
  folder: string,
): Promise<DrawnSources> {
  if (part === 1) return { sources, [Symbol.asyncDispose]: () => Promise.resolve() }
  await nodeFileSystem.makeFolder(folder)
  const drawn: Sources = []
  for (const source of sources) {
    const lines: string[] = []
    for await (const one of readRecords(source.path))
      if ('record' in one) lines.push(`${JSON.stringify(one.record)}\n`)
    const kept = lines.filter(
      (_, i) => permute(i, lines.length, mix(seed, 1)) < Math.ceil(part * lines.length),
    )
    const path = join(folder, basename(source.path))
    await nodeFileSystem.writeFile(path, kept.join(''))
    drawn.push({ ...source, path })
  }
  return {
    sources: drawn,
    [Symbol.asyncDispose]: () => nodeFileSystem.remove(folder),
  }
}
