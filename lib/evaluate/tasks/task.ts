import { RE2JS } from 're2js'
import { z } from 'zod'
import { ConfigError } from '../../errors.js'
import { builtInTasks } from './built-in.js'

/** The declaration of a task: how records become questions, and how answers are scored. */

const name = z.string().min(1).max(256)
const template = z.string().max(100_000)
const wholeNumber = (min: number, max: number) => z.int().min(min).max(max)

/** A regular expression in RE2's syntax, which takes linear time. */
const pattern = z
  .string()
  .max(10_000)
  .transform((text, context) => {
    try {
      return RE2JS.compile(text)
    } catch (error) {
      context.issues.push({
        code: 'custom',
        message: `not a regular expression: ${(error as Error).message}`,
        input: text,
      })
      return z.NEVER
    }
  })

const common = {
  name,
  /** Stands before the shots and the question. */
  description: template.default(''),
  prompt: template,
  /** Examples before the question: the first `count` records of `data`. */
  shots: z.strictObject({ data: z.string().min(1), count: wholeNumber(1, 64) }).optional(),
  /** Between a prompt and its answer. */
  delimiter: z.string().max(100).default(' '),
  /** Between the examples. */
  separator: z.string().max(1000).default('\n\n'),
  /** A key of the records: figures are also given for each of its values. */
  group: name.optional(),
}

const choice = z.strictObject({
  kind: z.literal('choice'),
  ...common,
  /** The continuations that are compared, or the key of a list of them. */
  choices: z.union([z.array(z.string().min(1)).min(2).max(26), name]),
  /** The key of the right one: its index, its letter or its text. */
  answer: name,
})

const extraction = z.strictObject({
  name,
  pattern,
  /** Which match is the answer. */
  take: z.enum(['first', 'last']).default('first'),
})

const generation = z.strictObject({
  kind: z.literal('generation'),
  ...common,
  target: template,
  maxTokens: wholeNumber(1, 65_536).default(256),
  stop: z.array(z.string().min(1)).max(32).default([]),
  /** What of an answer counts; each makes a figure of its own. Default: all of it. */
  extract: z.array(extraction).min(1).max(8).optional(),
  ignoreCase: z.boolean().default(false),
  /** Taken out of both sides before they are compared. */
  ignore: z.array(pattern).max(32).default([]),
})

const instructions = z.strictObject({
  kind: z.literal('instructions'),
  name,
  prompt: template,
  group: name.optional(),
  maxTokens: wholeNumber(1, 65_536).default(1280),
})

const likelihood = z.strictObject({
  kind: z.literal('likelihood'),
  ...common,
  target: template,
})

const taskSchema = z.discriminatedUnion('kind', [choice, generation, instructions, likelihood])

export type TaskInput = z.input<typeof taskSchema>
export type Task = z.output<typeof taskSchema>
export type ChoiceTask = Extract<Task, { kind: 'choice' }>
export type GenerationTask = Extract<Task, { kind: 'generation' }>
export type InstructionTask = Extract<Task, { kind: 'instructions' }>
export type LikelihoodTask = Extract<Task, { kind: 'likelihood' }>

/**
 * Checks the declaration of a task, or takes one that is built in by its name.
 *
 * @throws ConfigError naming the key, the value received and what is allowed
 */
export function parseTask(value: unknown, file = 'task'): Task {
  if (typeof value === 'string') {
    if (!Object.hasOwn(builtInTasks, value))
      throw new ConfigError(
        `the task '${value}' is not known; there are ${Object.keys(builtInTasks).join(', ')}`,
        { details: { received: value } },
      )
    return parseTask(builtInTasks[value])
  }
  const result = taskSchema.safeParse(value)
  if (result.success) return result.data
  const issue = result.error.issues[0]
  const key = issue.path.map(String).join('.')
  throw new ConfigError(`${file}: ${key || 'the task'}: ${issue.message}`, {
    cause: result.error,
    details: { file, key },
  })
}
