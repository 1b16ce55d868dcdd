import { writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import type { Device } from '../device.js'
import { ConfigError, FormatError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import {
  type DecoderConfig,
  layerName,
  linearNames,
  linearShape,
  type LinearName,
} from '../models/index.js'
import { publishFolder } from '../output-folder.js'
import { SafetensorsFile, type SafetensorsSource, writeSafetensors } from '../safetensors.js'
import type { Tensor } from '../tensor.js'
import { Adapter } from './adapter.js'
import { type LoraDeclaration, patternValue, targetMatcher } from './declaration.js'
import { parsePeftConfig, peftConfig, type TrainingOverrides } from './peft-config.js'

/** PEFT's adapter folder: adapter_config.json and adapter_model.safetensors. */

const configName = 'adapter_config.json'
const tensorsName = 'adapter_model.safetensors'
const prefix = 'base_model.model.'
const configCap = 1 << 20

export interface SaveAdapterOptions {
  /** Path or Hub name of the model that it was trained on, for whoever loads it. */
  readonly baseModel: string
}

/**
 * Writes an adapter as PEFT would. The folder is new, empty or an adapter already, whose two files are replaced; it is
 * whole at every instant.
 *
 * @throws ConfigError if the folder holds something else; CheckpointError if it cannot be written
 */
export async function saveAdapter(
  adapter: Adapter,
  folder: string,
  { baseModel }: SaveAdapterOptions,
): Promise<void> {
  const existing = await checkFolder(folder)
  const config = peftConfig(adapter, baseModel)
  const bytesNeeded = 4 * adapter.numParameters
  await publishFolder(folder, { what: 'adapter', existing, bytesNeeded }, async (partial) => {
    await writeFile(join(partial, configName), `${JSON.stringify(config, null, 2)}\n`)
    await writeAdapterTensors(adapter, join(partial, tensorsName))
  })
}

/** adapter_model.safetensors alone: of a checkpoint, say. */
export async function writeAdapterTensors(adapter: Adapter, path: string): Promise<void> {
  const entries: SafetensorsSource[] = []
  const views: Tensor[] = []
  try {
    for (const { path, group, part } of adapter.modules) {
      const a = group.a.value.slice(0, part.begin, part.end)
      views.push(a)
      entries.push({ name: `${prefix}${path}.lora_A.weight`, source: a })
      entries.push({ name: `${prefix}${path}.lora_B.weight`, source: part.b.value })
    }
    await writeSafetensors(path, [['format', 'pt']], entries)
  } finally {
    for (const view of views) view.release()
  }
}

/**
 * Reads an adapter folder that PEFT or this library wrote. Nothing is passed over: a tensor too many or too few, a
 * shape that does not fit the model, a value that is not finite, or a feature that is not supported is refused by name.
 *
 * @param overrides how it is trained further, where that is to differ from the folder's own
 * @throws FormatError
 */
export async function loadAdapter(
  device: Device,
  config: DecoderConfig,
  folder: string,
  overrides: TrainingOverrides = {},
): Promise<Adapter> {
  const linears = [...linearLayers(config)]
  const configFile = join(folder, configName)
  const declaration = parsePeftConfig(
    await readJsonFile(configFile, configCap),
    configFile,
    linears.map(({ path }) => path),
    overrides,
  )
  await requireSafetensors(folder)
  using file = await SafetensorsFile.open(join(folder, tensorsName))
  checkTensors(file, config, linears, declaration)
  const adapter = Adapter.create(device, config, declaration, { lenient: true })
  try {
    await readAdapterTensors(adapter, file)
    return adapter
  } catch (error) {
    adapter.dispose()
    throw error
  }
}

/** Overwrites an adapter's values with those of a file that {@link writeAdapterTensors} wrote for the same modules. */
export async function readAdapterTensors(adapter: Adapter, file: SafetensorsFile): Promise<void> {
  for (const { path, group, part } of adapter.modules) {
    const a = group.a.value.slice(0, part.begin, part.end)
    try {
      await readFinite(file, `${prefix}${path}.lora_A.weight`, a)
      await readFinite(file, `${prefix}${path}.lora_B.weight`, part.b.value)
    } finally {
      a.release()
    }
  }
}

async function readFinite(file: SafetensorsFile, name: string, tensor: Tensor): Promise<void> {
  await file.readTensor(name, tensor)
  const values = await tensor.readFloats()
  const bad = values.findIndex((value) => !Number.isFinite(value))
  if (bad >= 0)
    throw new FormatError(`${file.path}: element ${bad} of tensor ${name} is ${values[bad]}`, {
      details: { file: file.path, key: name, received: values[bad] },
    })
}

function* linearLayers(config: DecoderConfig): Generator<{ path: string; linear: LinearName }> {
  for (let layer = 0; layer < config.numLayers; layer++)
    for (const [linear, name] of Object.entries(linearNames))
      yield { path: `${layerName(layer)}.${name}`, linear: linear as LinearName }
}

/** Compares the file with the declaration before any memory is taken for it. */
function checkTensors(
  file: SafetensorsFile,
  config: DecoderConfig,
  linears: Iterable<{ path: string; linear: LinearName }>,
  declaration: LoraDeclaration,
): void {
  const isTarget = targetMatcher(declaration)
  const expected = new Map<string, readonly [number, number]>()
  for (const { path, linear } of linears) {
    if (!isTarget(path)) continue
    const rank = patternValue(declaration.rankPattern, path, declaration.rank)
    const [rows, columns] = linearShape(config, linear)
    expected.set(`${prefix}${path}.lora_A.weight`, [rank, columns])
    expected.set(`${prefix}${path}.lora_B.weight`, [rows, rank])
  }
  for (const name of file.entries.keys())
    if (!expected.has(name)) throw unknownTensor(file.path, name)
  for (const [name, shape] of expected) {
    const entry = file.entries.get(name)
    const problem = !entry
      ? `has no tensor ${name}, though target_modules names its module`
      : entry.shape.join() !== shape.join()
        ? `tensor ${name} has shape [${entry.shape.join(', ')}], the model and adapter_config.json ask for [${shape.join(', ')}]`
        : !['F32', 'BF16', 'F16'].includes(entry.dtype)
          ? `tensor ${name} has dtype ${entry.dtype}; F32, BF16 and F16 are supported`
          : null
    if (problem)
      throw new FormatError(`${file.path}: ${problem}`, { details: { file: file.path, key: name } })
  }
}

function unknownTensor(path: string, name: string): FormatError {
  const reasons: [RegExp, string][] = [
    [/\.lora_magnitude_vector/, 'DoRA is not supported'],
    [/\.lora_embedding_[AB]/, 'adapters of embeddings are not supported'],
    [/\.lora_[AB]\.bias$/, 'lora_bias is not supported'],
    [
      /\.lora_[AB]\.[^.]+\.weight$/,
      'its name holds the name of an adapter, as no saved adapter does',
    ],
    [/\.lora_[AB]\.weight$/, 'adapter_config.json and the model have no such target module'],
  ]
  const reason =
    reasons.find(([pattern]) => pattern.test(name))?.[1] ??
    'only low-rank updates of linear layers are supported'
  return new FormatError(`${path}: tensor ${name} cannot be used: ${reason}`, {
    details: { file: path, key: name },
  })
}

/** How a folder that is there already is replaced. */
async function checkFolder(folder: string): Promise<'replace' | 'replace-files' | undefined> {
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
  if (!names.includes(configName))
    throw new ConfigError(
      `${folder} already holds ${JSON.stringify(names[0])} and is no adapter: an adapter is written to a new or empty ` +
        'folder, or over another adapter',
      { details: { path: folder } },
    )
  return names.every((name) => name === configName || name === tensorsName)
    ? 'replace'
    : 'replace-files'
}

async function requireSafetensors(folder: string): Promise<void> {
  const names = await nodeFileSystem.list(folder).catch((): string[] => [])
  if (!names.includes(tensorsName) && names.includes('adapter_model.bin'))
    throw new FormatError(
      `${folder} holds adapter_model.bin, a pickle, which is never read: save the adapter as safetensors`,
      { details: { file: join(folder, 'adapter_model.bin') } },
    )
}
