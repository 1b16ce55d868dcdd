import { join } from 'node:path'
import { FormatError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'

/**
 * An adapter's folder. What PEFT can express is PEFT's: adapter_config.json and adapter_model.safetensors. A mixture has
 * two files of its own, mixture_config.json and mixture_model.safetensors.
 */
export interface FolderFormat {
  readonly format: 'peft' | 'mixture'
  readonly config: string
  readonly tensors: string
  /** Before the names of the tensors. */
  readonly prefix: string
}

export const peftFormat: FolderFormat = {
  format: 'peft',
  config: 'adapter_config.json',
  tensors: 'adapter_model.safetensors',
  prefix: 'base_model.model.',
}
export const mixtureFormat: FolderFormat = {
  format: 'mixture',
  config: 'mixture_config.json',
  tensors: 'mixture_model.safetensors',
  prefix: '',
}

/** Which of the two formats a folder with these files is in; PEFT's if it has neither. @throws FormatError for both */
export function folderFormat(folder: string, names: readonly string[]): FolderFormat {
  if (!names.includes(mixtureFormat.config)) return peftFormat
  if (names.includes(peftFormat.config))
    throw new FormatError(
      `${folder} holds ${peftFormat.config} and ${mixtureFormat.config}: an adapter is one of the two`,
      { details: { path: folder } },
    )
  return mixtureFormat
}

/** Whether these names of a folder make it an adapter or a mixture. */
export function holdsAdapter(names: readonly string[]): boolean {
  return [peftFormat, mixtureFormat].some(({ config }) => names.includes(config))
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
