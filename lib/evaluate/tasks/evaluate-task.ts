import { createHash } from 'node:crypto'
import { createReadStream } from 'node:fs'
import { readRecords } from '../../data/index.js'
import { DataError } from '../../errors.js'
import type { Model } from '../../model.js'
import { type Figure, Tally } from './figures.js'
import { ItemFile } from './item-file.js'
import { ask, type Question, Shots, unusable } from './questions.js'
import { type ItemScore, scoreItems } from './score-items.js'
import { parseTask, type Task, type TaskInput } from './task.js'
import { UnusableRecord } from './template.js'

export interface TaskOptions {
  /** JSONL, CSV or Parquet, with the keys that the task names. */
  readonly data: string
  /** In place of the task's own. */
  readonly shots?: { readonly data: string; readonly count: number }
  /** The first so many records only. */
  readonly limit?: number
  readonly chatTemplate?: boolean
  /** Default error. */
  readonly onBadRecord?: 'skip' | 'error'
  /** A file for the scores of the items; an evaluation of the same goes on where it ends. */
  readonly output?: string
  /** What tells this model and adapter from others in `output`: modelFingerprint of their folders, or a name. */
  readonly identity?: string
  readonly signal?: AbortSignal
  readonly onItem?: (score: ItemScore) => void
  readonly onMessage?: (message: string) => void
}

export interface TaskResult {
  readonly task: string
  readonly items: number
  readonly badRecords: number
  readonly figures: readonly Figure[]
  /** The same by the task's group. */
  readonly groups: Readonly<Record<string, readonly Figure[]>>
  /** Of the items that were scored now; null if all were in `output` already. */
  readonly secondsPerItem: number | null
}

/** Questions that are scored together. */
const sliceOf: Readonly<Record<Task['kind'], number>> = {
  choice: 64,
  likelihood: 128,
  generation: 32,
  instructions: 32,
}

/**
 * Scores a model, with its adapter if one is attached, on a task: one that is built in, by its name, or a declaration.
 *
 * @throws ConfigError for the declaration or `output`, DataError for a record, AbortedError after a signal: what is in
 *   `output` by then is kept
 */
export async function evaluateTask(
  model: Model,
  task: TaskInput | string,
  options: TaskOptions,
): Promise<TaskResult> {
  const parsed = parseTask(task)
  const { data, output, signal } = options
  const shotsFrom = options.shots ?? (parsed.kind === 'instructions' ? undefined : parsed.shots)
  const shots =
    shotsFrom === undefined || parsed.kind === 'instructions'
      ? Shots.none()
      : await Shots.read(parsed, shotsFrom, signal)
  const scoring = { file: data, chatTemplate: options.chatTemplate ?? false, signal }
  const file =
    output === undefined
      ? null
      : await ItemFile.open<ItemScore>(output, await identityOf(task, options, shotsFrom?.data), [
          data,
          ...(shotsFrom ? [shotsFrom.data] : []),
        ])
  try {
    const totals = new Totals()
    for (const item of file?.items ?? []) totals.add(item)
    const known = file?.items.at(-1)?.line ?? 0
    for await (const slice of questionsOf(parsed, shots, options, known, totals)) {
      const scores = await totals.timed(() => scoreItems(model, parsed, slice, scoring))
      await file?.append(scores)
      for (const score of scores) {
        totals.add(score)
        options.onItem?.(score)
      }
    }
    if (totals.items === 0) throw new DataError(`${data}: no usable record`)
    return await totals.result(parsed)
  } finally {
    await file?.close()
  }
}

/** Slices of the questions after line `known`. */
async function* questionsOf(
  task: Task,
  shots: Shots,
  { data, limit = Infinity, onBadRecord = 'error', onMessage, signal }: TaskOptions,
  known: number,
  totals: Totals,
): AsyncGenerator<Question[]> {
  let slice: Question[] = []
  let taken = 0
  for await (const one of readRecords(data, { signal })) {
    if (taken >= limit) break
    let reason: string | null = 'reason' in one ? one.reason : null
    if (!('reason' in one))
      try {
        const question = ask(task, shots, one.line, one.record)
        taken++
        if (one.line > known) slice.push(question)
      } catch (error) {
        if (!(error instanceof UnusableRecord)) throw error
        reason = error.message
      }
    if (reason !== null) {
      if (onBadRecord === 'error') throw unusable(data, one.line, reason)
      totals.badRecords++
      onMessage?.(`${data}:${one.line}: ${reason}`)
    }
    if (slice.length === sliceOf[task.kind]) {
      yield slice
      slice = []
    }
  }
  if (slice.length > 0) yield slice
}

/** SHA-256 of what decides the scores. */
async function identityOf(
  task: TaskInput | string,
  { data, limit, chatTemplate = false, shots, identity = '' }: TaskOptions,
  shotsData: string | undefined,
): Promise<string> {
  const hash = createHash('sha256')
  hash.update(JSON.stringify([task, limit ?? null, chatTemplate, shots?.count ?? null, identity]))
  for (const path of shotsData === undefined ? [data] : [data, shotsData]) {
    hash.update('\n')
    try {
      for await (const chunk of createReadStream(path)) hash.update(chunk as Buffer)
    } catch (cause) {
      throw new DataError(`${path} cannot be read: ${(cause as Error).message}`, { cause })
    }
  }
  return hash.digest('hex')
}

class Totals {
  items = 0
  badRecords = 0
  readonly #all = new Tally()
  readonly #groups = new Map<string, Tally>()
  #seconds = 0
  #timed = 0

  add({ group, scores, logLikelihood, tokens }: ItemScore): void {
    this.items++
    const tallies = [this.#all]
    if (group !== null) {
      let held = this.#groups.get(group)
      if (!held) this.#groups.set(group, (held = new Tally()))
      tallies.push(held)
    }
    for (const tally of tallies) {
      for (const [name, score] of Object.entries(scores)) tally.add(name, score)
      if (logLikelihood !== undefined)
        tally.addLogLikelihood('perplexity', logLikelihood, tokens ?? 1)
    }
  }

  async timed(body: () => Promise<ItemScore[]>): Promise<ItemScore[]> {
    const started = performance.now()
    const scores = await body()
    this.#seconds += (performance.now() - started) / 1000
    this.#timed += scores.length
    return scores
  }

  async result({ name }: Task): Promise<TaskResult> {
    const groups: [string, Figure[]][] = []
    for (const [group, tally] of this.#groups) groups.push([group, await tally.figures()])
    return {
      task: name,
      items: this.items,
      badRecords: this.badRecords,
      figures: await this.#all.figures(),
      groups: Object.fromEntries(groups),
      secondsPerItem: this.#timed === 0 ? null : this.#seconds / this.#timed,
    }
  }
}
