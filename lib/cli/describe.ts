import { Command } from 'commander'
import { join } from 'node:path'
import { adaptersIn, holdsAdapter } from '../adapters/adapter-folders.js'
import { type AdapterDescription, describeAdapter } from '../adapters/describe.js'
import { FormatError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import { formatBytes } from './progress.js'

const runCap = 16 << 20

export function describeCommand(): Command {
  return new Command('describe')
    .summary('say what an adapter, a mixture or a run is')
    .description(
      'Say what a folder holds: the kind of adapter, its modules, ranks and experts, how many parameters it trains, its ' +
        'size and its base; of a run also how far it has come. No model is loaded.',
    )
    .argument('<folder>', 'an adapter, a mixture, a run, or a folder of adapters')
    .option('--json', 'as one JSON object')
    .action(async (folder: string, { json }: { json?: boolean }) => {
      const names = await nodeFileSystem.list(folder).catch((cause: unknown) => {
        throw new FormatError(`${folder} cannot be read: ${(cause as Error).message}`, {
          cause,
          details: { path: folder },
        })
      })
      if (names.includes('run.json')) return await describeRun(folder, names, json ?? false)
      if (holdsAdapter(names)) return show(await describeAdapter(folder), json ?? false)
      const adapters = await describeAdapters(folder, '')
      if (Object.keys(adapters).length === 0) throw describesNot(folder, names)
      if (json) console.log(JSON.stringify({ folder, adapters }, null, 2))
      else showAdapters(adapters)
    })
}

function describesNot(folder: string, names: readonly string[]): FormatError {
  const what = names.includes('config.json')
    ? 'is a model'
    : 'holds no adapter_config.json, mixture_config.json or run.json'
  return new FormatError(
    `${folder} ${what}: describe takes an adapter, a mixture, a run, or a folder of adapters`,
    { details: { path: folder } },
  )
}

/** Of a folder of adapters, by their paths. */
async function describeAdapters(
  folder: string,
  prefix: string,
): Promise<Record<string, AdapterDescription>> {
  const adapters: Record<string, AdapterDescription> = {}
  for (const name of await adaptersIn(folder))
    adapters[prefix + name] = await describeAdapter(join(folder, name))
  return adapters
}

function showAdapters(adapters: Readonly<Record<string, AdapterDescription>>): void {
  for (const [name, adapter] of Object.entries(adapters)) {
    console.log(`${name}:`)
    for (const line of adapterLines(adapter)) console.log(`  ${line}`)
  }
}

function show(description: AdapterDescription, json: boolean): void {
  console.log(json ? JSON.stringify(description, null, 2) : adapterLines(description).join('\n'))
}

function adapterLines(description: AdapterDescription): string[] {
  const { kind, about, base, modules, trainableParameters, parameterFormula, size } = description
  const byShape = new Map<string, number>()
  for (const { path, rank, inFeatures, outFeatures } of modules) {
    const name = path.slice(path.lastIndexOf('.') + 1)
    const key = `${name}: rank ${rank}, ${inFeatures} to ${outFeatures}`
    byShape.set(key, (byShape.get(key) ?? 0) + 1)
  }
  return [
    `${kind}: ${about}`,
    `base: ${base ?? 'not stated'}`,
    `scaling: alpha / ${description.rsLora ? 'sqrt(rank)' : 'rank'}; dropout ${description.dropout}`,
    `modules: ${modules.length}`,
    ...Array.from(byShape, ([key, count]) => `  ${count} × ${key}`),
    `trainable parameters: ${trainableParameters} (${parameterFormula} a module)`,
    `size: ${formatBytes(size)} in ${description.format === 'peft' ? "PEFT's format" : 'the mixture format'}`,
  ]
}

async function describeRun(folder: string, names: readonly string[], json: boolean): Promise<void> {
  const run = (await readJsonFile(join(folder, 'run.json'), runCap)) as Record<string, unknown>
  const steps = names
    .flatMap((name) => /^step-(\d{1,15})$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b)
  const finished = ['adapter', 'adapters', 'model'].some((name) => names.includes(name))
  const adapters = await describeAdapters(join(folder, 'adapters'), 'adapters/')
  if (names.includes('adapter')) adapters.adapter = await describeAdapter(join(folder, 'adapter'))
  if (json) {
    console.log(JSON.stringify({ folder, run, checkpoints: steps, finished, adapters }, null, 2))
    return
  }
  const method = run.method as { kind?: unknown } | undefined
  console.log(`run: ${String(method?.kind ?? 'unknown')} on ${String(run.model ?? 'unknown')}`)
  console.log(`checkpoints: ${steps.length > 0 ? steps.join(', ') : 'none'}`)
  console.log(finished ? 'result: written' : 'result: none yet')
  showAdapters(adapters)
}
