import { z } from 'zod'
import { Adapter } from '../adapters/adapter.js'
import { composeSaved } from '../adapters/compose.js'
import { lora, type LoraDeclaration } from '../adapters/declaration.js'
import {
  type CompositionGate,
  dora,
  hydraLora,
  loraMoe,
  mtlLora,
  olora,
  pissa,
} from '../adapters/kinds.js'
import { loadAdapter } from '../adapters/peft.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig, DecoderWeights } from '../models/index.js'

/** `method` of a training configuration: what is trained. */

const wholeNumber = (min: number, max: number) => z.int().min(min).max(max)
const positive = z.number().positive().max(1e12)
const coefficient = z.number().min(0).max(1e6)

const targetsSchema = z.union([
  z.literal('all-linear'),
  z.array(z.string().min(1)).min(1),
  z.strictObject({ pattern: z.string().min(1) }),
])

const common = {
  rank: wholeNumber(1, 4096).default(8),
  alpha: positive.optional(),
  targets: targetsSchema.default('all-linear'),
  dropout: z.number().min(0).lt(1).default(0),
  rsLora: z.boolean().default(false),
  loraPlusRatio: positive.default(1),
  rankPattern: z.record(z.string(), wholeNumber(1, 4096)).default({}),
  alphaPattern: z.record(z.string(), positive).default({}),
  /** A saved adapter to start from. */
  init: z.string().min(1).optional(),
}

const names = z.array(z.string().min(1).max(256)).max(1024)

const mixture = {
  ...common,
  experts: wholeNumber(1, 256).default(4),
  gate: z.enum(['softmax', 'top-k', 'uniform']).default('softmax'),
  topK: wholeNumber(1, 256).optional(),
  balanceLoss: coefficient.default(0),
  varianceLoss: coefficient.default(0),
  zLoss: coefficient.default(0),
  supervisedLoss: coefficient.default(0),
  biasRate: coefficient.default(0),
  /** Default: those of data.train where supervisedLoss is given. */
  disciplines: names.optional(),
}

const plain = <K extends 'lora' | 'dora' | 'pissa' | 'olora'>(kind: K) =>
  z.strictObject({ kind: z.literal(kind), ...common })

const adapterMethods = [
  plain('lora'),
  plain('dora'),
  plain('pissa'),
  plain('olora'),
  z.strictObject({
    kind: z.literal('lora-moe'),
    ...mixture,
    shares: z.enum(['nothing', 'a', 'b']).default('nothing'),
  }),
  z.strictObject({ kind: z.literal('hydra-lora'), ...mixture }),
  z.strictObject({
    kind: z.literal('mtl-lora'),
    ...common,
    experts: wholeNumber(1, 256).default(3),
    temperature: z.number().min(1e-3).max(1e3).default(0.1),
    /** Default: those of data.train. */
    disciplines: names.min(1).optional(),
  }),
  z.strictObject({
    kind: z.literal('mole'),
    /** Saved adapters, which stay as they are, in the order of the experts. */
    adapters: z.array(z.string().min(1)).min(1).max(256),
    temperature: z.number().min(1e-3).max(1e3).default(1),
    balanceLoss: coefficient.default(0),
    zLoss: coefficient.default(0),
  }),
] as const

const adapterMethod = z.discriminatedUnion('kind', [...adapterMethods])

export const methodSchema = z.discriminatedUnion('kind', [
  ...adapterMethods,
  z.strictObject({
    kind: z.literal('full'),
    /** Start from random weights: the model folder needs only config.json and a tokenizer. */
    initialize: z.boolean().default(false),
  }),
  z.strictObject({
    kind: z.literal('side-by-side'),
    /** The adapter of every discipline that `adapters` does not name. */
    adapter: adapterMethod.optional(),
    /** By discipline. */
    adapters: z.record(z.string().min(1), adapterMethod).default({}),
  }),
])

export type Method = z.output<typeof methodSchema>
/** What declares one adapter. */
export type AdapterMethod = z.output<typeof adapterMethod>
export type SideBySideMethod = Extract<Method, { kind: 'side-by-side' }>

/** The saved adapters that a method reads. */
export function adaptersReadBy(method: Method): string[] {
  switch (method.kind) {
    case 'full':
      return []
    case 'mole':
      return method.adapters
    case 'side-by-side':
      return [method.adapter, ...Object.values(method.adapters)].flatMap((one) =>
        one ? adaptersReadBy(one) : [],
      )
    default:
      return method.init === undefined ? [] : [method.init]
  }
}

/**
 * The adapter of each discipline of the training data.
 *
 * @throws ConfigError if one has none, one that is not in the data has one, or a name can be no folder's
 */
export function methodsByDiscipline(
  { adapter, adapters }: SideBySideMethod,
  disciplines: readonly string[],
): Map<string, AdapterMethod> {
  for (const name of Object.keys(adapters))
    if (!disciplines.includes(name))
      throw new ConfigError(
        `method.adapters.${name}: data.train has no discipline ${JSON.stringify(name)}, only ${disciplines.join(', ')}`,
        { details: { key: `method.adapters.${name}`, allowed: disciplines } },
      )
  return new Map(
    disciplines.map((name) => {
      if (!isFolderName(name))
        throw new ConfigError(
          `data.train: the discipline ${JSON.stringify(name)} names a folder of adapters here, so it must be a file name without / and no dot at its beginning`,
          { details: { key: 'data.train', received: name } },
        )
      const own = Object.hasOwn(adapters, name) ? adapters[name] : adapter
      if (!own)
        throw new ConfigError(
          `method: the discipline ${JSON.stringify(name)} has no adapter; give method.adapter for all, or method.adapters.${name}`,
          { details: { key: 'method.adapter', received: name } },
        )
      return [name, own]
    }),
  )
}

function isFolderName(name: string): boolean {
  return !/^\.|[/\0]/.test(name) && Buffer.byteLength(name) <= 200
}

/**
 * A fresh adapter, or a saved one, as a method says; not attached to anything.
 *
 * @param disciplines of the training data, for methods that tell them apart and do not name them
 * @param weights null: the adapter is not bound, so DoRA, PiSSA and OLoRA are of no use yet
 * @throws ConfigError for options that exclude each other; FormatError for a saved adapter that cannot be read
 */
export async function createAdapter(
  { device, config, weights }: AdapterSite,
  method: AdapterMethod,
  { seed, disciplines }: { seed: number; disciplines: readonly string[] },
): Promise<Adapter> {
  if (method.kind === 'mole')
    return await composeSaved(device, config, method.adapters, moleGate(method), { seed })
  const { init, dropout, loraPlusRatio } = method
  const adapter =
    init === undefined
      ? Adapter.create(device, config, declareAdapter(method, seed, disciplines))
      : await loadAdapter(device, config, init, { dropout, loraPlusRatio, seed })
  try {
    if (weights) await adapter.bind(weights, { loaded: init !== undefined })
    return adapter
  } catch (error) {
    adapter.dispose()
    throw error
  }
}

/** Where an adapter is made, and the weights that it updates. */
export interface AdapterSite {
  readonly device: Device
  readonly config: DecoderConfig
  readonly weights: DecoderWeights | null
}

function moleGate(method: Extract<AdapterMethod, { kind: 'mole' }>): CompositionGate {
  const { kind, temperature, balanceLoss, zLoss } = method
  return { kind, temperature, balanceLoss, zLoss }
}

/** A method whose adapter is declared, not composed of saved ones. */
export type DeclaredMethod = Exclude<AdapterMethod, { kind: 'mole' }>

/** @param disciplines of the training data, for methods that tell them apart and do not name them */
export function declareAdapter(
  method: DeclaredMethod,
  seed: number,
  disciplines: readonly string[],
): LoraDeclaration {
  switch (method.kind) {
    case 'lora':
      return lora({ ...method, seed })
    case 'dora':
      return dora({ ...method, seed })
    case 'pissa':
      return pissa({ ...method, seed })
    case 'olora':
      return olora({ ...method, seed })
    case 'lora-moe':
    case 'hydra-lora': {
      const named = method.disciplines ?? (method.supervisedLoss > 0 ? disciplines : [])
      const options = { ...method, seed, disciplines: named }
      return method.kind === 'lora-moe' ? loraMoe(options) : hydraLora(options)
    }
    case 'mtl-lora':
      return mtlLora({ ...method, seed, disciplines: method.disciplines ?? disciplines })
  }
}
