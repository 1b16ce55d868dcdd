import type { ChatMessage } from '../text/index.js'

/** One record of a corpus, by its keys. */
export type CorpusRecord =
  /** `text`: every token is trained. */
  | { readonly kind: 'text'; readonly text: string }
  /** `prompt` and `completion`, or Alpaca's `instruction`, `input` and `output`: the completion is trained. */
  | { readonly kind: 'completion'; readonly prompt: string; readonly completion: string }
  /** `messages`: assistant turns are trained. */
  | { readonly kind: 'chat'; readonly messages: readonly ChatMessage[] }
  /** `question`, `choices` and `answer`: the right choice is trained, all choices are scored. */
  | {
      readonly kind: 'choice'
      readonly question: string
      readonly choices: readonly string[]
      /** Index of the right choice. */
      readonly answer: number
    }

/** The record, or in one clause why it is none. */
export function parseRecord(
  fields: Readonly<Record<string, unknown>>,
): CorpusRecord | { readonly problem: string } {
  const has = (key: string) => Object.hasOwn(fields, key)
  if (has('messages')) return parseChat(fields.messages)
  if (has('choices')) return parseChoice(fields)
  if (has('prompt') || has('completion'))
    return parseCompletion(fields, 'prompt', 'completion', (prompt) => prompt)
  if (has('instruction') || has('output'))
    return parseCompletion(fields, 'instruction', 'output', (instruction) => {
      const input = fields.input ?? ''
      if (typeof input !== 'string') return { problem: wrongType('input', input, 'a string') }
      return input === '' ? instruction : `${instruction}\n\n${input}`
    })
  if (has('text')) {
    const { text } = fields
    if (typeof text !== 'string') return { problem: wrongType('text', text, 'a string') }
    return text === '' ? { problem: 'text is empty' } : { kind: 'text', text }
  }
  return {
    problem:
      'no known keys: expected prompt and completion, messages, instruction and output, question and choices, or text',
  }
}

function parseCompletion(
  fields: Readonly<Record<string, unknown>>,
  promptKey: string,
  completionKey: string,
  makePrompt: (prompt: string) => string | { problem: string },
): CorpusRecord | { problem: string } {
  const prompt = fields[promptKey]
  const completion = fields[completionKey]
  if (typeof prompt !== 'string') return { problem: wrongType(promptKey, prompt, 'a string') }
  if (typeof completion !== 'string')
    return { problem: wrongType(completionKey, completion, 'a string') }
  if (completion === '') return { problem: `${completionKey} is empty` }
  const made = makePrompt(prompt)
  return typeof made === 'string' ? { kind: 'completion', prompt: made, completion } : made
}

function parseChat(messages: unknown): CorpusRecord | { problem: string } {
  if (!Array.isArray(messages) || messages.length === 0)
    return { problem: wrongType('messages', messages, 'a list with at least one message') }
  for (const [i, message] of (messages as unknown[]).entries()) {
    const { role, content } = (message ?? {}) as Record<string, unknown>
    if (typeof role !== 'string')
      return { problem: wrongType(`messages[${i}].role`, role, 'a string') }
    if (typeof content !== 'string')
      return { problem: wrongType(`messages[${i}].content`, content, 'a string') }
  }
  const chat = (messages as ChatMessage[]).map(({ role, content }) => ({ role, content }))
  const answers = chat.filter(({ role }) => role === 'assistant')
  if (answers.length === 0) return { problem: 'messages have no assistant turn' }
  if (answers.every(({ content }) => content === ''))
    return { problem: 'every assistant turn is empty' }
  return { kind: 'chat', messages: chat }
}

function parseChoice(
  fields: Readonly<Record<string, unknown>>,
): CorpusRecord | { problem: string } {
  const { question, choices, answer } = fields
  if (typeof question !== 'string') return { problem: wrongType('question', question, 'a string') }
  if (
    !Array.isArray(choices) ||
    choices.length < 2 ||
    choices.some((choice) => typeof choice !== 'string' || choice === '')
  )
    return { problem: wrongType('choices', choices, 'a list of at least two strings') }
  const index = Number(answer)
  if (
    (typeof answer !== 'number' && typeof answer !== 'string') ||
    answer === '' ||
    !Number.isInteger(index) ||
    index < 0 ||
    index >= choices.length
  )
    return {
      problem: wrongType('answer', answer, `the index of a choice, 0 to ${choices.length - 1}`),
    }
  return { kind: 'choice', question, choices: choices as string[], answer: index }
}

function wrongType(key: string, value: unknown, allowed: string): string {
  if (value === undefined) return `${key} is missing; it must be ${allowed}`
  const text = JSON.stringify(value) ?? typeof value
  return `${key} must be ${allowed}, not ${text.length > 60 ? `${text.slice(0, 57)}...` : text}`
}
