import assert from 'node:assert/strict'
import { readdirSync, readFileSync } from 'node:fs'
import { Template } from '@huggingface/jinja'
import { Tokenizer } from '@huggingface/tokenizers'
import { describe, it } from 'mocha'
import { pretrainingDocument } from '../../../examples/five-disciplines/pretraining.js'
import {
  specialTokens,
  trainTokenizer,
  vocabularySize,
} from '../../../examples/five-disciplines/tokenizer/train.js'

const folder = new URL('../../../examples/five-disciplines/', import.meta.url)
const read = (name: string): string => readFileSync(new URL(name, folder), 'utf8')

interface TokenizerFile {
  added_tokens: { id: number; content: string }[]
  model: { vocab: Record<string, number>; merges: string[] }
}

const file = JSON.parse(read('tokenizer/tokenizer.json')) as TokenizerFile
const config = JSON.parse(read('tokenizer/tokenizer_config.json')) as { chat_template: string }
const tokenizer = new Tokenizer(file, config)
const ids = (text: string): number[] => tokenizer.encode(text, { add_special_tokens: false }).ids
const back = (text: string): string => tokenizer.decode(ids(text), { skip_special_tokens: false })

describe('five disciplines: the tokenizer', function () {
  this.timeout(120_000)

  it('equals the committed files', () => {
    for (const [name, text] of Object.entries(trainTokenizer()))
      assert.equal(read(`tokenizer/${name}`), text, name)
  })

  it('has 4,096 tokens, the special ones last', () => {
    const vocabulary = Object.values(file.model.vocab)
    assert.equal(vocabulary.length + specialTokens.length, vocabularySize)
    assert.deepEqual(
      [...vocabulary].sort((a, b) => a - b),
      vocabulary.map((_, id) => id),
    )
    assert.deepEqual(
      file.added_tokens.map(({ content }) => content),
      [...specialTokens],
    )
    assert.deepEqual(
      file.added_tokens.map(({ id }) => id),
      [4093, 4094, 4095],
    )
    for (const token of specialTokens) assert.equal(ids(token).length, 1)
  })

  it('reads back every record of the corpus', () => {
    for (const name of readdirSync(new URL('data/', folder))) {
      for (const line of read(`data/${name}`).split('\n')) {
        if (line === '') continue
        const record = JSON.parse(line) as Record<string, unknown>
        for (const text of [
          record['prompt'],
          record['question'],
          record['completion'],
          ...((record['choices'] ?? []) as string[]),
        ]) {
          if (typeof text === 'string') assert.equal(back(text), text)
        }
      }
    }
  })

  it('reads back the pre-training text and any other', () => {
    for (let index = 0; index < 300; index++) {
      const { text } = pretrainingDocument(2, index)
      assert.equal(back(text), text)
    }
    for (const text of [
      'naïve 東京 🚀',
      '  two  spaces\n\n\ttab',
      "it's WE'LL",
      '1234.50',
      '<|im_start|>user\nx<|im_end|>',
    ]) {
      assert.equal(back(text), text)
    }
  })

  it('splits numbers into digits and keeps frequent words whole', () => {
    assert.equal(ids('2026').length, 4)
    for (const word of [
      ' the',
      ' molar',
      ' capital',
      ' codon',
      'user',
      'assistant',
      ' AUG',
      '\n',
    ]) {
      assert.equal(ids(word).length, 1, JSON.stringify(word))
    }
    assert.ok(!Object.keys(file.model.vocab).some((token) => /\d/.test(token) && token.length > 1))
  })

  it('renders chats as ChatML, the prompt a prefix of the whole', () => {
    const template = new Template(config.chat_template)
    const messages = [
      { role: 'user', content: 'What is 2 + 2?' },
      { role: 'assistant', content: '4' },
    ]
    const whole = template.render({ messages, add_generation_prompt: false })
    const prompt = template.render({ messages: messages.slice(0, 1), add_generation_prompt: true })
    assert.equal(
      whole,
      '<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n',
    )
    assert.ok(whole.startsWith(prompt))
    assert.deepEqual(ids(whole).slice(0, ids(prompt).length), ids(prompt))
  })
})
