import { createHash } from 'node:crypto'
import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { join } from 'node:path'
import { FormatError } from '../errors.js'

/** Size caps, in bytes, on what is read from a model folder. */
export const tokenizerFileCaps = {
  tokenizer: 256 * 2 ** 20,
  config: 16 * 2 ** 20,
  template: 2 ** 20,
} as const

/** The roles that tokenizer_config.json names; templates see them under these names. */
export const specialTokenRoles = [
  'bos_token',
  'eos_token',
  'unk_token',
  'sep_token',
  'pad_token',
  'cls_token',
  'mask_token',
] as const
export type SpecialTokenRole = (typeof specialTokenRoles)[number]

export type JsonObject = Record<string, unknown>

/** What a model folder says about its text, checked for types and sizes. */
export interface TokenizerFiles {
  /** tokenizer.json. */
  tokenizer: JsonObject
  /** tokenizer_config.json, or {}. */
  config: JsonObject
  specialTokens: Partial<Record<SpecialTokenRole, string>>
  chatTemplate: string | undefined
  /** End-of-sequence ids of generation_config.json, else of config.json. */
  eosTokenIds: number[]
  bosTokenId: number | undefined
  /** sha256, in hexadecimal, of everything that decides how text becomes tokens. */
  fingerprint: string
}

/**
 * Reads tokenizer.json (required), tokenizer_config.json, special_tokens_map.json,
 * chat_template.jinja, generation_config.json and config.json from a model folder.
 *
 * @throws FormatError naming the file, for one that is missing, too large or not what it should be.
 */
export async function readTokenizerFiles(folder: string): Promise<TokenizerFiles> {
  const tokenizerPath = join(folder, 'tokenizer.json')
  const bytes = await readCapped(tokenizerPath, tokenizerFileCaps.tokenizer)
  if (!bytes)
    throw new FormatError(`${tokenizerPath} is missing; a model folder needs a tokenizer.json.`, {
      details: { file: tokenizerPath },
    })
  const tokenizer = parseObject(tokenizerPath, bytes)
  checkTokenizer(tokenizerPath, tokenizer)
  const config = (await readObject(folder, 'tokenizer_config.json')) ?? {}
  const tokensMap = (await readObject(folder, 'special_tokens_map.json')) ?? {}
  const generation = (await readObject(folder, 'generation_config.json')) ?? {}
  const modelConfig = (await readObject(folder, 'config.json')) ?? {}

  const specialTokens: TokenizerFiles['specialTokens'] = {}
  for (const role of specialTokenRoles) {
    const token = tokenContent(config[role]) ?? tokenContent(tokensMap[role])
    if (token !== undefined) specialTokens[role] = token
  }
  const chatTemplate = await readChatTemplate(folder, config)
  const eosTokenIds = idList(generation.eos_token_id) ?? idList(modelConfig.eos_token_id) ?? []
  const hash = createHash('sha256').update(bytes).update('\0')
  hash.update(JSON.stringify([specialTokens, chatTemplate ?? null, eosTokenIds]))
  return {
    tokenizer,
    config,
    specialTokens,
    chatTemplate,
    eosTokenIds,
    bosTokenId: idList(generation.bos_token_id)?.[0] ?? idList(modelConfig.bos_token_id)?.[0],
    fingerprint: hash.digest('hex'),
  }
}

/** The text of a token given as a string or as `{ "content": … }`. */
function tokenContent(value: unknown): string | undefined {
  const content = isObject(value) ? value.content : value
  return typeof content === 'string' && content.length > 0 ? content : undefined
}

function idList(value: unknown): number[] | undefined {
  const list: unknown[] = Array.isArray(value) ? value : [value]
  const ids = list.filter((id): id is number => Number.isSafeInteger(id) && (id as number) >= 0)
  return ids.length > 0 && ids.length <= 1024 ? ids : undefined
}

// transformers prefers the .jinja file over the key in tokenizer_config.json.
async function readChatTemplate(folder: string, config: JsonObject): Promise<string | undefined> {
  const path = join(folder, 'chat_template.jinja')
  const bytes = await readCapped(path, tokenizerFileCaps.template)
  if (bytes) return decodeUtf8(path, bytes)
  const key = config.chat_template
  if (key === undefined || key === null) return undefined
  const where = `${join(folder, 'tokenizer_config.json')}, key chat_template`
  let template: unknown = key
  if (Array.isArray(key)) {
    const named = key.filter(isObject)
    const chosen = named.find((entry) => entry.name === 'default') ?? named[0]
    template = chosen?.template
  }
  if (typeof template !== 'string')
    throw new FormatError(`${where}, is neither a string nor a list of named templates.`, {
      details: { file: where },
    })
  if (template.length > tokenizerFileCaps.template)
    throw new FormatError(
      `${where}, has ${String(template.length)} characters; at most ${String(tokenizerFileCaps.template)} are read.`,
      { details: { file: where } },
    )
  return template
}

async function readObject(folder: string, name: string): Promise<JsonObject | undefined> {
  const path = join(folder, name)
  const bytes = await readCapped(path, tokenizerFileCaps.config)
  return bytes ? parseObject(path, bytes) : undefined
}

/** The bytes of a regular file; undefined if there is none. */
async function readCapped(path: string, cap: number): Promise<Buffer | undefined> {
  let file
  try {
    // Opening a named pipe would wait for its writer; non-blocking, it is an empty file.
    file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (cause) {
    const { code } = cause as NodeJS.ErrnoException
    if (code === 'ENOENT' || code === 'ENOTDIR') return undefined
    throw new FormatError(`${path} cannot be opened: ${(cause as Error).message}.`, {
      cause,
      details: { file: path },
    })
  }
  try {
    const { size } = await file.stat()
    if (size > cap)
      throw new FormatError(
        `${path} has ${String(size)} bytes; at most ${String(cap)} are read from it.`,
        { details: { file: path, size, cap } },
      )
    const bytes = Buffer.alloc(size)
    let length = 0
    while (length < size) {
      const { bytesRead } = await file.read(bytes, length, size - length, length)
      if (bytesRead === 0) break
      length += bytesRead
    }
    return bytes.subarray(0, length)
  } catch (cause) {
    if (cause instanceof FormatError) throw cause
    throw new FormatError(`${path} cannot be read: ${(cause as Error).message}.`, {
      cause,
      details: { file: path },
    })
  } finally {
    await file.close()
  }
}

function decodeUtf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: false }).decode(bytes)
  } catch (cause) {
    throw new FormatError(`${path} is not valid UTF-8.`, { cause, details: { file: path } })
  }
}

function parseObject(path: string, bytes: Uint8Array): JsonObject {
  const text = decodeUtf8(path, bytes)
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (cause) {
    throw new FormatError(`${path} is not valid JSON: ${(cause as Error).message}.`, {
      cause,
      details: { file: path },
    })
  }
  if (!isObject(value))
    throw new FormatError(`${path} holds no JSON object.`, { details: { file: path } })
  return value
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

// Ids index arrays, so a huge one would be a huge array.
const largestTokenId = 2 ** 24
// Replacements are applied to whole texts: their length is what a text can grow by.
const longestReplacement = 1024

/** Checks what the tokenizer library takes on trust. */
function checkTokenizer(path: string, tokenizer: JsonObject): void {
  const fail = (problem: string): never => {
    throw new FormatError(`${path}: ${problem}.`, { details: { file: path } })
  }
  const { model, added_tokens: addedTokens = [] } = tokenizer
  if (!isObject(model)) return fail('has no "model" object')
  const { type, vocab, merges } = model
  if (type !== undefined && !['BPE', 'WordPiece', 'Unigram'].includes(type as string))
    fail(`model.type ${JSON.stringify(type)} is not supported; BPE, WordPiece and Unigram are`)
  if (Array.isArray(vocab)) {
    if (vocab.length > largestTokenId) fail(`model.vocab has ${String(vocab.length)} entries`)
  } else if (isObject(vocab)) {
    for (const [token, id] of Object.entries(vocab)) checkId(id, `model.vocab["${token}"]`)
  } else fail('model.vocab is neither an object nor a list')
  if (type === 'BPE' && !Array.isArray(merges)) fail('model.merges is not a list')
  if (Array.isArray(merges))
    for (const merge of merges)
      if (typeof merge !== 'string' && !(Array.isArray(merge) && merge.length === 2))
        fail('model.merges holds an entry that is neither "a b" nor ["a", "b"]')
  if (!Array.isArray(addedTokens)) return fail('added_tokens is not a list')
  for (const token of addedTokens) {
    if (!isObject(token) || typeof token.content !== 'string' || token.content.length === 0)
      return fail('added_tokens holds an entry without "content"')
    checkId(token.id, `added_tokens "${token.content}"`)
  }
  for (const part of ['normalizer', 'pre_tokenizer', 'decoder'] as const)
    checkReplacements(tokenizer[part], part)

  function checkId(id: unknown, where: string): void {
    if (!Number.isSafeInteger(id) || (id as number) < 0 || (id as number) >= largestTokenId)
      fail(`${where} has id ${String(id)}; ids are integers from 0 to ${String(largestTokenId)}`)
  }
  function checkReplacements(value: unknown, where: string, depth = 0): void {
    if (depth > 64) fail(`${where} is nested more than 64 deep`)
    if (Array.isArray(value)) for (const item of value) checkReplacements(item, where, depth + 1)
    if (!isObject(value)) return
    for (const [key, item] of Object.entries(value)) {
      const replaces = key === 'content' || key === 'prepend' || key === 'replacement'
      if (replaces && typeof item === 'string' && item.length > longestReplacement)
        fail(`${where} replaces by ${String(item.length)} characters`)
      if (typeof item === 'object') checkReplacements(item, where, depth + 1)
    }
  }
}

/**
 * By how much normalising can lengthen a text: an upper bound on characters out for one in.
 * A Replace whose pattern matches everywhere puts its content between all characters.
 */
export function normalizerGrowth(normalizer: unknown): number {
  if (!isObject(normalizer)) return 1
  if (Array.isArray(normalizer.normalizers))
    return normalizer.normalizers.reduce<number>((all, one) => all * normalizerGrowth(one), 1)
  if (normalizer.type === 'Replace' && typeof normalizer.content === 'string') {
    const { content } = normalizer
    const pattern = isObject(normalizer.pattern) ? normalizer.pattern.String : undefined
    if (typeof pattern === 'string' && pattern.length > 0)
      return Math.max(1, content.length / pattern.length)
    return 1 + content.length
  }
  // Compatibility forms decompose one character into at most 18.
  return normalizer.type === 'NFKC' || normalizer.type === 'NFKD' ? 18 : 1
}
