import { copyFile, stat, writeFile } from 'node:fs/promises'
import { join } from 'node:path'
import { ConfigError } from '../errors.js'
import { publishFolder, requireNewFolder, requireOutside } from '../output-folder.js'
import { Parameter } from '../parameter.js'
import { type SafetensorsSource, writeSafetensors } from '../safetensors.js'
import type { DecoderConfig } from './config.js'
import type { DecoderWeights } from './decoder.js'
import { eachWeight } from './layout.js'

export type ModelDType = 'f32' | 'bf16' | 'f16'

export interface SaveModelOptions {
  readonly config: DecoderConfig
  readonly weights: DecoderWeights
  /** The folder whose tokenizer and generation files are copied; null: none. */
  readonly tokenizerFrom: string | null
  /** Of the file; default: what config.json names, else f32. */
  readonly dtype?: ModelDType
  /** Replace a folder that is there already: one that the caller knows to be its own. Default false. */
  readonly replace?: boolean
}

// What transformers reads beside config and weights. Links are followed.
const companions = [
  'added_tokens.json',
  'chat_template.jinja',
  'generation_config.json',
  'merges.txt',
  'special_tokens_map.json',
  'tokenizer.json',
  'tokenizer.model',
  'tokenizer_config.json',
  'vocab.json',
]

const namesOfDTypes = { f32: 'float32', bf16: 'bfloat16', f16: 'float16' } as const

/**
 * Writes a model folder that transformers loads: config.json, model.safetensors, and the tokenizer's files. A head that
 * is tied to the embedding is not written.
 *
 * @param folder new or empty unless `replace` is set, and outside `tokenizerFrom`
 * @throws ConfigError for a folder that cannot be used; CheckpointError if it cannot be written
 */
export async function saveModel(folder: string, options: SaveModelOptions): Promise<void> {
  const { config, weights, tokenizerFrom } = options
  const dtype = options.dtype ?? modelDType(config)
  if (!Object.hasOwn(namesOfDTypes, dtype))
    throw new ConfigError(
      `dtype must be one of ${Object.keys(namesOfDTypes).join(', ')}, not ${JSON.stringify(dtype)}`,
      { details: { key: 'dtype', received: dtype, allowed: Object.keys(namesOfDTypes) } },
    )
  const inputs = tokenizerFrom === null ? [] : [tokenizerFrom]
  if (options.replace) await requireOutside(folder, inputs)
  else await requireModelOutput(folder, inputs)
  const sources = Array.from(eachWeight(weights), (one): SafetensorsSource =>
    one instanceof Parameter
      ? { name: one.name, source: one.value, dtype }
      : { name: one.name, source: one.master?.value ?? one.weight, dtype },
  )
  await publishFolder(
    folder,
    {
      what: 'model',
      existing: options.replace ? 'replace' : undefined,
      bytesNeeded: sizeOf(sources, dtype),
    },
    async (partial) => {
      await writeCompanions(partial, config.source, dtype, tokenizerFrom)
      await writeSafetensors(join(partial, 'model.safetensors'), [['format', 'pt']], sources)
    },
  )
}

/** config.json with its dtype corrected, and the tokenizer's files. */
export async function writeCompanions(
  folder: string,
  source: DecoderConfig['source'],
  dtype: ModelDType,
  tokenizerFrom: string | null,
): Promise<void> {
  const json = JSON.stringify(withDType(source, dtype), null, 2)
  await writeFile(join(folder, 'config.json'), `${json}\n`)
  if (tokenizerFrom === null) return
  for (const name of companions)
    if ((await stat(join(tokenizerFrom, name)).catch(() => null))?.isFile())
      await copyFile(join(tokenizerFrom, name), join(folder, name))
}

/** Refuses early what {@link saveModel} would refuse after the work. @throws ConfigError */
export async function requireModelOutput(folder: string, inputs: readonly string[]): Promise<void> {
  await requireOutside(folder, inputs)
  await requireNewFolder(folder, 'model')
}

/** What config.json says that the weights are stored as; f32 if it says nothing else. */
export function modelDType({ source }: DecoderConfig): ModelDType {
  const name = source.dtype ?? source.torch_dtype
  for (const [dtype, its] of Object.entries(namesOfDTypes))
    if (name === its || name === `torch.${its}`) return dtype as ModelDType
  return 'f32'
}

/** The source's own object with its dtype corrected: transformers 4 calls it torch_dtype, 5 dtype. */
function withDType(source: DecoderConfig['source'], dtype: ModelDType): Record<string, unknown> {
  const name = namesOfDTypes[dtype]
  const config: Record<string, unknown> = { ...source }
  const keys = ['dtype', 'torch_dtype'].filter((key) => Object.hasOwn(config, key))
  for (const key of keys.length > 0 ? keys : ['torch_dtype']) config[key] = name
  // The weights that are written are plain: whatever produced them, nothing is left to undo.
  delete config._name_or_path
  return config
}

function sizeOf(sources: readonly SafetensorsSource[], dtype: ModelDType): number {
  const bytes = dtype === 'f32' ? 4 : 2
  return sources.reduce(
    (sum, { source }) =>
      sum + bytes * ('rows' in source ? source.rows * source.columns : source.size),
    0,
  )
}
