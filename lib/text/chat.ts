import { holdsMarks, marksGeneration } from './generation-marks.js'
import type { ChatMessage, TemplateInput } from './rendering.js'
import type { Tokenizer } from './tokenizer.js'

/** Which assistant turns are trained. */
export type ChatLabels = 'all' | 'last'

export interface Conversation {
  messages: readonly ChatMessage[]
  /** Messages before this one are the prompt, all from it on is trained, whatever `labels` says. */
  completionFrom?: number
}

export interface ChatEncoding {
  inputIds: Int32Array
  /** 1 where the token at that position is a trained target. */
  labelMask: Uint8Array
}

/** Why a conversation has no encoding. */
export interface ChatProblem {
  problem: string
}

/** Where a trained turn stands in the text, in UTF-16 code units. */
interface Span {
  start: number
  end: number
}

interface RenderedChat {
  text: string
  spans: Span[]
}

/**
 * Encodes conversations and marks the assistant's turns.
 *
 * A turn begins where the rendering of the messages before it, with the generation prompt, stops
 * agreeing with the whole rendering, and ends where the rendering of the messages up to it does:
 * it holds what the model must write, its end-of-turn token included. Where a template writes a
 * turn differently once others follow (it drops the reasoning, say), the content is found by
 * rendering the conversation with that content replaced. A template that marks what the assistant
 * writes by `{% generation %}` is taken at its word. If the last turn ends the text without an
 * end-of-sequence token, one is appended and trained.
 */
export async function encodeChats(
  tokenizer: Tokenizer,
  conversations: readonly Conversation[],
  labels: ChatLabels,
  signal: AbortSignal | undefined,
): Promise<(ChatEncoding | ChatProblem)[]> {
  const rendered = await renderSpans(tokenizer, conversations, labels, signal)
  const chats = rendered.filter((chat): chat is RenderedChat => !('problem' in chat))
  const encodings = await encodeSpans(tokenizer, chats, signal)
  let next = 0
  return rendered.map((chat) => ('problem' in chat ? chat : encodings[next++]))
}

async function renderSpans(
  tokenizer: Tokenizer,
  conversations: readonly Conversation[],
  labels: ChatLabels,
  signal: AbortSignal | undefined,
): Promise<(RenderedChat | ChatProblem)[]> {
  const items: TemplateInput[] = []
  const ask = (messages: readonly ChatMessage[], addGenerationPrompt: boolean): number =>
    items.push({ messages, addGenerationPrompt }) - 1
  const templateMarks = marksGeneration(tokenizer.chatTemplate ?? '')
  const plans = conversations.map((conversation) => {
    const { messages, completionFrom } = conversation
    if (templateMarks && completionFrom === undefined && !holdsMarks.test(JSON.stringify(messages)))
      return { whole: items.push({ messages, addGenerationPrompt: false, marked: true }) - 1 }
    return {
      whole: ask(messages, false),
      turns: trainedTurns(conversation, labels).map(([from, to]) => ({
        prompt: ask(messages.slice(0, from), true),
        // A turn that other messages follow may be written differently at the end of the text.
        upTo: to === messages.length ? undefined : ask(messages.slice(0, to), false),
        replaced:
          to === messages.length
            ? undefined
            : ask(messages.with(from, { ...messages[from], content: placeholder }), false),
      })),
    }
  })
  const renderings = await tokenizer.renderChats(items, signal)
  const textOf = (index: number | undefined): string | undefined =>
    index === undefined ? undefined : renderings[index].text
  return plans.map(({ whole, turns }) => {
    const rendering = renderings[whole]
    if (rendering.error !== undefined)
      return { problem: `the chat template refused it: ${rendering.error}` }
    const { text, generated } = rendering
    if (generated) {
      const spans = generated.map(([start, end]) => ({ start, end }))
      return nonEmpty(text, labels === 'last' ? spans.slice(-1) : spans)
    }
    const spans = (turns ?? []).map(({ prompt, upTo, replaced }) => {
      // A template may refuse to render no message at all: then the turn opens the text.
      const start = commonLength(textOf(prompt) ?? '', text)
      if (upTo === undefined) return { start, end: text.length }
      const closing = textOf(upTo)
      const end =
        closing !== undefined && text.startsWith(closing)
          ? closing.length
          : endOfContent(tokenizer, text, textOf(replaced), start)
      return { start, end }
    })
    return nonEmpty(text, spans)
  })
}

function nonEmpty(text: string, spans: readonly Span[]): RenderedChat | ChatProblem {
  const found = spans.filter(({ start, end }) => end > start)
  return found.length > 0 ? { text, spans: found } : { problem: 'it has no assistant turn' }
}

/** [from, to) for every run of messages that is trained. */
function trainedTurns(
  { messages, completionFrom }: Conversation,
  labels: ChatLabels,
): [number, number][] {
  if (completionFrom !== undefined)
    return completionFrom < messages.length ? [[completionFrom, messages.length]] : []
  const turns: [number, number][] = []
  messages.forEach(({ role }, index) => {
    if (role === 'assistant') turns.push([index, index + 1])
  })
  return labels === 'last' ? turns.slice(-1) : turns
}

// Private-use characters: no text shares a first or last character with it.
const placeholder = '\uf8f0\uf8f1\uf8f2'

/** Where the content ends that differs between the two renderings, with the token that closes it. */
function endOfContent(
  tokenizer: Tokenizer,
  text: string,
  replaced: string | undefined,
  start: number,
): number {
  if (replaced === undefined) return start
  let length = 0
  const most = Math.min(text.length, replaced.length) - start
  while (length < most && text.at(-1 - length) === replaced.at(-1 - length)) ++length
  const end = text.length - length
  const closing = tokenizer.specialTokens.eos_token
  return closing !== undefined && text.startsWith(closing, end) ? end + closing.length : end
}

async function encodeSpans(
  tokenizer: Tokenizer,
  chats: readonly RenderedChat[],
  signal: AbortSignal | undefined,
): Promise<(ChatEncoding | ChatProblem)[]> {
  const options = { addSpecialTokens: false, signal }
  // One encoding of the whole, and one of the pieces between the boundaries. Special tokens stand
  // at nearly every boundary, so the pieces joined are nearly always the whole, and their lengths
  // are the boundaries in tokens.
  const texts: string[] = []
  for (const { text, spans } of chats) {
    texts.push(text)
    for (const [start, end] of pieces(text, spans)) texts.push(text.slice(start, end))
  }
  const encoded = await tokenizer.encode(texts, options)

  // Where a token spans a boundary, prefixes are encoded instead: what a prefix and the whole
  // share is before the boundary.
  const bounds: Int32Array[] = []
  const prefixes: string[] = []
  const wholes: Int32Array[] = []
  let next = 0
  for (const { text, spans } of chats) {
    const whole = encoded[next++]
    wholes.push(whole)
    const parts = encoded.slice(next, (next += 2 * spans.length + 1))
    const joined = boundsOfPieces(whole, parts)
    bounds.push(joined ?? new Int32Array(2 * spans.length).fill(-1))
    if (!joined)
      for (const { start, end } of spans) prefixes.push(text.slice(0, start), text.slice(0, end))
  }
  const encodedPrefixes = await tokenizer.encode(prefixes, options)
  next = 0
  return chats.map(({ text, spans }, index) => {
    const whole = wholes[index]
    const bound = bounds[index]
    if (bound[0] === -1)
      bound.forEach((_, i) => (bound[i] = commonTokens(encodedPrefixes[next++], whole)))
    return label(tokenizer, whole, bound, spans.at(-1)?.end === text.length)
  })
}

function pieces(text: string, spans: readonly Span[]): [number, number][] {
  const cuts = [0, ...spans.flatMap(({ start, end }) => [start, end]), text.length]
  return cuts.slice(1).map((end, index) => [cuts[index], end])
}

/** Token positions where the pieces meet; undefined if they do not join to the whole. */
function boundsOfPieces(whole: Int32Array, parts: readonly Int32Array[]): Int32Array | undefined {
  const bounds = new Int32Array(parts.length - 1)
  let length = 0
  for (const [index, part] of parts.entries()) {
    if (length + part.length > whole.length) return undefined
    for (let i = 0; i < part.length; ++i) if (part[i] !== whole[length + i]) return undefined
    length += part.length
    if (index < bounds.length) bounds[index] = length
  }
  return length === whole.length ? bounds : undefined
}

function label(
  tokenizer: Tokenizer,
  whole: Int32Array,
  bounds: Int32Array,
  endsTrained: boolean,
): ChatEncoding | ChatProblem {
  const { eosTokenId, eosTokenIds } = tokenizer
  const lastTurn = whole.subarray(bounds.at(-2) ?? 0, bounds.at(-1) ?? 0)
  const append =
    endsTrained && eosTokenId !== undefined && !lastTurn.some((id) => eosTokenIds.includes(id))
  let inputIds = whole
  if (append) {
    inputIds = new Int32Array(whole.length + 1)
    inputIds.set(whole)
    inputIds[whole.length] = eosTokenId
  }
  const labelMask = new Uint8Array(inputIds.length)
  for (let i = 0; i < bounds.length; i += 2) labelMask.fill(1, bounds[i], bounds[i + 1])
  if (append) labelMask[whole.length] = 1
  // Nothing predicts the first token.
  labelMask[0] = 0
  return labelMask.includes(1) ? { inputIds, labelMask } : { problem: 'none of it is trained' }
}

function commonLength(a: string, b: string): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) ++length
  return length
}

/** How many tokens two encodings share from the start. */
export function commonTokens(a: Int32Array, b: Int32Array): number {
  let length = 0
  while (length < a.length && length < b.length && a[length] === b[length]) ++length
  return length
}
