import { workerData } from 'node:worker_threads'
import { Tokenizer as HubTokenizer } from '@huggingface/tokenizers'
import { ArgumentError, FormatError } from '../errors.js'
import { Transferred, answerRequests } from '../worker-requests.js'
import type { RequestHandlers } from '../worker-requests.js'
import { normalizerGrowth, readTokenizerFiles } from './tokenizer-files.js'
import type { JsonObject, SpecialTokenRole } from './tokenizer-files.js'

/** Sequences one after the other: sequence i is `ids.subarray(ends[i - 1] ?? 0, ends[i])`. */
export interface TokenBatch {
  ids: Int32Array
  ends: Int32Array
}

export interface TokenizerDescription {
  /** Largest id + 1. */
  vocabSize: number
  specialTokens: Partial<Record<SpecialTokenRole, string>>
  specialTokenIds: Partial<Record<SpecialTokenRole, number>>
  /** The end-of-sequence token and what generation_config.json adds to it, ascending. */
  eosTokenIds: number[]
  bosTokenId: number | undefined
  chatTemplate: string | undefined
  fingerprint: string
}

export interface TokenizerWorkerData {
  folder: string
}

// The longest normalised text: far below what one string or array of V8 may hold, so that running
// out of memory is always an error of this worker.
const longestNormalizedText = 2 ** 26

// The library's byte-fallback decoder swallows U+FEFF at the start of a run of bytes. This thread
// runs nothing but the library.
globalThis.TextDecoder = class extends TextDecoder {
  constructor(label?: string, options?: ConstructorParameters<typeof TextDecoder>[1]) {
    super(label, { ignoreBOM: true, ...options })
  }
}

answerRequests(async () => {
  const { folder } = workerData as TokenizerWorkerData
  const files = await readTokenizerFiles(folder)
  const { tokenizer, specialTokens } = files
  // The library reads these keys unasked.
  for (const key of ['normalizer', 'pre_tokenizer', 'post_processor', 'decoder'])
    tokenizer[key] ??= null
  tokenizer.added_tokens ??= []
  let hub: HubTokenizer
  try {
    hub = new HubTokenizer(tokenizer, files.config)
  } catch (cause) {
    throw new FormatError(
      `${folder}/tokenizer.json is not supported: ${(cause as Error).message}.`,
      { cause, details: { file: `${folder}/tokenizer.json` } },
    )
  }
  const growth = normalizerGrowth(tokenizer.normalizer)
  const longestText = Math.floor(longestNormalizedText / growth)
  // As transformers: only where the file asks for it, and never for BPE, whose spaces are tokens.
  const cleanUp =
    files.config.clean_up_tokenization_spaces === true &&
    (tokenizer.model as JsonObject).type !== 'BPE'

  const specialTokenIds: TokenizerDescription['specialTokenIds'] = {}
  for (const [role, token] of Object.entries(specialTokens) as [SpecialTokenRole, string][]) {
    const id = hub.token_to_id(token)
    if (id !== undefined) specialTokenIds[role] = id
  }
  const eosTokenIds = new Set(files.eosTokenIds)
  if (specialTokenIds.eos_token !== undefined) eosTokenIds.add(specialTokenIds.eos_token)
  else if (files.eosTokenIds.length > 0) {
    const [id] = files.eosTokenIds
    const token = hub.id_to_token(id)
    if (token !== undefined) {
      specialTokens.eos_token = token
      specialTokenIds.eos_token = id
    }
  }
  let vocabSize = 0
  for (const id of hub.get_vocab().values()) vocabSize = Math.max(vocabSize, id + 1)
  const description: TokenizerDescription = {
    vocabSize,
    specialTokens,
    specialTokenIds,
    eosTokenIds: [...eosTokenIds].sort((a, b) => a - b),
    bosTokenId: specialTokenIds.bos_token ?? files.bosTokenId,
    chatTemplate: files.chatTemplate,
    fingerprint: files.fingerprint,
  }

  return {
    describe: () => description,

    encode({ texts, addSpecialTokens }: { texts: string[]; addSpecialTokens: boolean }) {
      const ends = new Int32Array(texts.length)
      let ids = new Int32Array(1024)
      let length = 0
      texts.forEach((text, index) => {
        if (text.length > longestText)
          throw new ArgumentError(
            `A text of ${String(text.length)} characters is too long for this tokenizer; it takes at most ${String(longestText)}.`,
            { details: { length: text.length, limit: longestText } },
          )
        const encoded = hub.encode(text, { add_special_tokens: addSpecialTokens }).ids as (
          number | undefined
        )[]
        if (length + encoded.length > ids.length) {
          const larger = new Int32Array(2 * (length + encoded.length))
          larger.set(ids.subarray(0, length))
          ids = larger
        }
        for (const id of encoded) {
          if (id === undefined)
            throw new FormatError(
              `${folder}/tokenizer.json has no token for a part of a text, and no unknown token.`,
              { details: { file: `${folder}/tokenizer.json` } },
            )
          ids[length++] = id
        }
        ends[index] = length
      })
      const batch = { ids: ids.slice(0, length), ends } satisfies TokenBatch
      return new Transferred(batch, [batch.ids.buffer, batch.ends.buffer])
    },

    decode({ ids, ends, skipSpecialTokens }: TokenBatch & { skipSpecialTokens: boolean }) {
      return Array.from(ends, (end, index) => {
        // Models pad their vocabulary: an id without a token decodes to nothing, as in transformers.
        const known: number[] = []
        for (const id of ids.subarray(index === 0 ? 0 : ends[index - 1], end))
          if (hub.id_to_token(id) !== undefined) known.push(id)
        if (known.length === 0) return ''
        return hub.decode(known, {
          skip_special_tokens: skipSpecialTokens,
          clean_up_tokenization_spaces: cleanUp,
        })
      })
    },

    tokenIds: (tokens: string[]) => tokens.map((token) => hub.token_to_id(token)),
    tokens: (ids: number[]) => ids.map((id) => hub.id_to_token(id)),
  } satisfies RequestHandlers
})
