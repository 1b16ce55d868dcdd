import { answerIndex, readRecords } from '../../data/index.js'
import { DataError } from '../../errors.js'
import { fillTemplate, UnusableRecord, valueAt } from './template.js'
import type { ChoiceTask, GenerationTask, LikelihoodTask, Task } from './task.js'

type Fields = Readonly<Record<string, unknown>>

/** A record of a task's data as it is asked. */
export interface Question {
  /** From 1. */
  readonly line: number
  readonly fields: Fields
  /** Description, shots and the record's own prompt. */
  readonly context: string
  /** The value of the task's `group`. */
  readonly group: string | null
}

/** Examples before the questions, by group. */
export class Shots {
  readonly #texts = new Map<string, string[]>()
  readonly #count: number

  private constructor(count: number) {
    this.#count = count
  }

  static none(): Shots {
    return new Shots(0)
  }

  /** The first `count` records of a file, or where the task has groups of each group. @throws DataError */
  static async read(
    task: Exclude<Task, { kind: 'instructions' }>,
    { data, count }: { data: string; count: number },
    signal?: AbortSignal,
  ): Promise<Shots> {
    const shots = new Shots(count)
    for await (const one of readRecords(data, { signal })) {
      if ('reason' in one) throw unusable(data, one.line, one.reason)
      const fields = one.record
      const group = inRecord(data, one.line, () => groupOf(task, fields)) ?? ''
      const held = shots.#texts.get(group) ?? []
      if (held.length < count)
        held.push(
          inRecord(data, one.line, () => {
            const answer = task.delimiter + targetOf(task, fields)
            return fillTemplate(task.prompt, fields) + answer + task.separator
          }),
        )
      shots.#texts.set(group, held)
      if (task.group === undefined && held.length === count) break
    }
    return shots
  }

  /** @throws UnusableRecord if there are fewer than were asked for */
  before(group: string | null): string {
    const held = this.#texts.get(group ?? '') ?? []
    if (held.length < this.#count)
      throw new UnusableRecord(
        `there are ${held.length} examples${group === null ? '' : ` of the group '${group}'`} and ${this.#count} are wanted`,
      )
    return held.join('')
  }
}

/** @throws UnusableRecord */
export function ask(task: Task, shots: Shots, line: number, fields: Fields): Question {
  const group = groupOf(task, fields)
  const prompt = fillTemplate(task.prompt, fields)
  if (task.kind === 'instructions') return { line, fields, context: prompt, group }
  const context = fillTemplate(task.description, fields) + shots.before(group) + prompt
  return { line, fields, context, group }
}

function groupOf(task: Task, fields: Fields): string | null {
  return task.group === undefined ? null : fillTemplate(`{${task.group}}`, fields)
}

/** The choices of a record and the index of the right one. @throws UnusableRecord */
export function choicesOf(
  task: ChoiceTask,
  fields: Fields,
): { choices: readonly string[]; answer: number } {
  const choices = typeof task.choices === 'string' ? valueAt(fields, task.choices) : task.choices
  if (
    !Array.isArray(choices) ||
    choices.length < 2 ||
    choices.length > 26 ||
    !choices.every((choice) => typeof choice === 'string' && choice.trim() !== '')
  )
    throw new UnusableRecord(`${String(task.choices)} must be a list of 2 to 26 texts`)
  const texts = choices as string[]
  const answer = answerIndex(valueAt(fields, task.answer), texts)
  if (answer === null)
    throw new UnusableRecord(
      `${task.answer} must be a choice: its index, 0 to ${texts.length - 1}, its letter or its text`,
    )
  return { choices: texts, answer }
}

/** The right continuation of a record, without the delimiter. @throws UnusableRecord */
export function targetOf(
  task: ChoiceTask | GenerationTask | LikelihoodTask,
  fields: Fields,
): string {
  if (task.kind !== 'choice') return fillTemplate(task.target, fields)
  const { choices, answer } = choicesOf(task, fields)
  return choices[answer]
}

/** Runs `body`, and says of what is wrong with a record where that stands. */
export function inRecord<T>(file: string, line: number, body: () => T): T {
  try {
    return body()
  } catch (error) {
    if (error instanceof UnusableRecord) throw unusable(file, line, error.message)
    throw error
  }
}

export function unusable(file: string, line: number, reason: string): DataError {
  return new DataError(`${file}:${line}: ${reason}`, { details: { file, line, reason } })
}
