import assert from 'node:assert/strict'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { after, before, describe, it } from 'mocha'
import { Corpus, CorpusMemory, type CorpusOptions } from '../../lib/data/index.js'
import { DataError } from '../../lib/errors.js'
import { Tokenizer } from '../../lib/text/index.js'
import { TemporaryFolder, writeTokenizer } from '../text/helpers.js'

describe('a memory of corpora', () => {
  let folder: TemporaryFolder
  let tokenizer: Tokenizer
  let options: CorpusOptions
  let encoded = 0
  before(async () => {
    folder = await TemporaryFolder.create()
    tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'model'))
    const encode = tokenizer.encode.bind(tokenizer)
    tokenizer.encode = (texts, rest) => {
      encoded += texts.length
      return encode(texts, rest)
    }
    options = {
      tokenizer,
      maxLength: 64,
      onTooLong: 'skip',
      onBadRecord: 'skip',
      chatTemplate: false,
      labels: 'all',
    }
  })
  after(async () => {
    await tokenizer.dispose()
    await folder.remove()
  })

  const record = (completion: string) => `${JSON.stringify({ prompt: 'p', completion })}\n`

  /** What a corpus is, for comparison; and how many texts were encoded to open it. */
  async function opened(names: readonly string[], rest: Partial<CorpusOptions> = {}) {
    encoded = 0
    const sources = names.map((name) => ({
      discipline: name,
      path: join(folder.path, name),
      weight: 1,
    }))
    await using corpus = await Corpus.open(sources, { ...options, ...rest })
    const { fingerprint, badRecords, numBadRecords, disciplineNames } = corpus
    const batches = []
    for await (const batch of corpus.batches()) batches.push(JSON.stringify(batch))
    const groups = corpus.groups.map(({ discipline, lines, traits }) => [
      discipline,
      [...lines],
      traits && lines.map((_, i) => [traits.content(i), traits.facts(i), traits.trainedTokens(i)]),
    ])
    const content = { fingerprint, badRecords, numBadRecords, disciplineNames, batches, groups }
    return { content, encoded }
  }

  it('gives every file again as it was read, in any corpus, and reads it once', async () => {
    await folder.write('a.jsonl', `${record('one')}{"prompt": 5}\n${record('two')}`)
    await folder.write('b.jsonl', record('three'))
    await folder.write('c.jsonl', record('four'))
    const memory = new CorpusMemory()
    for (const names of [
      ['a.jsonl', 'b.jsonl'],
      ['c.jsonl', 'a.jsonl', 'b.jsonl'],
      ['b.jsonl', 'a.jsonl'],
    ]) {
      const alone = await opened(names, { traits: true })
      const remembered = await opened(names, { traits: true, memory })
      assert.deepEqual(remembered.content, alone.content)
      assert.ok(alone.encoded > 0)
      const isNew = names.includes('c.jsonl') || names[0] === 'a.jsonl'
      assert.equal(remembered.encoded > 0, isNew, names.join())
    }
  })

  it('reads a file again that has changed, or is to be read in another way', async () => {
    const memory = new CorpusMemory()
    await folder.write('changed.jsonl', record('before'))
    await opened(['changed.jsonl'], { memory })
    await folder.write('changed.jsonl', record('since!'))
    const changed = await opened(['changed.jsonl'], { memory })
    assert.deepEqual(changed.content, (await opened(['changed.jsonl'])).content)
    for (const rest of [{ maxLength: 8 }, { onTooLong: 'truncate' }, { traits: true }] as const) {
      const other = await opened(['changed.jsonl'], { ...rest, memory })
      assert.ok(other.encoded > 0)
      assert.deepEqual(other.content, (await opened(['changed.jsonl'], rest)).content)
      assert.equal((await opened(['changed.jsonl'], { ...rest, memory })).encoded, 0)
    }
  })

  it('says of a file that is gone, or bad, what is said without it', async () => {
    const memory = new CorpusMemory()
    await folder.write('gone.jsonl', `${record('x')}{}\n`)
    await opened(['gone.jsonl'], { memory })
    await assert.rejects(opened(['gone.jsonl'], { memory, onBadRecord: 'error' }), DataError)
    await rm(join(folder.path, 'gone.jsonl'))
    await assert.rejects(opened(['gone.jsonl'], { memory }), /gone\.jsonl/)
  })
})
