import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { after, before, describe, it } from 'mocha'
import { parseRecord } from '../../lib/data/records.js'
import type { CorpusRecord } from '../../lib/data/records.js'
import { tokenizeRecords } from '../../lib/data/tokenize.js'
import { FormatError } from '../../lib/errors.js'
import { Tokenizer } from '../../lib/text/index.js'
import { TemporaryFolder, writeTokenizer } from '../text/helpers.js'

const golden = fileURLToPath(new URL('../golden/text/', import.meta.url))

function record(fields: Record<string, unknown>): CorpusRecord {
  const parsed = parseRecord(fields)
  assert.ok(!('problem' in parsed), JSON.stringify(parsed))
  return parsed
}

describe('labels of prompts and completions, against transformers', function () {
  this.timeout(60_000)
  for (const name of ['qwen', 'llama-3', 'llama-2', 'mistral'])
    it(name, async () => {
      const cases = JSON.parse(await readFile(join(golden, name, 'records.json'), 'utf8')) as {
        prompt: string
        completion: string
        ids: number[]
        labels: number[]
      }[]
      const tokenizer = await Tokenizer.load(join(golden, name))
      try {
        const records = cases.map(({ prompt, completion }) => record({ prompt, completion }))
        const tokenized = await tokenizeRecords(tokenizer, records, {
          chatTemplate: false,
          labels: 'all',
        })
        assert.ok(cases.length > 10)
        for (const [i, { ids, labels, prompt }] of cases.entries()) {
          const result = tokenized[i]
          assert.ok('inputIds' in result)
          assert.deepEqual([...result.inputIds], ids, prompt)
          // transformers drops the label of the first token when it shifts; here it is not set.
          const expected = labels.map((label, t) => (t === 0 ? -100 : label))
          const actual = Array.from(result.labelMask, (trained, t) => (trained ? ids[t] : -100))
          assert.deepEqual(actual, expected, prompt)
        }
      } finally {
        await tokenizer.dispose()
      }
    })
})

describe('labels', function () {
  this.timeout(60_000)
  let folder: TemporaryFolder
  let tokenizer: Tokenizer
  before(async () => {
    folder = await TemporaryFolder.create()
    const template =
      '{% for m in messages %}({{ m.role[0] }}){{ m.content }}{% if m.role == "assistant" %}<end>{% endif %}{% endfor %}{% if add_generation_prompt %}(a){% endif %}'
    const path = await writeTokenizer(folder, 'model', {
      special: ['<end>', '<begin>'],
      begin: '<begin>',
      merges: ['ab'],
      config: { chat_template: template, bos_token: '<begin>' },
    })
    tokenizer = await Tokenizer.load(path)
  })
  after(async () => {
    await tokenizer.dispose()
    await folder.remove()
  })

  /** Each record's text with what is trained in brackets, or its problem. */
  async function show(
    records: Record<string, unknown>[],
    options: { chatTemplate?: boolean; labels?: 'all' | 'last' } = {},
  ): Promise<string[]> {
    const { chatTemplate = false, labels = 'all' } = options
    const tokenized = await tokenizeRecords(tokenizer, records.map(record), {
      chatTemplate,
      labels,
    })
    return Promise.all(
      tokenized.map(async (result) => {
        if ('problem' in result) return result.problem
        const { inputIds, labelMask } = result
        assert.equal(labelMask.length, inputIds.length)
        const tokens = await tokenizer.decodeBatch(
          Array.from(inputIds, (id) => [id]),
          { skipSpecialTokens: false },
        )
        return tokens.map((token, t) => (labelMask[t] ? `[${token}]` : token)).join('')
      }),
    )
  }

  it('trains completions and their end, and of documents all but the first token', async () => {
    assert.deepEqual(
      await show([
        { prompt: 'q:', completion: ' x' },
        { prompt: 'q', completion: 'x<end>' },
        // A token over the border belongs to the completion.
        { prompt: 'xa', completion: 'b' },
        { prompt: '', completion: 'x' },
        { text: 'xyz' },
        { question: 'Is it?', choices: ['no', 'yes'], answer: 1 },
      ]),
      [
        '<begin>q:[ ][x][<end>]',
        '<begin>q[x][<end>]',
        '<begin>x[ab][<end>]',
        '<begin>[x][<end>]',
        '<begin>[x][y][z][<end>]',
        '<begin>Question: Is it?\nAnswer:[ ][y][e][s][<end>]',
      ],
    )
  })

  it('renders what it is asked to through the template, conversations always', async () => {
    const chat = {
      messages: [
        { role: 'user', content: 'u' },
        { role: 'assistant', content: 'x' },
        { role: 'user', content: 'v' },
        { role: 'assistant', content: 'y' },
      ],
    }
    const records = [
      { prompt: 'q', completion: 'x' },
      { instruction: 'i', input: 'j', output: 'o' },
      { question: 'Is it?', choices: ['no', 'yes'], answer: 0 },
      { text: 'xy' },
      chat,
      { prompt: chat.messages.slice(0, 1), completion: chat.messages.slice(1) },
    ]
    assert.deepEqual(await show(records, { chatTemplate: true }), [
      '(u)q(a)[x][<end>]',
      '(u)i\n\nj(a)[o][<end>]',
      '(u)Is it?(a)[n][o][<end>]',
      '<begin>[x][y][<end>]',
      '(u)u(a)[x][<end>](u)v(a)[y][<end>]',
      // The border is where the assistant's turn opens; what follows is all completion.
      '(u)u(a)[x][<end>][(][u][)][v][(][a][)][y][<end>]',
    ])
    assert.deepEqual(await show([chat], { labels: 'last' }), ['(u)u(a)x<end>(u)v(a)[y][<end>]'])
    const [alpaca] = await show([records[1]])
    assert.match(
      alpaca,
      /^<begin>Below is an instruction[^]*### Input:\nj\n\n### Response:\n\[o\]\[<end>\]$/,
    )
  })

  it('says so where a conversation meets a model without a template', async () => {
    const bare = await Tokenizer.load(await writeTokenizer(folder, 'bare'))
    try {
      const messages = [{ role: 'assistant', content: 'x' }]
      await assert.rejects(
        tokenizeRecords(bare, [record({ messages })], { chatTemplate: false, labels: 'all' }),
        (error: Error) =>
          error instanceof FormatError && /has no chat template/.test(error.message),
      )
    } finally {
      await bare.dispose()
    }
  })
})
