import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device } from '../device.js'
import { ConfigError, FormatError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import type { DecoderConfig } from '../models/index.js'
import { publishFolder } from '../output-folder.js'
import { SafetensorsFile, writeSafetensors } from '../safetensors.js'
import { Adapter } from './adapter.js'
import { type FolderFormat, folderFormat, mixtureFormat, peftFormat } from './adapter-folders.js'
import type { LoraDeclaration } from './declaration.js'
import { mixtureConfig, parseMixtureConfig } from './mixture-config.js'
import { fillOutputBases } from './output-basis.js'
import { parsePeftConfig, peftConfig, type TrainingOverrides } from './peft-config.js'
import {
  checkTensors,
  doubledTensors,
  expectedShapes,
  linearLayers,
  moduleTensors,
  readTensors,
} from './tensors.js'

const ownNames = [peftFormat, mixtureFormat].flatMap(({ config, tensors }) => [config, tensors])
const configCap = 1 << 20

export interface SaveAdapterOptions {
  /** Path or Hub name of the model that it was trained on, for whoever loads it. */
  readonly baseModel: string
}

/**
 * Writes an adapter as PEFT would, or a mixture in our own format. The folder is new, empty or an adapter already, whose
 * two files are replaced; it is whole at every instant.
 *
 * @throws ConfigError if the folder holds something else; CheckpointError if it cannot be written
 */
export async function saveAdapter(
  adapter: Adapter,
  folder: string,
  { baseModel }: SaveAdapterOptions,
): Promise<void> {
  const format = formatOf(adapter.declaration)
  const existing = await checkFolder(folder, format)
  const config =
    format === peftFormat ? peftConfig(adapter, baseModel) : mixtureConfig(adapter, baseModel)
  const bytesNeeded = 8 * adapter.numParameters
  await publishFolder(folder, { what: 'adapter', existing, bytesNeeded }, async (partial) => {
    await writeFile(join(partial, format.config), `${JSON.stringify(config, null, 2)}\n`)
    await writeAdapterTensors(adapter, join(partial, format.tensors))
  })
}

function formatOf({ form }: LoraDeclaration): FolderFormat {
  return form.gate || form.experts > 1 ? mixtureFormat : peftFormat
}

/** The safetensors file alone. */
export async function writeAdapterTensors(adapter: Adapter, path: string): Promise<void> {
  const { prefix } = formatOf(adapter.declaration)
  const tensors = adapter.modules.flatMap((module) =>
    module.group.correction ? doubledTensors(module) : moduleTensors(module),
  )
  try {
    const entries = tensors.map(({ name, tensor }) => ({ name: prefix + name, source: tensor }))
    await writeSafetensors(path, [['format', 'pt']], entries)
  } finally {
    for (const { tensor } of tensors) tensor.release()
  }
}

/**
 * Reads an adapter folder that PEFT or this library wrote. Nothing is passed over: a tensor too many or too few, a
 * shape that does not fit the model, a value that is not finite, or a feature that is not supported is refused by name.
 *
 * @param overrides how it is trained further, where that is to differ from the folder's own
 * @returns an adapter; DoRA's is of use only after `bind(weights, { loaded: true })`
 * @throws FormatError
 */
export async function loadAdapter(
  device: Device,
  config: DecoderConfig,
  folder: string,
  overrides: TrainingOverrides = {},
): Promise<Adapter> {
  const names = await nodeFileSystem.list(folder).catch((): string[] => [])
  const format = folderFormat(folder, names)
  const paths = [...linearLayers(config)].map(({ path }) => path)
  const configFile = join(folder, format.config)
  const parse = format.format === 'peft' ? parsePeftConfig : parseMixtureConfig
  const declaration = parse(await readJsonFile(configFile, configCap), configFile, paths, overrides)
  refusePickle(folder, names)
  using file = await SafetensorsFile.open(join(folder, format.tensors))
  checkTensors(file, expectedShapes(config, declaration), format.prefix, format.config)
  const adapter = Adapter.create(device, config, declaration, { lenient: true })
  try {
    await readTensors(adapter, file, format.prefix)
    await fillOutputBases(adapter)
    return adapter
  } catch (error) {
    adapter.dispose()
    throw error
  }
}

/** How a folder that is there already is replaced. */
async function checkFolder(
  folder: string,
  format: FolderFormat,
): Promise<'replace' | 'replace-files' | undefined> {
  const other = format === peftFormat ? mixtureFormat : peftFormat
  let names: string[]
  try {
    if ((await nodeFileSystem.inspect(folder)) === null) return undefined
    names = await nodeFileSystem.list(folder)
  } catch (cause) {
    throw new ConfigError(`${folder} cannot be used for an adapter: ${(cause as Error).message}`, {
      cause,
      details: { path: folder },
    })
  }
  if (names.length === 0) return undefined
  const hasConfig = [format, other].some(({ config }) => names.includes(config))
  if (hasConfig && names.every((name) => ownNames.includes(name))) return 'replace'
  if (!names.includes(format.config) || names.includes(other.config))
    throw new ConfigError(
      `${folder} already holds ${JSON.stringify(names[0])} and is no adapter: an adapter is written to a new or empty ` +
        'folder, or over another adapter',
      { details: { path: folder } },
    )
  return 'replace-files'
}

function refusePickle(folder: string, names: readonly string[]): void {
  if (!names.includes(peftFormat.tensors) && names.includes('adapter_model.bin'))
    throw new FormatError(
      `${folder} holds adapter_model.bin, a pickle, which is never read: save the adapter as safetensors`,
      { details: { file: join(folder, 'adapter_model.bin') } },
    )
}
