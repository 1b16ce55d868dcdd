import { join } from 'node:path'
import { nodeFileSystem } from '../file-system.js'

/** Whether these names of a folder make it an adapter or a mixture. */
export function holdsAdapter(names: readonly string[]): boolean {
  return ['adapter_config.json', 'mixture_config.json'].some((name) => names.includes(name))
}

/** The names of the adapters in a folder that is none itself, sorted, as a run side by side leaves them. */
export async function adaptersIn(folder: string): Promise<string[]> {
  const list = (path: string) => nodeFileSystem.list(path).catch((): string[] => [])
  const names = await list(folder)
  if (holdsAdapter(names)) return []
  const found: string[] = []
  for (const name of names) if (holdsAdapter(await list(join(folder, name)))) found.push(name)
  return found
}
