import { z } from 'zod'
import { lora, type LoraDeclaration } from '../adapters/declaration.js'
import { dora, hydraLora, loraMoe, mtlLora, olora, pissa } from '../adapters/kinds.js'

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

export const methodSchema = z.discriminatedUnion('kind', [
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
    kind: z.literal('full'),
    /** Start from random weights: the model folder needs only config.json and a tokenizer. */
    initialize: z.boolean().default(false),
  }),
])

export type Method = z.output<typeof methodSchema>

/** The saved adapter that a method starts from; undefined: none. */
export function initOf(method: Method): string | undefined {
  return method.kind === 'full' ? undefined : method.init
}

/**
 * The adapter that a method declares; null: full fine-tuning.
 *
 * @param disciplines of the training data, for methods that tell them apart and do not name them
 * @throws ConfigError for options that exclude each other
 */
export function declareAdapter(
  method: Method,
  seed: number,
  disciplines: readonly string[],
): LoraDeclaration | null {
  switch (method.kind) {
    case 'full':
      return null
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
