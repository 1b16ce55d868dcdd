import {
  choicePrompt,
  type CorpusRecord,
  parseRecord,
  promptAndCompletion,
  readRecords,
} from '../data/index.js'
import { DataError } from '../errors.js'
import type { Model } from '../model.js'
import { commonTokens } from '../text/chat.js'
import type { ChatMessage } from '../text/index.js'
import { type ScoredSequence, scoreSequences, type SequenceScore } from './score.js'

export interface EvaluateOptions {
  /** JSONL, CSV or Parquet, as for training. */
  readonly data: string
  /** Render prompts through the chat template, as a user's turn; default false, as in training. */
  readonly chatTemplate?: boolean
  /** Default error. */
  readonly onBadRecord?: 'skip' | 'error'
  readonly signal?: AbortSignal
  /** Called for every record, in order. */
  readonly onRecord?: (score: RecordScore) => void | Promise<void>
  readonly onMessage?: (message: string) => void
}

/** The score of one record; of a multiple-choice record, that of the right choice, and of all. */
export interface RecordScore extends SequenceScore {
  /** From 1. */
  readonly line: number
  readonly fields: Readonly<Record<string, unknown>>
  readonly choices?: readonly SequenceScore[]
  /** Whether the right choice has the highest log-likelihood, and the highest by character. */
  readonly correct?: boolean
  readonly correctNormalized?: boolean
}

export interface EvaluationResult {
  readonly records: number
  readonly badRecords: number
  /** exp(-sum of log-likelihoods / number of scored tokens), over right answers. */
  readonly perplexity: number
  /** Of the multiple-choice records; null if there were none. */
  readonly accuracy: number | null
  readonly accuracyNormalized: number | null
}

/** A record as the texts that are scored: the choices of a question, or one completion. */
interface Question {
  readonly line: number
  readonly fields: Readonly<Record<string, unknown>>
  readonly prompt: string
  readonly completions: readonly string[]
  readonly answer: number | null
  /** Rendered by a chat template, which writes its own special tokens. */
  readonly rendered: boolean
}

const sliceRecords = 128

/**
 * Log-likelihood of each record's completion given its prompt; of a multiple-choice record's every choice. Prompt and
 * prompt + completion are tokenised; what follows their common prefix is scored, without an end-of-sequence token.
 */
export async function evaluate(model: Model, options: EvaluateOptions): Promise<EvaluationResult> {
  const chatTemplate = options.chatTemplate ?? false
  const { data, signal } = options
  const totals = new Totals()
  let slice: { record: CorpusRecord; line: number; fields: Question['fields'] }[] = []
  const flush = async () => {
    const questions = await askAll(model, slice, chatTemplate)
    slice = []
    for await (const score of scoreQuestions(model, questions, signal)) {
      totals.add(score)
      await options.onRecord?.(score)
    }
  }
  for await (const one of readRecords(data, { signal })) {
    const record = 'reason' in one ? { problem: one.reason } : parseRecord(one.record)
    if ('problem' in record) {
      if ((options.onBadRecord ?? 'error') === 'error')
        throw new DataError(`${data}:${one.line}: ${record.problem}`, {
          details: { file: data, line: one.line, reason: record.problem },
        })
      totals.badRecords++
      options.onMessage?.(`${data}:${one.line}: ${record.problem}`)
      continue
    }
    slice.push({ record, line: one.line, fields: 'record' in one ? one.record : {} })
    if (slice.length === sliceRecords) await flush()
  }
  await flush()
  if (totals.records === 0) throw new DataError(`${data}: no usable record`)
  return totals.result()
}

async function askAll(
  model: Model,
  slice: readonly { record: CorpusRecord; line: number; fields: Question['fields'] }[],
  chatTemplate: boolean,
): Promise<Question[]> {
  const { tokenizer } = model
  const chats: { at: number; messages: readonly ChatMessage[] }[] = []
  const questions = slice.map(({ record, line, fields }, at): Question => {
    const base = { line, fields, answer: null, rendered: false }
    switch (record.kind) {
      case 'text':
        return { ...base, prompt: '', completions: [record.text] }
      case 'chat': {
        const last = record.messages.findLastIndex(({ role }) => role === 'assistant')
        chats.push({ at, messages: record.messages.slice(0, last) })
        return { ...base, prompt: '', completions: [textOf(record.messages[last])] }
      }
      case 'completion':
        if (chatTemplate) chats.push({ at, messages: [{ role: 'user', content: record.prompt }] })
        return {
          ...base,
          prompt: promptAndCompletion(record, chatTemplate).prompt,
          completions: [record.completion],
        }
      case 'choice': {
        const { question, choices, answer } = record
        if (chatTemplate) chats.push({ at, messages: [{ role: 'user', content: question }] })
        const asked = choices.map((choice) => choicePrompt(question, choice, chatTemplate))
        return {
          ...base,
          prompt: asked[0].prompt,
          completions: asked.map(({ completion }) => completion),
          answer,
        }
      }
    }
  })
  if (chats.length > 0) {
    const rendered = await tokenizer.renderChats(
      chats.map(({ messages }) => ({ messages, addGenerationPrompt: true })),
    )
    chats.forEach(({ at }, i) => {
      const { text, error } = rendered[i]
      const { line } = questions[at]
      if (error !== undefined)
        throw new DataError(`line ${line}: the chat template refused the record: ${error}`)
      questions[at] = { ...questions[at], prompt: text, rendered: true }
    })
  }
  return questions
}

async function* scoreQuestions(
  model: Model,
  questions: readonly Question[],
  signal?: AbortSignal,
): AsyncGenerator<RecordScore> {
  const sequences = await encodeQuestions(model, questions)
  const scores = scoreSequences(model.decoder, model.adapter, sequences, { signal })
  for (const { line, fields, completions, answer } of questions) {
    const choices: SequenceScore[] = []
    for (let i = 0; i < completions.length; i++) choices.push((await scores.next()).value)
    if (answer === null) {
      yield { line, fields, ...choices[0] }
      continue
    }
    const sums = choices.map(({ logLikelihood }) => logLikelihood)
    const byCharacter = sums.map((sum, i) => sum / completions[i].trimStart().length)
    yield {
      line,
      fields,
      ...choices[answer],
      choices,
      correct: indexOfLargest(sums) === answer,
      correctNormalized: indexOfLargest(byCharacter) === answer,
    }
  }
}

async function encodeQuestions(
  { tokenizer, config }: Model,
  questions: readonly Question[],
): Promise<ScoredSequence[]> {
  const sequences: ScoredSequence[] = []
  const encodeAll = async (rendered: boolean) => {
    const texts = questions
      .filter((question) => question.rendered === rendered)
      .flatMap(({ prompt, completions }) => [prompt, ...completions.map((text) => prompt + text)])
    return await tokenizer.encode(texts, { addSpecialTokens: !rendered })
  }
  const encoded = { plain: await encodeAll(false), rendered: await encodeAll(true) }
  const next = { plain: 0, rendered: 0 }
  for (const { completions, rendered, line } of questions) {
    const kind = rendered ? 'rendered' : 'plain'
    const prompt = encoded[kind][next[kind]++]
    for (let i = 0; i < completions.length; i++) {
      const tokens = encoded[kind][next[kind]++]
      sequences.push(
        toSequence(prompt, tokens, tokenizer.eosTokenId ?? tokenizer.bosTokenId, {
          maxLength: config.maxPositions + 1,
          line,
        }),
      )
    }
  }
  return sequences
}

/** Without a prompt the end-of-sequence token stands before the first token; too long a prompt loses its beginning. */
function toSequence(
  prompt: Int32Array,
  tokens: Int32Array,
  separator: number | undefined,
  { maxLength, line }: { maxLength: number; line: number },
): ScoredSequence {
  let start = commonTokens(prompt, tokens)
  let all = tokens
  if (start === 0) {
    if (separator === undefined)
      throw new DataError(
        `line ${line}: the prompt is empty, and the tokenizer has no token to put in its place`,
      )
    all = Int32Array.of(separator, ...tokens)
    start = 1
  }
  if (start >= all.length) throw new DataError(`line ${line}: the completion adds no token`)
  const cut = Math.max(0, all.length - maxLength)
  if (start - cut < 1)
    throw new DataError(
      `line ${line}: the completion has ${all.length - start} tokens, the model takes ${maxLength - 1}`,
    )
  return { tokens: all.subarray(cut), start: start - cut }
}

class Totals {
  records = 0
  badRecords = 0
  #tokens = 0
  #logLikelihood = 0
  #questions = 0
  #correct = 0
  #correctNormalized = 0

  add(score: RecordScore): void {
    this.records++
    this.#tokens += score.tokens
    this.#logLikelihood += score.logLikelihood
    if (score.choices === undefined) return
    this.#questions++
    this.#correct += Number(score.correct)
    this.#correctNormalized += Number(score.correctNormalized)
  }

  result(): EvaluationResult {
    const share = (count: number) => (this.#questions === 0 ? null : count / this.#questions)
    return {
      records: this.records,
      badRecords: this.badRecords,
      perplexity: Math.exp(-this.#logLikelihood / this.#tokens),
      accuracy: share(this.#correct),
      accuracyNormalized: share(this.#correctNormalized),
    }
  }
}

function textOf({ content }: ChatMessage): string {
  return typeof content === 'string' ? content : ''
}

function indexOfLargest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values))
}
