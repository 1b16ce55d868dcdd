import { z } from 'zod'
import { configError } from '../config-error.js'
import { ConfigError } from '../errors.js'
import type { LawName } from './arms/law.js'

/** study.yaml: what is studied, on what, and for how long. */

const path = z.string().min(1)
const paths = z.union([path, z.array(path).min(1)])
const lawNames = [
  'balance',
  'align',
  'optimize',
  'specialize',
  'variability',
] as const satisfies readonly LawName[]

const disciplineSchema = z.union([
  // A whole corpus in one file, which `split` divides.
  path,
  z.strictObject({
    train: paths,
    validation: paths.optional(),
    test: paths.optional(),
    /** Fresh items, in no other file: for law 1, to see what repeats cost. */
    reserve: paths.optional(),
  }),
])

const heldOut = z.strictObject({ test: paths })

const lambda = (most: number) => z.number().min(0).max(most).optional()

/** How the recipe of law 2 restores the following of instructions; without lambda it is chosen on validation. */
const alignSchema = z.discriminatedUnion('kind', [
  /** A short training of a small adapter on the merged model. */
  z.strictObject({ kind: z.literal('replay') }),
  /** θ + lambda (θ_instruct - θ_base); `instruct` is the model unless another is named. */
  z.strictObject({
    kind: z.literal('chat-vector'),
    base: path,
    instruct: path.optional(),
    lambda: lambda(10),
  }),
  /** θ0 + (1 - lambda) Δ_disciplines + lambda Δ_instructions, where the second is trained on the model as it is. */
  z.strictObject({ kind: z.literal('interpolation'), lambda: lambda(1) }),
])

const dataSchema = z.strictObject({
  disciplines: z.record(z.string().min(1).max(256), disciplineSchema),
  /** Questions that need two disciplines. */
  cross: heldOut.optional(),
  /** Demands on the form of an answer; law 2 aligns with `train`, which holds no fact of a discipline. */
  instructions: heldOut.extend({ train: paths, validation: paths.optional() }).optional(),
  /** Everyday language, to measure forgetting. */
  general: heldOut.optional(),
  /** Prompts are rendered through the model's chat template. */
  chatTemplate: z.boolean().default(false),
  /** Divide a corpus that has no test or validation split, near-duplicates kept together. */
  split: z
    .strictObject({
      validation: z.number().positive().max(0.5).default(0.1),
      test: z.number().positive().max(0.5).default(0.2),
    })
    .optional(),
  /** What is done about training items that are test items, or nearly. */
  duplicates: z.enum(['remove', 'error']).default('remove'),
})

export const studySchema = z.strictObject({
  model: path,
  output: path,
  data: dataSchema,
  laws: z
    .array(z.enum(lawNames))
    .min(1)
    .default([...lawNames]),
  /** An arm. */
  seeds: z.int().min(1).max(100).default(5),
  /** Runs of a condition of variability. */
  variabilityRuns: z.int().min(1).max(100).default(10),
  /** That go through the model in one run. */
  tokens: z.int().min(1).max(1e12).default(200_000),
  /** For the whole study, on this machine: it is cut to fit. Default: as long as it takes. */
  minutes: z.number().positive().max(1e6).optional(),
  /** One seed an arm: a look at everything, without a verdict. */
  slice: z.boolean().default(false),
  /** Smallest difference that matters, in points. */
  delta: z.number().positive().max(100).default(2),
  align: alignSchema.default({ kind: 'replay' }),
  /** Of questions with choices: by log-likelihood, or that by character. Other answers must be exact. */
  metric: z.enum(['accuracy', 'accuracy-by-character']).default('accuracy-by-character'),
  learningRates: z.array(z.number().positive().max(1)).min(1).max(9).default([5e-4, 1e-3, 2e-3]),
  rank: z.int().min(1).max(4096).default(16),
  /** What law 1 measures diversity on: the mean hidden state of the model, or hashed n-grams of tokens. */
  embedding: z.enum(['model', 'n-grams']).default('model'),
  /** Tokens of an optimiser step. */
  batchTokens: z
    .int()
    .min(1)
    .max(1 << 24)
    .default(1536),
  /** Most items of a set that are looked at. */
  items: z.int().min(1).max(1e6).optional(),
  dtype: z.enum(['f32', 'bf16']).default('f32'),
  device: z.string().min(1).default('cpu'),
  threads: z.int().min(1).max(1024).optional(),
  seed: z.int().min(0).max(1e9).default(1),
})

export type StudyConfigInput = z.input<typeof studySchema>
export type StudyConfig = z.output<typeof studySchema>

/** A law as something to do: what comes out is an adapter or a model, not a verdict. */
export type RecipeName = Extract<LawName, 'align' | 'optimize' | 'specialize'>

/** Checks a study's configuration. @throws ConfigError naming the key, the value received and what is allowed */
export function parseStudyConfig(value: unknown, file = 'study'): StudyConfig {
  return parse(value, file, 'study')
}

/** The same for a law as a recipe, which takes one seed. */
export function parseRecipeConfig(name: RecipeName, value: unknown, file = 'recipe'): StudyConfig {
  const own = { laws: [name], slice: true }
  return parse(typeof value === 'object' ? { ...value, ...own } : value, file, name)
}

/** The model folders that a configuration names, the one that is trained first. */
export function modelsOf({ model, align }: StudyConfig): string[] {
  return align.kind === 'chat-vector' ? [model, align.base, align.instruct ?? model] : [model]
}

/** Everything that is read. */
export function inputsOf(config: StudyConfig): string[] {
  const { disciplines, cross, instructions, general } = config.data
  const files = [...Object.values(disciplines), cross, instructions, general].flatMap((one) =>
    typeof one === 'string' ? [one] : Object.values(one ?? {}).flat(),
  )
  return [...modelsOf(config), ...files.filter((file) => file !== undefined)]
}

function parse(value: unknown, file: string, purpose: 'study' | RecipeName): StudyConfig {
  const result = studySchema.safeParse(value)
  if (!result.success) throw configError(result.error, value, file)
  const config = result.data
  const wrong = (key: string, message: string): never => {
    throw new ConfigError(`${file}: ${key}: ${message}`, { details: { file, key } })
  }
  const names = Object.keys(config.data.disciplines)
  if (names.length < 2)
    wrong('data.disciplines', `a study needs at least two disciplines, received ${names.length}`)
  if (names.includes('instructions'))
    wrong('data.disciplines.instructions', 'this name is that of the data of law 2; choose another')
  if (!config.slice && config.seeds < 2)
    wrong(
      'seeds',
      `a verdict needs at least 2 seeds, received ${config.seeds}; slice: true looks at one`,
    )
  if (!config.slice && config.laws.includes('variability') && config.variabilityRuns < 2)
    wrong('variabilityRuns', `a verdict needs at least 2, received ${config.variabilityRuns}`)
  for (const [name, discipline] of Object.entries(config.data.disciplines))
    for (const split of ['validation', 'test'] as const)
      if (!config.data.split && (typeof discipline === 'string' || discipline[split] === undefined))
        wrong(
          `data.disciplines.${name}`,
          `there is no ${split} split; name its file, or let data.split divide the corpus`,
        )
  if (config.laws.includes('align')) {
    if (!config.data.instructions)
      wrong(
        'data.instructions',
        'law 2 (align) needs instructions to align with and to test on; leave it out of laws, or name their files',
      )
    if (!config.data.cross && purpose === 'study')
      wrong(
        'data.cross',
        'law 2 (align) needs a test of questions over several disciplines; leave it out of laws, or name its file',
      )
  }
  if (purpose === 'align') checkAlign(config, wrong)
  return config
}

function checkAlign(config: StudyConfig, wrong: (key: string, message: string) => never): void {
  const { align, model } = config
  if (align.kind === 'replay') return
  if (align.lambda === undefined && !config.data.instructions?.validation)
    wrong(
      'align.lambda',
      'without it data.instructions.validation is needed to choose it on; give one of them',
    )
  if (align.kind === 'chat-vector' && (align.instruct ?? model) === align.base)
    wrong(
      'align.base',
      `a chat vector needs the model before instruction tuning, received the tuned one, ${align.base}`,
    )
}
