import { z } from 'zod'

/** `data.mixing` of a training configuration: how disciplines share a run. */

const wholeNumber = (min: number, max: number) => z.int().min(min).max(max)

const temperature = z.number().min(1).max(1e6)

const embedded = {
  /** What diversity is measured on: the mean hidden state of the frozen model, or hashed n-grams of tokens. */
  embedding: z.enum(['model', 'n-grams']).default('model'),
}

const capped = {
  /** Most passes over a discipline's unique samples. */
  maxEpochs: z.number().min(1).max(1000).default(4),
  ...embedded,
}

export const mixingSchema = z.discriminatedUnion('kind', [
  /** By trained tokens, duplicates not counted. */
  z.strictObject({ kind: z.literal('proportional') }),
  /** By trained tokens to the power of 1 / temperature. */
  z.strictObject({ kind: z.literal('temperature'), temperature: temperature.default(3.33) }),
  z.strictObject({ kind: z.literal('equal') }),
  /** By hand: of trained tokens, to one another. */
  z.strictObject({
    kind: z.literal('shares'),
    shares: z.record(z.string().min(1), z.number().positive().max(1e12)),
  }),
  /** Equal shares, or shares by temperature, as far as the caps allow. */
  z.strictObject({
    kind: z.literal('unimax'),
    temperature: temperature.optional(),
    caps: z.enum(['equal', 'diversity']).default('equal'),
    ...capped,
  }),
  /** The same with caps by diversity, and repeats that are chosen. */
  z.strictObject({
    kind: z.literal('diverse'),
    temperature: temperature.optional(),
    beta: z.number().min(0).max(1).default(0.5),
    ...capped,
  }),
  /** Weights learned by a small proxy (DoReMi), within the caps. */
  z.strictObject({
    kind: z.literal('doremi'),
    caps: z.enum(['equal', 'diversity']).default('diversity'),
    ...capped,
    /** Of the reference and of the proxy, which are LoRA adapters of this rank. */
    steps: wholeNumber(1, 1 << 20).default(200),
    rank: wholeNumber(1, 4096).default(8),
    /** Sequences of each discipline in every step of the proxy. */
    sequences: wholeNumber(4, 1 << 12).default(4),
    /** Of the weights' update. */
    stepSize: z.number().positive().max(100).default(1),
    /** Part of the uniform weights that is mixed in. */
    smoothing: z.number().min(0).max(1).default(1e-3),
  }),
  /** One discipline after another, each once, ordered by hand or by measured transfer (Omni-Thinker). */
  z
    .strictObject({
      kind: z.literal('sequence'),
      order: z.array(z.string().min(1)).min(1).optional(),
      /** A JSON file: { "disciplines": [...], "transfer": [[...], ...] }. */
      transfer: z.string().min(1).optional(),
    })
    .refine(({ order, transfer }) => (order === undefined) !== (transfer === undefined), {
      error: 'either order or transfer must be given',
    }),
])

export type Mixing = z.output<typeof mixingSchema>
