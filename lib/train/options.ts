import { z } from 'zod'
import { configError } from '../config-error.js'
import { methodSchema } from './method.js'
import { mixingSchema } from './mixing-options.js'

/** The schema of a training run: the YAML file's keys are the library's options. */

const wholeNumber = (min: number, max = Number.MAX_SAFE_INTEGER) => z.int().min(min).max(max)
const positive = z.number().positive().max(1e12)

const sourceSchema = z.strictObject({
  discipline: z.string().min(1).default('default'),
  path: z.string().min(1),
  weight: positive.default(1),
})

const dataSchema = z
  .strictObject({
    train: z.array(sourceSchema).min(1),
    validation: z.array(sourceSchema).default([]),
    shuffle: z.boolean().default(true),
    /** How disciplines share the run; default: by their samples and the sources' weights. */
    mixing: mixingSchema.optional(),
    /** Longest sample in tokens; default: the model's. */
    maxLength: wholeNumber(2).optional(),
    /** What to do with a sample that is too long. */
    onTooLong: z.enum(['skip', 'truncate']).default('skip'),
    /** Which assistant turns of a chat are trained. */
    labels: z.enum(['all', 'last']).default('all'),
    /** Render prompt-completion records through the model's chat template. */
    chatTemplate: z.boolean().default(false),
    onBadRecord: z.enum(['skip', 'error']).default('error'),
  })
  .refine(({ mixing, shuffle }) => mixing === undefined || shuffle, {
    path: ['shuffle'],
    error: 'data.mixing shuffles, so shuffle must be true',
  })
  .refine(
    ({ mixing, train }) => mixing === undefined || train.every(({ weight }) => weight === 1),
    {
      path: ['mixing'],
      error: 'mixing decides the shares, so no source may have a weight',
    },
  )

const optimizerSchema = z.strictObject({
  learningRate: positive.default(2e-4),
  betas: z.tuple([z.number().min(0).lt(1), z.number().min(0).lt(1)]).default([0.9, 0.999]),
  epsilon: positive.default(1e-8),
  weightDecay: z.number().min(0).max(1e6).default(0.01),
  gradientClipping: z.number().min(0).max(1e12).default(1),
})

const scheduleSchema = z.strictObject({
  kind: z.enum(['constant', 'linear', 'cosine']).default('cosine'),
  warmupSteps: wholeNumber(0).default(0),
})

const batchSchema = z
  .strictObject({
    /** Sequences a micro-batch. */
    size: wholeNumber(1, 1 << 20).optional(),
    /** Or: as many sequences as fit in this many tokens. */
    maxTokens: wholeNumber(1, 1 << 24).optional(),
    /** Micro-batches an optimiser step. */
    accumulation: wholeNumber(1, 1 << 16).default(1),
  })
  .refine((batch) => batch.size === undefined || batch.maxTokens === undefined, {
    error: 'size and maxTokens exclude each other',
  })

const checkpointSchema = z.strictObject({
  every: wholeNumber(1).default(100),
  keep: wholeNumber(1, 10_000).default(2),
})

const evaluationSchema = z.strictObject({
  /** Steps between evaluations on data.validation; the last step always evaluates. */
  every: wholeNumber(1).default(100),
  /** Stop after this many evaluations without a lower loss, and keep the best; default: never. */
  patience: wholeNumber(1).optional(),
})

export const trainSchema = z
  .strictObject({
    model: z.string().min(1),
    output: z.string().min(1),
    method: methodSchema,
    data: dataSchema,
    optimizer: optimizerSchema.prefault({}),
    schedule: scheduleSchema.prefault({}),
    batch: batchSchema.prefault({}),
    steps: wholeNumber(1).optional(),
    epochs: z.number().positive().max(1e6).optional(),
    checkpoint: checkpointSchema.prefault({}),
    evaluation: evaluationSchema.prefault({}),
    /** Samples count by how hard they are for the model at the time (VL-Cogito's weights): one more forward pass a step. */
    difficulty: z.enum(['easy', 'medium', 'hard', 'progressive']).optional(),
    /** bf16: both operands of the big products are rounded, sums are float32. */
    dtype: z.enum(['f32', 'bf16']).default('f32'),
    /** Recompute activations in the backward pass: less memory, about a third more time. */
    activationCheckpointing: z.boolean().default(false),
    device: z.string().min(1).default('cpu'),
    threads: wholeNumber(1, 1024).optional(),
    seed: wholeNumber(0).default(0),
  })
  .refine((config) => config.steps === undefined || config.epochs === undefined, {
    error: 'steps and epochs exclude each other',
  })

/** What a user writes. */
export type TrainConfigInput = z.input<typeof trainSchema>
/** The same with every default filled in. */
export type TrainConfig = z.output<typeof trainSchema>

/** Checks a training configuration; errors name the key, the value received and what is allowed. */
export function parseTrainConfig(value: unknown, file = 'config'): TrainConfig {
  const result = trainSchema.safeParse(value)
  if (result.success) return result.data
  throw configError(result.error, value, file)
}
