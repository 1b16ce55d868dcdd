import { FormatError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { layerName, linearNames, type LinearName, linearShape } from '../models/index.js'
import type { SafetensorsFile } from '../safetensors.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { Adapter, AdapterModule } from './adapter.js'
import { type LoraDeclaration, patternValue, targetMatcher } from './declaration.js'
import { expertRanks } from './form.js'

/** The tensors of an adapter's files: by which names, in which shapes. */

export interface NamedTensor {
  readonly name: string
  /** One ownership of it is the caller's. */
  readonly tensor: Tensor
}

/** Everything that a module holds, under names that begin with its path; views of the adapter's own values. */
export function moduleTensors({ path, group, part, mixture }: AdapterModule): NamedTensor[] {
  const { gate } = group
  const made: NamedTensor[] = []
  const view = (name: string, tensor: Tensor) =>
    made.push({ name: `${path}.${name}`, tensor: tensor.detach() })
  view('lora_A.weight', group.a.value.slice(0, part.begin, part.end))
  view('lora_B.weight', part.b.value.slice(0, 0, part.b.value.shape[0]))
  if (part.magnitude)
    view('lora_magnitude_vector', part.magnitude.value.value.slice(0, 0, part.b.value.shape[0]))
  if (part.transform) {
    const { value } = part.transform.matrices
    view('lora_lambda', value.slice(0, 0, value.shape[0]))
  }
  if (gate?.kind === 'router') {
    const { experts, weights, state } = gate
    view('lora_router.weight', weights.value.slice(0, mixture * experts, (mixture + 1) * experts))
    if (state.bias) view('lora_router.bias', row(state.bias, mixture))
  } else if (gate?.kind === 'outputs') {
    const { value } = gate.readers[mixture].weights
    view('lora_router.weight', value.slice(0, 0, value.shape[0]))
  } else if (gate?.kind === 'task') view('lora_task_weight', row(gate.weights.value, mixture))
  else if (gate) view('lora_gate', row(gate.weights, mixture))
  return made
}

/** What {@link moduleTensors} of an adapter will be, before anything is allocated. */
export function expectedShapes(
  config: DecoderConfig,
  declaration: LoraDeclaration,
): Map<string, readonly number[]> {
  const { form } = declaration
  const isTarget = targetMatcher(declaration)
  const expected = new Map<string, readonly number[]>()
  for (const { path, linear } of linearLayers(config)) {
    if (!isTarget(path)) continue
    const rank = patternValue(declaration.rankPattern, path, declaration.rank)
    const [outFeatures, inFeatures] = linearShape(config, linear)
    const { rows, columns } = expertRanks(form, rank)
    const { gate, experts, disciplines } = form
    const put = (name: string, ...shape: number[]) => expected.set(`${path}.${name}`, shape)
    put('lora_A.weight', rows, inFeatures)
    put('lora_B.weight', outFeatures, columns)
    if (form.magnitude) put('lora_magnitude_vector', outFeatures)
    if (form.transform) put('lora_lambda', disciplines.length, rank, rank)
    if (gate?.kind === 'router') put('lora_router.weight', experts, inFeatures)
    if (gate?.kind === 'outputs') put('lora_router.weight', experts, experts * rank)
    if (gate?.kind === 'router' && gate.biasRate > 0) put('lora_router.bias', experts)
    if (gate?.kind === 'task') put('lora_task_weight', disciplines.length, experts)
    if (gate?.kind === 'fixed') put('lora_gate', experts)
  }
  return expected
}

export function* linearLayers(
  config: DecoderConfig,
): Generator<{ path: string; linear: LinearName }> {
  for (let layer = 0; layer < config.numLayers; layer++)
    for (const [linear, name] of Object.entries(linearNames))
      yield { path: `${layerName(layer)}.${name}`, linear: linear as LinearName }
}

/** Compares a file with what is expected before any memory is taken for it. @throws FormatError */
export function checkTensors(
  file: SafetensorsFile,
  expected: ReadonlyMap<string, readonly number[]>,
  prefix: string,
  configName: string,
): void {
  const known = new Set([...expected.keys()].map((name) => prefix + name))
  for (const name of file.entries.keys())
    if (!known.has(name)) throw unknownTensor(file.path, name, configName)
  for (const [short, shape] of expected) {
    const name = prefix + short
    const entry = file.entries.get(name)
    const problem = !entry
      ? `has no tensor ${name}, though target_modules names its module`
      : entry.shape.join() !== shape.join()
        ? `tensor ${name} has shape [${entry.shape.join(', ')}], the model and ${configName} ask for [${shape.join(', ')}]`
        : !['F32', 'BF16', 'F16'].includes(entry.dtype)
          ? `tensor ${name} has dtype ${entry.dtype}; F32, BF16 and F16 are supported`
          : null
    if (problem)
      throw new FormatError(`${file.path}: ${problem}`, { details: { file: file.path, key: name } })
  }
}

/** Fills an adapter from a file that has been checked. @throws FormatError for a value that is not finite */
export async function readTensors(
  adapter: Adapter,
  file: SafetensorsFile,
  prefix: string,
): Promise<void> {
  for (const module of adapter.modules) {
    const tensors = moduleTensors(module)
    try {
      for (const { name, tensor } of tensors) await readFinite(file, prefix + name, tensor)
    } finally {
      for (const { tensor } of tensors) tensor.release()
    }
  }
}

/** PiSSA and OLoRA as LoRA of the unaltered base: [A; A0] and [B, -B0]. */
export function doubledTensors({ path, group, part }: AdapterModule): NamedTensor[] {
  const start = group.correction!
  const place = start.parts[group.parts.indexOf(part)]!
  const rank = part.end - part.begin
  const { device } = part.b.value
  const a = Tensor.empty(device, [2 * rank, group.a.value.shape[1]]).detach()
  const b = Tensor.empty(device, [part.b.value.shape[0], 2 * rank]).detach()
  scope(() => {
    a.slice(0, 0, rank).copyFrom(group.a.value.slice(0, part.begin, part.end))
    a.slice(0, rank, 2 * rank).copyFrom(start.a.value.slice(0, place.begin, place.end))
    b.slice(1, 0, rank).copyFrom(part.b.value)
    const taken = place.b.value.native
    device.run('add', {
      a: taken,
      b: taken,
      alpha: -1,
      beta: 0,
      y: b.slice(1, rank, 2 * rank).native,
    })
  })
  return [
    { name: `${path}.lora_A.weight`, tensor: a },
    { name: `${path}.lora_B.weight`, tensor: b },
  ]
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

/** One of the first dimension, without it. */
function row(tensor: Tensor, index: number): Tensor {
  const [, ...shape] = tensor.shape
  return scope(() => tensor.slice(0, index, index + 1).view(shape))
}

function unknownTensor(path: string, name: string, configName: string): FormatError {
  const reasons: [RegExp, string][] = [
    [/\.lora_magnitude_vector/, 'it belongs to DoRA, which adapter_config.json does not ask for'],
    [/\.lora_embedding_[AB]/, 'adapters of embeddings are not supported'],
    [/\.lora_[AB]\.bias$/, 'lora_bias is not supported'],
    [
      /\.lora_[AB]\.[^.]+\.weight$/,
      'its name holds the name of an adapter, as no saved adapter does',
    ],
    [/\.lora_[AB]\.weight$/, `${configName} and the model have no such target module`],
  ]
  const reason =
    reasons.find(([pattern]) => pattern.test(name))?.[1] ??
    'only low-rank updates of linear layers are supported'
  return new FormatError(`${path}: tensor ${name} cannot be used: ${reason}`, {
    details: { file: path, key: name },
  })
}
