import assert from 'node:assert/strict'
import { cp, mkdtemp, readFile, rm } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { after, before, describe, it } from 'mocha'
import { Tokenizer } from '../../lib/text/index.js'
import type { ChatMessage } from '../../lib/text/index.js'
import { FormatError } from '../../lib/errors.js'

const golden = fileURLToPath(new URL('../golden/text/', import.meta.url))

async function readJson<T>(...path: string[]): Promise<T> {
  return JSON.parse(await readFile(join(golden, ...path), 'utf8')) as T
}

interface Encodings {
  vocabularySize: number
  bos: number | null
  eos: number | null
  cases: {
    text: string
    ids: number[]
    idsWithSpecial: number[]
    decoded: string
    decodedWithoutSpecial: string
  }[]
}

interface ChatCase {
  tokenizer: string
  template: string
  messages: ChatMessage[]
  addGenerationPrompt: boolean
  variables: Record<string, unknown>
  text?: string
  ids?: number[]
  error?: string
  turns?: { message: number; characters: [number, number]; tokens: [number, number] }[]
  assistantMask?: number[]
}

for (const name of ['qwen', 'llama-3', 'llama-2', 'mistral'])
  describe(`tokenizer of ${name}, against transformers`, () => {
    let tokenizer: Tokenizer
    let encodings: Encodings
    before(async () => {
      encodings = await readJson(name, 'encodings.json')
      tokenizer = await Tokenizer.load(join(golden, name))
    })
    after(() => tokenizer.dispose())

    it('knows its vocabulary and special tokens', () => {
      assert.equal(tokenizer.vocabSize, encodings.vocabularySize)
      assert.equal(tokenizer.bosTokenId ?? null, encodings.bos)
      assert.equal(tokenizer.eosTokenId ?? null, encodings.eos)
      assert.deepEqual(tokenizer.eosTokenIds, [encodings.eos])
      assert.equal(tokenizer.chatTemplate !== undefined, name !== 'mistral')
    })

    it('encodes every text', async () => {
      const texts = encodings.cases.map(({ text }) => text)
      const plain = await tokenizer.encode(texts, { addSpecialTokens: false })
      const special = await tokenizer.encode(texts)
      for (const [index, { text, ids, idsWithSpecial }] of encodings.cases.entries()) {
        assert.deepEqual([...plain[index]], ids, JSON.stringify(text))
        assert.deepEqual([...special[index]], idsWithSpecial, JSON.stringify(text))
      }
    })

    it('decodes every text', async () => {
      const ids = encodings.cases.map((one) => one.ids)
      const all = await tokenizer.decodeBatch(ids, { skipSpecialTokens: false })
      const clean = await tokenizer.decodeBatch(ids)
      for (const [index, one] of encodings.cases.entries()) {
        assert.equal(all[index], one.decoded, JSON.stringify(one.text))
        assert.equal(clean[index], one.decodedWithoutSpecial, JSON.stringify(one.text))
      }
    })
  })

describe('chat templates, against transformers', function () {
  this.timeout(60_000)
  let cases: ChatCase[]
  let folder: string
  const loaded = new Map<string, Tokenizer>()
  async function withTemplate(name: string, template: string): Promise<Tokenizer> {
    const key = `${name}-${template}`
    if (!loaded.has(key)) {
      await cp(join(golden, name), join(folder, key), { recursive: true })
      // A file of its own goes before what tokenizer_config.json holds.
      const source = join(golden, 'templates', `${template}.jinja`)
      await cp(source, join(folder, key, 'chat_template.jinja'))
      loaded.set(key, await Tokenizer.load(join(folder, key)))
    }
    return loaded.get(key) as Tokenizer
  }
  before(async () => {
    cases = await readJson('chats.json')
    folder = await mkdtemp(join(tmpdir(), 'polylora-chats-'))
  })
  after(async () => {
    await Promise.all([...loaded.values()].map((tokenizer) => tokenizer.dispose()))
    await rm(folder, { recursive: true })
  })

  it('renders, or refuses with the same words', async () => {
    assert.ok(cases.length > 20)
    for (const one of cases) {
      const tokenizer = await withTemplate(one.tokenizer, one.template)
      const { messages, addGenerationPrompt, variables } = one
      const rendering = tokenizer.applyChatTemplate(messages, { addGenerationPrompt, variables })
      if (one.error !== undefined) {
        const words = one.error
        await assert.rejects(rendering, (error: Error) => {
          assert.ok(error instanceof FormatError)
          assert.ok(error.message.includes(words), error.message)
          return true
        })
        continue
      }
      const text = await rendering
      assert.equal(text, one.text)
      const [ids] = await tokenizer.encode([text], { addSpecialTokens: false })
      assert.deepEqual([...ids], one.ids)
    }
  })

  it('marks the turns of the assistant', async () => {
    let turns = 0
    for (const one of cases) {
      if (!one.turns?.length || one.addGenerationPrompt) continue
      if (Object.keys(one.variables).length > 0 || one.assistantMask) continue
      const tokenizer = await withTemplate(one.tokenizer, one.template)
      for (const labels of ['all', 'last'] as const) {
        const { inputIds, labelMask } = await tokenizer.encodeChat(one.messages, { labels })
        assert.deepEqual([...inputIds], one.ids)
        const expected = new Uint8Array(inputIds.length)
        for (const { tokens } of labels === 'all' ? one.turns : one.turns.slice(-1))
          expected.fill(1, ...tokens)
        assert.deepEqual(labelMask, expected)
        turns += one.turns.length
      }
    }
    assert.ok(turns >= 12, `${String(turns)} turns`)
  })

  it('follows {% generation %} where a template has it', async () => {
    let masks = 0
    for (const one of cases) {
      if (!one.assistantMask || one.addGenerationPrompt) continue
      const tokenizer = await withTemplate(one.tokenizer, one.template)
      const { inputIds, labelMask } = await tokenizer.encodeChat(one.messages)
      assert.deepEqual([...inputIds], one.ids)
      assert.deepEqual([...labelMask], one.assistantMask)
      const last = await tokenizer.encodeChat(one.messages, { labels: 'last' })
      const from = one.assistantMask.lastIndexOf(0, one.assistantMask.lastIndexOf(1)) + 1
      assert.deepEqual(
        [...last.labelMask],
        one.assistantMask.map((value, index) => (index >= from ? value : 0)),
      )
      masks++
    }
    assert.ok(masks >= 2)
  })

  it('marks turns that a template writes differently once others follow', async () => {
    const one = cases.find(
      ({ template, messages }) => template === 'thinking' && messages.length === 5,
    ) as ChatCase
    const tokenizer = await withTemplate('qwen', 'thinking')
    const { inputIds, labelMask } = await tokenizer.encodeChat(one.messages)
    assert.deepEqual([...inputIds], one.ids)
    const trained = [...inputIds].filter((_, index) => labelMask[index] === 1)
    // The first answer has lost its thought in the text, the last has kept it.
    assert.equal(
      await tokenizer.decode(trained, { skipSpecialTokens: false }),
      'Nairobi<|im_end|><think>\nIt is in Africa.\n</think>\n\nNairobi<|im_end|>\n',
    )
  })
})
