import { resolve } from 'node:path'
import { ArgumentError, FormatError } from '../errors.js'
import { IsolatedWorker } from '../isolated-worker.js'
import { encodeChats } from './chat.js'
import type { ChatEncoding, ChatLabels, ChatProblem, Conversation } from './chat.js'
import { StreamingDecoder } from './streaming-decoder.js'
import type { ChatMessage, Rendering, TemplateInput } from './rendering.js'
import type { TemplateWorkerData } from './template-worker.js'
import type { SpecialTokenRole } from './tokenizer-files.js'
import type { TokenBatch, TokenizerDescription, TokenizerWorkerData } from './tokenizer-worker.js'

export interface TokenizerOptions {
  signal?: AbortSignal
  /** Milliseconds that one request to a worker may take: a slice of a batch. Default 30,000. */
  deadlineMs?: number
  /** V8 heap of each worker in MiB. Default 2,048 for the tokenizer, 512 for the template. */
  heapLimitMb?: number
  /**
   * What a template's `strftime_now` says, an ISO date. Default 2024-07-26, the date that Llama's
   * templates fall back to, so that a corpus renders alike on every day.
   */
  date?: string
}

export interface EncodeOptions {
  /** Whether the post-processor adds its tokens (a beginning-of-sequence, say). Default true. */
  addSpecialTokens?: boolean
  signal?: AbortSignal
}

export interface DecodeOptions {
  /** Leaves special tokens out. Default true. */
  skipSpecialTokens?: boolean
  signal?: AbortSignal
}

export interface TemplateOptions {
  /** Ends the text with what opens the assistant's turn. Default false. */
  addGenerationPrompt?: boolean
  /** Further variables that the template may look at: `tools`, `enable_thinking`, … Plain data. */
  variables?: Readonly<Record<string, unknown>>
  signal?: AbortSignal
}

// Slices keep both threads busy, bound what is in flight, and give each its own deadline.
const sliceCharacters = 2 ** 18
const sliceTexts = 2 ** 11
const slicesInFlight = 3
const longestText = 2 ** 26
const longestConversation = 1024

/**
 * The tokenizer and chat template of a model folder.
 *
 * Both run in worker threads of their own, because tokenizer.json and the template are programs
 * from wherever the model came from: a pattern that backtracks for ever, or a template that fills
 * the memory, ends in a {@link FormatError} and costs nothing but its worker. The workers do not
 * keep an idle process alive.
 */
export class Tokenizer {
  readonly folder: string
  /** Largest token id + 1. A model's embedding may have more rows. */
  readonly vocabSize: number
  /** Texts of the special tokens by role: `bos_token`, `eos_token`, … */
  readonly specialTokens: Readonly<Partial<Record<SpecialTokenRole, string>>>
  readonly bosTokenId: number | undefined
  readonly padTokenId: number | undefined
  readonly unkTokenId: number | undefined
  /** The token that ends a sequence: appended to completions in training. */
  readonly eosTokenId: number | undefined
  /** Every token that ends generation: `eosTokenId` and those of generation_config.json. */
  readonly eosTokenIds: readonly number[]
  readonly chatTemplate: string | undefined
  /** sha256 of everything that decides how text becomes tokens, in hexadecimal. */
  readonly fingerprint: string
  readonly #worker: IsolatedWorker
  readonly #templateWorker: IsolatedWorker | undefined

  private constructor(
    folder: string,
    description: TokenizerDescription,
    worker: IsolatedWorker,
    templateWorker: IsolatedWorker | undefined,
  ) {
    this.folder = folder
    this.vocabSize = description.vocabSize
    this.specialTokens = description.specialTokens
    this.bosTokenId = description.bosTokenId
    this.padTokenId = description.specialTokenIds.pad_token
    this.unkTokenId = description.specialTokenIds.unk_token
    this.eosTokenId = description.specialTokenIds.eos_token
    this.eosTokenIds = description.eosTokenIds
    this.chatTemplate = description.chatTemplate
    this.fingerprint = description.fingerprint
    this.#worker = worker
    this.#templateWorker = templateWorker
  }

  /**
   * Reads a Hugging Face model folder's tokenizer.json, tokenizer_config.json, chat template and
   * end-of-sequence tokens.
   *
   * @throws FormatError for a file that is missing, damaged, too large or not supported.
   */
  static async load(folder: string, options: TokenizerOptions = {}): Promise<Tokenizer> {
    const { signal, deadlineMs = 30_000, heapLimitMb, date = '2024-07-26' } = options
    if (typeof folder !== 'string' || folder === '')
      throw new ArgumentError(`folder must be the path of a model folder, not ${show(folder)}.`)
    checkPositive('deadlineMs', deadlineMs)
    if (heapLimitMb !== undefined) checkPositive('heapLimitMb', heapLimitMb)
    if (Number.isNaN(Date.parse(date)))
      throw new ArgumentError(`date must be an ISO date such as 2024-07-26, not ${show(date)}.`)
    const path = resolve(folder)
    const worker = new IsolatedWorker({
      module: new URL('./tokenizer-worker', import.meta.url),
      workerData: { folder: path } satisfies TokenizerWorkerData,
      heapLimitMb: heapLimitMb ?? 2048,
      deadlineMs,
      subject: `The tokenizer of ${folder}`,
    })
    try {
      const description = await worker.request<TokenizerDescription>('describe', undefined, {
        signal,
      })
      const { chatTemplate, specialTokens } = description
      const templateWorker =
        chatTemplate === undefined
          ? undefined
          : new IsolatedWorker({
              module: new URL('./template-worker', import.meta.url),
              workerData: {
                template: chatTemplate,
                variables: { specialTokens, date },
                folder,
              } satisfies TemplateWorkerData,
              heapLimitMb: heapLimitMb ?? 512,
              deadlineMs,
              subject: `The chat template of ${folder}`,
            })
      return new Tokenizer(folder, description, worker, templateWorker)
    } catch (error) {
      await worker.dispose()
      throw error
    }
  }

  /** The tokens of each text, in order. */
  async encode(texts: readonly string[], options: EncodeOptions = {}): Promise<Int32Array[]> {
    const { addSpecialTokens = true, signal } = options
    checkTexts(texts)
    return inSlices(
      texts,
      (text) => text.length,
      async (slice) => {
        const batch = await this.#worker.request<TokenBatch>(
          'encode',
          { texts: slice, addSpecialTokens },
          { signal },
        )
        return splitBatch(batch)
      },
    )
  }

  /** The text of one sequence of token ids. Ids that the vocabulary lacks decode to nothing. */
  async decode(ids: ArrayLike<number>, options: DecodeOptions = {}): Promise<string> {
    const [text] = await this.decodeBatch([ids], options)
    return text
  }

  /** The text of each sequence of token ids, in order. */
  async decodeBatch(
    sequences: readonly ArrayLike<number>[],
    options: DecodeOptions = {},
  ): Promise<string[]> {
    const { skipSpecialTokens = true, signal } = options
    return inSlices(
      sequences,
      (ids) => ids.length,
      (slice) =>
        this.#worker.request<string[]>(
          'decode',
          { ...joinBatch(slice), skipSpecialTokens },
          { signal },
        ),
    )
  }

  /** A decoder that turns tokens into text as they are generated, for `count` sequences. */
  streamingDecoder(count = 1, options: DecodeOptions = {}): StreamingDecoder {
    return new StreamingDecoder(this, count, options)
  }

  /** The id of each token given by its exact text; undefined for one that is not there. */
  async tokenIds(tokens: readonly string[]): Promise<(number | undefined)[]> {
    checkTexts(tokens)
    return this.#worker.request('tokenIds', tokens)
  }

  /**
   * Renders a conversation by the model's chat template.
   *
   * @throws FormatError if the model has no template, or the template refuses the messages.
   */
  async applyChatTemplate(
    messages: readonly ChatMessage[],
    options: TemplateOptions = {},
  ): Promise<string> {
    const { addGenerationPrompt = false, variables, signal } = options
    const [rendering] = await this.renderChats(
      [{ messages, addGenerationPrompt, variables }],
      signal,
    )
    if (rendering.error !== undefined)
      throw new FormatError(
        `The chat template of ${this.folder} refused the conversation: ${rendering.error}.`,
      )
    return rendering.text
  }

  /** Renders many conversations; each has its text, or the template's error. */
  async renderChats(items: readonly TemplateInput[], signal?: AbortSignal): Promise<Rendering[]> {
    const worker = this.#templateWorker
    if (!worker)
      throw new FormatError(
        `The model folder ${this.folder} has no chat template (chat_template.jinja, or chat_template in tokenizer_config.json).`,
        { details: { folder: this.folder } },
      )
    for (const { messages } of items) checkMessages(messages)
    return inSlices(
      items,
      ({ messages }) => messages.reduce((sum, { content }) => sum + 16 + (content?.length ?? 0), 0),
      (slice) => worker.request<Rendering[]>('render', slice, { signal }),
    )
  }

  /**
   * The tokens of a conversation, and which of them are trained: every assistant turn, or the last.
   *
   * @throws FormatError as {@link applyChatTemplate}; ArgumentError if nothing would be trained.
   */
  async encodeChat(
    messages: readonly ChatMessage[],
    options: { labels?: ChatLabels; signal?: AbortSignal } = {},
  ): Promise<ChatEncoding> {
    const [encoding] = await this.encodeChats([{ messages }], options)
    if ('problem' in encoding)
      throw new ArgumentError(`The conversation cannot be trained on: ${encoding.problem}.`)
    return encoding
  }

  /** {@link encodeChat} for many conversations; each has its encoding, or why it has none. */
  encodeChats(
    conversations: readonly Conversation[],
    options: { labels?: ChatLabels; signal?: AbortSignal } = {},
  ): Promise<(ChatEncoding | ChatProblem)[]> {
    const { labels = 'all', signal } = options
    return encodeChats(this, conversations, labels, signal)
  }

  /** Ends the workers. Idempotent; later calls throw a DisposedError. */
  async dispose(): Promise<void> {
    await Promise.all([this.#worker.dispose(), this.#templateWorker?.dispose()])
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.dispose()
  }
}

/** Calls `run` on consecutive slices of `items`, a few at a time, and joins the results in order. */
async function inSlices<Item, Result>(
  items: readonly Item[],
  sizeOf: (item: Item) => number,
  run: (slice: Item[]) => Promise<Result[]>,
): Promise<Result[]> {
  const results: Promise<Result[]>[] = []
  let start = 0
  while (start < items.length) {
    const slice: Item[] = []
    for (let size = 0; start < items.length && slice.length < sliceTexts; ++start) {
      const item = items[start]
      size += sizeOf(item)
      if (slice.length > 0 && size > sliceCharacters) break
      slice.push(item)
    }
    await results[results.length - slicesInFlight]
    const result = run(slice)
    // A later slice may fail while an earlier one is awaited: it is reported in its turn.
    result.catch(() => undefined)
    results.push(result)
  }
  if (results.length === 1) return results[0]
  return (await Promise.all(results)).flat()
}

function splitBatch({ ids, ends }: TokenBatch): Int32Array[] {
  return Array.from(ends, (end, index) => ids.subarray(index === 0 ? 0 : ends[index - 1], end))
}

function joinBatch(sequences: readonly ArrayLike<number>[]): TokenBatch {
  const ends = new Int32Array(sequences.length)
  let length = 0
  sequences.forEach((ids, index) => {
    length += ids.length
    ends[index] = length
  })
  const ids = new Int32Array(length)
  sequences.forEach((sequence, index) => {
    if (!(sequence instanceof Int32Array))
      for (let i = 0; i < sequence.length; ++i)
        if (!Number.isSafeInteger(sequence[i]) || sequence[i] < 0 || sequence[i] >= 2 ** 31)
          throw new ArgumentError(
            `Token ids are integers from 0, not ${show(sequence[i])} (sequence ${String(index)}, position ${String(i)}).`,
          )
    ids.set(sequence, index === 0 ? 0 : ends[index - 1])
  })
  return { ids, ends }
}

function checkTexts(texts: readonly unknown[]): asserts texts is readonly string[] {
  if (!Array.isArray(texts))
    throw new ArgumentError(`texts must be a list of strings, not ${show(texts)}.`)
  texts.forEach((text: unknown, index) => {
    if (typeof text !== 'string')
      throw new ArgumentError(`texts[${String(index)}] must be a string, not ${show(text)}.`)
    if (text.length > longestText)
      throw new ArgumentError(
        `texts[${String(index)}] has ${String(text.length)} characters; at most ${String(longestText)} are encoded at once.`,
      )
  })
}

function checkMessages(messages: readonly ChatMessage[]): void {
  if (!Array.isArray(messages))
    throw new ArgumentError(`messages must be a list, not ${show(messages)}.`)
  if (messages.length > longestConversation)
    throw new ArgumentError(
      `A conversation has ${String(messages.length)} messages; at most ${String(longestConversation)} are rendered.`,
    )
  messages.forEach((message: unknown, index) => {
    const { role } = (message ?? {}) as Partial<ChatMessage>
    if (typeof role !== 'string')
      throw new ArgumentError(`messages[${String(index)}] must be an object with a string role.`)
  })
}

function checkPositive(name: string, value: number): void {
  if (typeof value !== 'number' || !(value > 0 && value <= 2 ** 31 - 1))
    throw new ArgumentError(
      `${name} must be a number above 0 and below 2147483648, not ${show(value)}.`,
    )
}

function show(value: unknown): string {
  if (typeof value === 'string') return JSON.stringify(value.slice(0, 80))
  return typeof value === 'object' && value !== null ? `a value of type object` : String(value)
}
