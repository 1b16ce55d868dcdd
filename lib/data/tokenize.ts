import { commonTokens } from '../text/chat.js'
import type { ChatLabels, Conversation, Tokenizer } from '../text/index.js'
import type { CorpusRecord } from './records.js'

export interface TokenizeOptions {
  /** Render prompt-completion and multiple-choice records through the chat template, the prompt as a user's turn. */
  readonly chatTemplate: boolean
  /** Which assistant turns of a chat are trained. */
  readonly labels: ChatLabels
}

export interface TokenizedRecord {
  readonly inputIds: Int32Array
  /** 1 where the token at that position is trained; never at position 0. */
  readonly labelMask: Uint8Array
}

/**
 * Tokens and labels of each record, or why it has none. Prompt and prompt + completion are tokenised, their common
 * prefix is masked, and the end-of-sequence token is appended and trained, as TRL does.
 */
export async function tokenizeRecords(
  tokenizer: Tokenizer,
  records: readonly CorpusRecord[],
  options: TokenizeOptions,
  signal?: AbortSignal,
): Promise<(TokenizedRecord | { problem: string })[]> {
  const results = new Array<TokenizedRecord | { problem: string }>(records.length)
  const chats: { at: number; conversation: Conversation }[] = []
  const plain: { at: number; prompt: string | null; text: string }[] = []
  records.forEach((record, at) => {
    if (record.kind === 'chat') chats.push({ at, conversation: record })
    else if (record.kind === 'text') plain.push({ at, prompt: null, text: record.text })
    else {
      const { prompt, completion } = promptAndCompletion(record, options.chatTemplate)
      if (options.chatTemplate)
        chats.push({ at, conversation: { messages: turns(prompt, completion) } })
      else plain.push({ at, prompt, text: prompt + completion })
    }
  })
  if (chats.length > 0) {
    const encodings = await tokenizer.encodeChats(
      chats.map(({ conversation }) => conversation),
      { labels: options.labels, signal },
    )
    chats.forEach(({ at }, i) => (results[at] = encodings[i]))
  }
  if (plain.length > 0) {
    const texts = plain.flatMap(({ prompt, text }) => (prompt === null ? [text] : [prompt, text]))
    const encoded = await tokenizer.encode(texts, { signal })
    let next = 0
    for (const { at, prompt } of plain) {
      const start = prompt === null ? null : encoded[next++]
      results[at] = withLabels(start, encoded[next++], tokenizer.eosTokenId)
    }
  }
  return results.map((result) => ('problem' in result ? result : checked(result)))
}

/** How a record is put to a model: as a question of its own, or for a plain model as evaluation harnesses write it. */
export function promptAndCompletion(
  record: Extract<CorpusRecord, { kind: 'completion' | 'choice' }>,
  chatTemplate: boolean,
): { prompt: string; completion: string } {
  if (record.kind === 'completion') {
    const { prompt, plainPrompt = prompt, completion } = record
    return { prompt: chatTemplate ? prompt : plainPrompt, completion }
  }
  const { question, choices, answer } = record
  return choicePrompt(question, choices[answer], chatTemplate)
}

/** A question and one of its choices; a choice is scored as its text. */
export function choicePrompt(
  question: string,
  choice: string,
  chatTemplate: boolean,
): { prompt: string; completion: string } {
  return chatTemplate
    ? { prompt: question, completion: choice }
    : { prompt: `Question: ${question}\nAnswer:`, completion: ` ${choice}` }
}

function turns(prompt: string, completion: string) {
  return [
    { role: 'user', content: prompt },
    { role: 'assistant', content: completion },
  ]
}

function withLabels(
  prompt: Int32Array | null,
  tokens: Int32Array,
  eosTokenId: number | undefined,
): TokenizedRecord {
  const masked = prompt === null ? 0 : commonTokens(prompt, tokens)
  const ends = eosTokenId === undefined || tokens[tokens.length - 1] === eosTokenId
  const inputIds = new Int32Array(tokens.length + (ends ? 0 : 1))
  inputIds.set(tokens)
  if (!ends) inputIds[tokens.length] = eosTokenId
  return { inputIds, labelMask: new Uint8Array(inputIds.length).fill(1, masked) }
}

/** The first token has nothing before it to be predicted from. */
function checked(record: TokenizedRecord): TokenizedRecord | { problem: string } {
  const { inputIds, labelMask } = record
  if (inputIds.length < 2)
    return { problem: `it has ${inputIds.length} tokens; at least 2 are needed` }
  labelMask[0] = 0
  return labelMask.includes(1) ? record : { problem: 'none of its tokens is trained' }
}
