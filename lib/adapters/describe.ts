import { stat } from 'node:fs/promises'
import { join } from 'node:path'
import { FormatError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import { SafetensorsFile } from '../safetensors.js'
import type { LoraDeclaration } from './declaration.js'
import type { AdapterForm } from './form.js'
import { parseMixtureConfig } from './mixture-config.js'
import { folderFormat } from './adapter-folders.js'
import { parsePeftConfig } from './peft-config.js'

/** What an adapter folder is, read from its files alone: no model is needed. */
export interface AdapterDescription {
  readonly folder: string
  readonly format: 'peft' | 'mixture'
  readonly kind: LoraDeclaration['kind']
  /** In words: what the experts share, where their gates come from. */
  readonly about: string
  readonly form: AdapterForm
  /** Path or name of the model that it was trained on; null if the folder does not say. */
  readonly base: string | null
  readonly rsLora: boolean
  readonly dropout: number
  readonly modules: readonly ModuleDescription[]
  /** Of all modules: what training moves. */
  readonly trainableParameters: number
  /** What a module's trainable parameters are, with r, E, in and out of the module. */
  readonly parameterFormula: string
  /** Of the file of tensors, in bytes. */
  readonly size: number
}

export interface ModuleDescription {
  readonly path: string
  /** Of one expert. */
  readonly rank: number
  readonly inFeatures: number
  readonly outFeatures: number
  readonly trainableParameters: number
}

const configCap = 1 << 20

/** @throws FormatError if the folder holds no adapter, or one that cannot be read */
export async function describeAdapter(folder: string): Promise<AdapterDescription> {
  const names = await nodeFileSystem.list(folder).catch((): string[] => [])
  const { format, config, tensors, prefix } = folderFormat(folder, names)
  const configFile = join(folder, config)
  const value = await readJsonFile(configFile, configCap)
  using file = await SafetensorsFile.open(join(folder, tensors))
  const shapes = modulesOf(file, prefix)
  const paths = [...shapes.keys()]
  if (paths.length === 0)
    throw new FormatError(`${file.path} holds no lora_A and lora_B of any layer`, {
      details: { file: file.path },
    })
  const parse = format === 'peft' ? parsePeftConfig : parseMixtureConfig
  const { kind, form, rsLora, dropout } = parse(value, configFile, paths)
  const modules = paths.map((path) => describeModule(path, shapes.get(path)!, form, file.path))
  const { base_model_name_or_path: base } = value as { base_model_name_or_path?: unknown }
  return {
    folder,
    format,
    kind,
    about: inWords(form),
    form,
    base: typeof base === 'string' ? base : null,
    rsLora,
    dropout,
    modules,
    trainableParameters: modules.reduce((sum, one) => sum + one.trainableParameters, 0),
    parameterFormula: formulaOf(form),
    size: (await stat(file.path)).size,
  }
}

/** The shapes of a module's tensors by their short names. */
function modulesOf(
  file: SafetensorsFile,
  prefix: string,
): Map<string, Map<string, readonly number[]>> {
  const modules = new Map<string, Map<string, readonly number[]>>()
  for (const [name, { shape }] of file.entries) {
    const match = /^(.+)\.(lora_[A-Za-z_]+(?:\.(?:weight|bias))?)$/.exec(name)
    if (!match || !name.startsWith(prefix)) continue
    const path = match[1].slice(prefix.length)
    const own = modules.get(path) ?? new Map<string, readonly number[]>()
    own.set(match[2], shape)
    modules.set(path, own)
  }
  return modules
}

function describeModule(
  path: string,
  shapes: ReadonlyMap<string, readonly number[]>,
  form: AdapterForm,
  file: string,
): ModuleDescription {
  const a = shapes.get('lora_A.weight')
  const b = shapes.get('lora_B.weight')
  if (a?.length !== 2 || b?.length !== 2)
    throw new FormatError(
      `${file}: ${path} needs lora_A.weight and lora_B.weight of two dimensions`,
      {
        details: { file, key: path },
      },
    )
  const frozen = form.frozenExperts ? /^lora_[AB]\.weight$/ : /^$/
  const untrained =
    form.gate?.kind === 'router' && !form.gate.trained
      ? /^lora_router/
      : /^lora_(gate|router\.bias)$/
  let trainable = 0
  for (const [name, shape] of shapes)
    if (!frozen.test(name) && !untrained.test(name))
      trainable += shape.reduce((product, size) => product * size, 1)
  return {
    path,
    rank: form.shares === 'a' ? a[0] : a[0] / form.experts,
    inFeatures: a[1],
    outFeatures: b[0],
    trainableParameters: trainable,
  }
}

/** For example: 4 experts that share A, softmax of a router. */
export function inWords(form: AdapterForm): string {
  const { experts, shares, gate, disciplines } = form
  if (form.magnitude) return 'LoRA with a magnitude for every output'
  if (form.initialization !== 'zero') return 'LoRA that starts from the base weights'
  if (!gate && experts === 1) return 'one expert a layer'
  const shared = { nothing: '', a: ' that share A', b: ' that share B' }[shares]
  const names = disciplines.length > 0 ? ` (${disciplines.join(', ')})` : ''
  const frozen = form.frozenExperts ? ', frozen' : ''
  return `${experts} experts a layer${shared}${frozen}, ${gateInWords(form)}${names}`
}

function gateInWords({ gate, experts }: AdapterForm): string {
  switch (gate?.kind) {
    case 'router': {
      const of = gate.absolute ? 'prototypes' : 'a router'
      return gate.topK < experts ? `top ${gate.topK} of ${of}` : `softmax of ${of}`
    }
    case 'outputs':
      return 'softmax of what they say'
    case 'task':
      return 'gates by discipline'
    case 'fixed':
      return `constant gates ${gate.weights.map((weight) => Number(weight.toPrecision(4))).join(', ')}`
    case undefined:
      return 'all added'
  }
}

function formulaOf(form: AdapterForm): string {
  const { experts, shares, gate, transform, magnitude, frozenExperts, disciplines } = form
  const many = experts > 1 ? `${experts}·` : ''
  const terms = frozenExperts
    ? []
    : [`${shares === 'a' ? '' : many}r·in`, `${shares === 'b' ? '' : many}r·out`]
  if (transform) terms.push(`${disciplines.length}·r²`)
  if (magnitude) terms.push('out')
  if (gate?.kind === 'router' && gate.trained) terms.push(`${many}in`)
  if (gate?.kind === 'outputs') terms.push(`${experts * experts}·r`)
  if (gate?.kind === 'task') terms.push(String(disciplines.length * experts))
  return terms.length > 0 ? terms.join(' + ') : '0'
}
