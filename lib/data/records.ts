import type { ChatMessage } from '../text/index.js'

/** One record of a corpus, by its keys. */
export type CorpusRecord =
  /** `text`: every token is trained. */
  | { readonly kind: 'text'; readonly text: string }
  /** `prompt` and `completion`, or Alpaca's `instruction`, `input` and `output`: the completion is trained. */
  | {
      readonly kind: 'completion'
      readonly prompt: string
      readonly completion: string
      /** What stands for the prompt where no chat template says whose turn it is: Alpaca's frame. */
      readonly plainPrompt?: string
    }
  /** `messages`: assistant turns are trained. */
  | {
      readonly kind: 'chat'
      readonly messages: readonly ChatMessage[]
      /** Messages before this one are the prompt, all from it on are trained: prompt and completion were lists. */
      readonly completionFrom?: number
    }
  /** `question`, `choices` and `answer`: the right choice is trained, all choices are scored. */
  | {
      readonly kind: 'choice'
      readonly question: string
      readonly choices: readonly string[]
      /** Index of the right choice. */
      readonly answer: number
    }

type Fields = Readonly<Record<string, unknown>>
type Problem = { readonly problem: string }

/** Longer conversations are not rendered. */
const mostMessages = 1024
const mostChoices = 26

/** The record, or in one clause why it is none. A key that holds null counts as missing: tables have every column. */
export function parseRecord(fields: Fields): CorpusRecord | Problem {
  const has = (key: string) => Object.hasOwn(fields, key) && (fields[key] ?? null) !== null
  try {
    if (has('messages')) return parseChat(fields.messages)
    if (has('choices')) return parseChoice(fields)
    if (has('prompt') || has('completion')) return parseCompletion(fields)
    if (has('instruction') || has('output')) return parseAlpaca(fields)
    if (has('text')) return { kind: 'text', text: filledText(fields.text, 'text') }
  } catch (error) {
    if (error instanceof Unusable) return { problem: error.message }
    throw error
  }
  return {
    problem:
      'no known keys: expected prompt and completion, messages, instruction and output, question and choices, or text',
  }
}

/** Thrown and caught in this file. */
class Unusable extends Error {}

function parseCompletion({ prompt, completion }: Fields): CorpusRecord {
  if (Array.isArray(prompt) || Array.isArray(completion)) {
    const before = readMessages(prompt, 'prompt')
    const trained = readMessages(completion, 'completion')
    if (trained.length === 0) throw new Unusable('completion is empty')
    return { kind: 'chat', messages: [...before, ...trained], completionFrom: before.length }
  }
  return {
    kind: 'completion',
    prompt: text(prompt, 'prompt'),
    completion: filledText(completion, 'completion'),
  }
}

// The frames are those of Stanford Alpaca, which models tuned on such records know.
function parseAlpaca(fields: Fields): CorpusRecord {
  const instruction = text(fields.instruction, 'instruction')
  const input = text(fields.input ?? '', 'input')
  const completion = filledText(fields.output, 'output')
  const [context, section] =
    input.trim() === ''
      ? ['', '']
      : [', paired with an input that provides further context', `### Input:\n${input}\n\n`]
  return {
    kind: 'completion',
    prompt: section === '' ? instruction : `${instruction}\n\n${input}`,
    completion,
    plainPrompt: `Below is an instruction that describes a task${context}. Write a response that appropriately completes the request.\n\n### Instruction:\n${instruction}\n\n${section}### Response:\n`,
  }
}

function parseChat(value: unknown): CorpusRecord {
  const messages = readMessages(value, 'messages')
  const answers = messages.filter(({ role }) => role === 'assistant')
  if (answers.length === 0) throw new Unusable('messages have no assistant turn')
  if (answers.every(({ content }) => (content as string).trim() === ''))
    throw new Unusable('every assistant turn is empty')
  return { kind: 'chat', messages }
}

function readMessages(value: unknown, key: string): ChatMessage[] {
  const items = list(value, key, 'a list of messages')
  if (items.length > mostMessages)
    throw new Unusable(
      `${key} has ${String(items.length)} messages; at most ${String(mostMessages)} are allowed`,
    )
  return items.map((item, i) => {
    const { role, content } = (item ?? {}) as Fields
    return {
      role: text(role, `${key}[${String(i)}].role`),
      content: text(content, `${key}[${String(i)}].content`),
    }
  })
}

function parseChoice(fields: Fields): CorpusRecord {
  const question = filledText(fields.question, 'question')
  const choices = list(fields.choices, 'choices', 'a list of texts').map((choice, i) =>
    filledText(choice, `choices[${String(i)}]`),
  )
  if (choices.length < 2 || choices.length > mostChoices)
    throw new Unusable(
      `choices has ${String(choices.length)} entries; 2 to ${String(mostChoices)} are allowed`,
    )
  if (new Set(choices).size < choices.length) throw new Unusable('choices has two equal entries')
  const answer = answerIndex(fields.answer, choices)
  if (answer === null)
    throw wrongType(
      'answer',
      fields.answer,
      `a choice: its index, 0 to ${String(choices.length - 1)}, its letter or its text`,
    )
  return { kind: 'choice', question, choices, answer }
}

/** An index from 0, as a number or its digits; else the text of a choice; else its letter; null: none of them. */
export function answerIndex(answer: unknown, choices: readonly string[]): number | null {
  let index = -1
  if (typeof answer === 'number') index = answer
  else if (typeof answer === 'string') {
    index = choices.indexOf(answer)
    if (index < 0 && /^\d{1,2}$/.test(answer)) index = Number(answer)
    if (index < 0 && /^[A-Za-z]$/.test(answer)) index = answer.toUpperCase().charCodeAt(0) - 65
  }
  return Number.isInteger(index) && index >= 0 && index < choices.length ? index : null
}

/** A list, or in a CSV file the JSON of one. */
function list(value: unknown, key: string, allowed: string): unknown[] {
  let items = value
  if (typeof value === 'string' && value.startsWith('['))
    try {
      items = JSON.parse(value)
    } catch {
      // Refused below, as the text that it is.
    }
  if (!Array.isArray(items)) throw wrongType(key, value, allowed)
  return items
}

function text(value: unknown, key: string): string {
  if (typeof value !== 'string') throw wrongType(key, value, 'a text')
  // Half a surrogate pair has no UTF-8: the tokenizer would see another text.
  if (!(value as string & { isWellFormed(): boolean }).isWellFormed())
    throw new Unusable(`${key} is not valid Unicode`)
  return value
}

function filledText(value: unknown, key: string): string {
  const filled = text(value, key)
  if (filled.trim() === '') throw new Unusable(`${key} is empty`)
  return filled
}

function wrongType(key: string, value: unknown, allowed: string): Unusable {
  if (value === undefined || value === null)
    return new Unusable(`${key} is missing; it must be ${allowed}`)
  const shown = JSON.stringify(value) ?? typeof value
  return new Unusable(
    `${key} must be ${allowed}, not ${shown.length > 60 ? `${shown.slice(0, 57)}...` : shown}`,
  )
}
