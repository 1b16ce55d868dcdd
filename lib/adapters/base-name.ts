import { join } from 'node:path'
import { ConfigError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import { folderFormat } from './adapter-folders.js'

/** What a saved adapter says that it was trained on: a path or a name; null if nothing. */
export async function baseNameOf(folder: string): Promise<string | null> {
  const names = await nodeFileSystem.list(folder)
  const { config } = folderFormat(folder, names)
  const { base_model_name_or_path: name } = (await readJsonFile(join(folder, config), 1 << 20)) as {
    base_model_name_or_path?: unknown
  }
  return typeof name === 'string' ? name : null
}

/**
 * Adapters of different models are not for one merge. Their configurations hold paths or names, of which the last part
 * counts.
 *
 * @throws ConfigError
 */
export function requireOneBase(
  adapters: readonly { readonly folder: string; readonly baseName: string | null }[],
): void {
  const last = (name: string) => name.replace(/\/+$/, '').split('/').at(-1)!.toLowerCase()
  const named = adapters.filter(({ baseName }) => baseName !== null && baseName !== 'unknown')
  const other = named.find(({ baseName }) => last(baseName!) !== last(named[0].baseName!))
  if (other)
    throw new ConfigError(
      `${other.folder} is an adapter of ${other.baseName} and ${named[0].folder} one of ${named[0].baseName}: ` +
        'adapters of different models cannot be merged',
      { details: { path: other.folder, received: other.baseName, allowed: named[0].baseName } },
    )
}
