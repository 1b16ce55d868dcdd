import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import { after, before, describe, it } from 'mocha'
import { AbortedError, ArgumentError, DisposedError, FormatError } from '../../lib/errors.js'
import { ChatTemplate } from '../../lib/text/chat-template.js'
import { Tokenizer } from '../../lib/text/index.js'
import { readTokenizerFiles } from '../../lib/text/tokenizer-files.js'
import { TemporaryFolder, characterIds, characterTokenizer, writeTokenizer } from './helpers.js'

const golden = fileURLToPath(new URL('../golden/text/', import.meta.url))

describe('Tokenizer', function () {
  this.timeout(60_000)
  let folder: TemporaryFolder
  before(async () => {
    folder = await TemporaryFolder.create()
  })
  after(() => folder.remove())

  it('encodes and decodes many texts in order', async () => {
    const tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'plain'))
    try {
      assert.equal(tokenizer.vocabSize, 97)
      assert.equal(tokenizer.eosTokenId, 96)
      assert.deepEqual(tokenizer.eosTokenIds, [96])
      assert.equal(tokenizer.bosTokenId, undefined)
      // More than one slice, by count and by size.
      const texts = Array.from({ length: 5003 }, (_, i) => `text ${String(i * 7919)}`)
      texts.push('x'.repeat(300_001), '', 'y')
      const encoded = await tokenizer.encode(texts)
      assert.equal(encoded.length, texts.length)
      for (const [index, text] of texts.entries())
        assert.deepEqual([...encoded[index]], characterIds(text))
      assert.deepEqual(await tokenizer.decodeBatch(encoded), texts)
      assert.deepEqual(await tokenizer.encode([]), [])
      assert.deepEqual(await tokenizer.decodeBatch([]), [])
      assert.equal(await tokenizer.decode([34, 96]), 'A')
      assert.equal(await tokenizer.decode([34, 96], { skipSpecialTokens: false }), 'A<end>')
      assert.equal(await tokenizer.decode([34, 5000]), 'A', 'an id that the vocabulary lacks')
      assert.deepEqual(await tokenizer.tokenIds(['<end>', 'A', 'none']), [96, 34, undefined])
    } finally {
      await tokenizer.dispose()
    }
  })

  it('reads end-of-sequence tokens from generation_config.json, else from config.json', async () => {
    const path = await writeTokenizer(folder, 'eos', { special: ['<end>', '<stop>', '<pad>'] })
    await folder.write('eos/config.json', { eos_token_id: 98 })
    let tokenizer = await Tokenizer.load(path)
    assert.deepEqual(tokenizer.eosTokenIds, [96, 98])
    await tokenizer.dispose()
    await folder.write('eos/generation_config.json', { eos_token_id: [97, 96], bos_token_id: 5 })
    tokenizer = await Tokenizer.load(path)
    assert.equal(tokenizer.eosTokenId, 96)
    assert.deepEqual(tokenizer.eosTokenIds, [96, 97])
    assert.equal(tokenizer.bosTokenId, 5)
    await tokenizer.dispose()
    await folder.write('eos/tokenizer_config.json', {})
    tokenizer = await Tokenizer.load(path)
    assert.equal(tokenizer.eosTokenId, 97)
    assert.equal(tokenizer.specialTokens.eos_token, '<stop>')
    await tokenizer.dispose()
  })

  it('has a fingerprint that follows what decides the tokens', async () => {
    const fingerprints = new Set<string>()
    for (const options of [
      {},
      { merges: ['ab'] },
      { config: { chat_template: '{{ messages }}' } },
      { special: ['<end>', '<x>'] },
    ]) {
      const tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'print', options))
      fingerprints.add(tokenizer.fingerprint)
      await tokenizer.dispose()
    }
    assert.equal(fingerprints.size, 4)
    const again = await Tokenizer.load(await writeTokenizer(folder, 'again'))
    assert.ok(fingerprints.has(again.fingerprint), 'and on nothing else')
    await again.dispose()
  })

  it('refuses wrong arguments', async () => {
    await assert.rejects(Tokenizer.load(7 as never), ArgumentError)
    await assert.rejects(Tokenizer.load(folder.path, { deadlineMs: 0 }), ArgumentError)
    await assert.rejects(Tokenizer.load(folder.path, { date: 'tomorrow' }), ArgumentError)
    const tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'arguments'))
    await assert.rejects(tokenizer.encode('text' as never), /list of strings/)
    await assert.rejects(tokenizer.encode(['a', 5 as never]), /texts\[1\] must be a string, not 5/)
    await assert.rejects(tokenizer.decode([1, -1]), /not -1 \(sequence 0, position 1\)/)
    await assert.rejects(tokenizer.decode([1.5]), ArgumentError)
    await assert.rejects(tokenizer.applyChatTemplate([]), /has no chat template/)
    await tokenizer.dispose()
    await tokenizer.dispose()
    await assert.rejects(tokenizer.encode(['a']), DisposedError)
  })

  it('names the file that is missing, damaged or hostile', async () => {
    const cases: [string, Record<string, string | Uint8Array | object>, RegExp][] = [
      ['none', {}, /tokenizer\.json is missing/],
      ['json', { 'tokenizer.json': '{"model": ' }, /not valid JSON/],
      ['utf8', { 'tokenizer.json': new Uint8Array([123, 255, 125]) }, /not valid UTF-8/],
      ['list', { 'tokenizer.json': [] }, /holds no JSON object/],
      ['empty', { 'tokenizer.json': {} }, /has no "model" object/],
      ['deep', { 'tokenizer.json': '['.repeat(200_000) }, /not valid JSON/],
      [
        'ids',
        { 'tokenizer.json': { model: { type: 'BPE', vocab: { a: 4e9 }, merges: [] } } },
        /id 4000000000/,
      ],
      [
        'merges',
        { 'tokenizer.json': { model: { type: 'BPE', vocab: {}, merges: [5] } } },
        /model\.merges/,
      ],
      [
        'type',
        { 'tokenizer.json': { ...characterTokenizer(), model: { type: 'Lisp', vocab: {} } } },
        /not supported/,
      ],
      [
        'replacement',
        {
          'tokenizer.json': characterTokenizer({
            normalizer: {
              type: 'Sequence',
              normalizers: [{ type: 'Prepend', prepend: 'x'.repeat(5000) }],
            },
          }),
        },
        /normalizer replaces by 5000 characters/,
      ],
      [
        'template',
        { 'tokenizer.json': characterTokenizer(), 'tokenizer_config.json': { chat_template: 7 } },
        /key chat_template/,
      ],
      [
        'config',
        { 'tokenizer.json': characterTokenizer(), 'config.json': '[1]' },
        /config\.json holds no JSON object/,
      ],
    ]
    for (const [name, files, message] of cases) {
      for (const [file, content] of Object.entries(files))
        await folder.write(join(name, file), content)
      await assert.rejects(readTokenizerFiles(join(folder.path, name)), (error: Error) => {
        assert.ok(error instanceof FormatError, `${name}: ${String(error)}`)
        assert.match(error.message, message)
        return true
      })
    }
    // The same error crosses from the worker.
    await assert.rejects(Tokenizer.load(join(folder.path, 'ids')), (error: Error) => {
      assert.ok(error instanceof FormatError)
      assert.match(error.message, /id 4000000000/)
      return true
    })
  })

  it('ends a pattern that backtracks for ever, and works on', async () => {
    const path = await writeTokenizer(folder, 'backtracking', { split: '(a+)+$' })
    const tokenizer = await Tokenizer.load(path, { deadlineMs: 700 })
    try {
      const hostile = tokenizer.encode(['a'.repeat(40) + '!'])
      const behind = tokenizer.encode(['bcd'])
      const delay = monitorEventLoopDelay({ resolution: 1 })
      delay.enable()
      await assert.rejects(hostile, (error: Error) => {
        assert.ok(error instanceof FormatError)
        assert.match(error.message, /The tokenizer of .*backtracking took longer than the 700 ms/)
        return true
      })
      delay.disable()
      assert.ok(delay.percentile(50) < 20e6, 'the event loop is free meanwhile')
      assert.deepEqual(
        (await behind).map((ids) => [...ids]),
        [characterIds('bcd')],
      )
      assert.deepEqual(
        (await tokenizer.encode(['e'])).map((ids) => [...ids]),
        [characterIds('e')],
      )
    } finally {
      await tokenizer.dispose()
    }
  })

  it('is patient, but not for ever, where the process has not had the processor', async () => {
    const path = await writeTokenizer(folder, 'starved', { split: '(a+)+$' })
    const { cpuUsage } = process
    // Loaded before, so that the deadline of the start has nothing to do with it.
    const tokenizer = await Tokenizer.load(path, { deadlineMs: 100 })
    const started = performance.now()
    process.cpuUsage = () => ({ user: 0, system: 0 })
    try {
      await assert.rejects(tokenizer.encode(['a'.repeat(40) + '!']), /took longer than the 100 ms/)
      assert.ok(performance.now() - started >= 2000)
    } finally {
      process.cpuUsage = cpuUsage
      await tokenizer.dispose()
    }
  })

  it('refuses texts that a normalizer would blow up', async () => {
    const normalizer = {
      type: 'Sequence',
      normalizers: Array.from({ length: 6 }, () => ({
        type: 'Replace',
        pattern: { String: 'a' },
        content: 'a'.repeat(1000),
      })),
    }
    const tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'growth', { normalizer }))
    await assert.rejects(tokenizer.encode(['a']), /too long for this tokenizer/)
    await tokenizer.dispose()
  })

  it('stops on a signal', async () => {
    const path = await writeTokenizer(folder, 'signal', { split: '(a+)+$' })
    const controller = new AbortController()
    const tokenizer = await Tokenizer.load(path, { deadlineMs: 2000, signal: controller.signal })
    const encoding = tokenizer.encode(['a'.repeat(40) + '!'], { signal: controller.signal })
    controller.abort(new Error('enough'))
    await assert.rejects(encoding, (error: Error) => {
      assert.ok(error instanceof AbortedError)
      assert.equal((error.cause as Error).message, 'enough')
      return true
    })
    await assert.rejects(tokenizer.encode(['b'], { signal: controller.signal }), AbortedError)
    await tokenizer.dispose()
    await assert.rejects(Tokenizer.load(path, { signal: AbortSignal.abort() }), AbortedError)
  })

  it('rejects what is pending when it is disposed', async () => {
    const tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'pending'))
    const pending = tokenizer.encode(['abc'])
    await Promise.all([tokenizer.dispose(), assert.rejects(pending, DisposedError)])
  })

  it('lets an idle process exit', async () => {
    const path = await writeTokenizer(folder, 'idle', { config: { chat_template: 'x' } })
    const script = `
      import { Tokenizer } from ${JSON.stringify(new URL('../../lib/text/index.ts', import.meta.url).href)}
      const tokenizer = await Tokenizer.load(${JSON.stringify(path)})
      await tokenizer.encode(['abc'])
      console.log(await tokenizer.applyChatTemplate([]))`
    const file = await folder.write('idle.mts', script)
    const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', file], {
      timeout: 15_000,
      cwd: fileURLToPath(new URL('../..', import.meta.url)),
    })
    assert.equal(stdout, 'x\n')
  })
})

describe('chat templates', function () {
  this.timeout(60_000)
  let folder: TemporaryFolder
  before(async () => {
    folder = await TemporaryFolder.create()
  })
  after(() => folder.remove())

  const doubled = (start: string, times: number): string =>
    `{% set ns = namespace(v=${start}) %}{% for i in range(${String(times)}) %}{% set ns.v = ns.v + ns.v %}{% endfor %}`

  it('gives templates a fixed date and the special tokens', async () => {
    const template = '{{ strftime_now("%d %b %Y, %A") }}{{ eos_token }}'
    const path = await writeTokenizer(folder, 'dated', { config: { chat_template: template } })
    const tokenizer = await Tokenizer.load(path)
    assert.equal(await tokenizer.applyChatTemplate([]), '26 Jul 2024, Friday<end>')
    await tokenizer.dispose()
    const later = await Tokenizer.load(path, { date: '2031-02-03' })
    assert.equal(await later.applyChatTemplate([]), '03 Feb 2031, Monday<end>')
    await later.dispose()
  })

  it('limits what a rendering may cost', () => {
    const variables = { specialTokens: {}, date: '2024-01-01' }
    const cases: [string, RegExp][] = [
      ['{{ range(2000000000) }}', /^range\(\) of 2000000000 numbers; at most 100000/],
      ['{{ range(5, 1, 0) }}', /^range\(\) takes integers, and a step other than 0/],
      [
        '{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}',
        /takes more than 400000 steps/,
      ],
      [`${doubled('"abcdefgh"', 40)}{{ ns.v }}`, /builds a value of more than 16777216/],
      [`${doubled('"a b c d "', 30)}{{ ns.v.split(" ") | length }}`, /builds a value/],
      [`${doubled('[1, 2]', 40)}{{ ns.v | length }}`, /builds a value/],
      [
        `${doubled('["x"]', 99).replace('ns.v + ns.v', '[ns.v, ns.v]')}{{ ns.v }}`,
        /builds a value/,
      ],
      [
        `${doubled('"abcdefgh"', 17)}{% for i in range(9999) %}{% set x = ns.v %}{% endfor %}`,
        /goes through more than 268435456 characters/,
      ],
      ['{{ messages.constructor.constructor("return process")() }}', /not a function/],
      ['{{ raise_exception("no thanks") }}', /^no thanks$/],
    ]
    for (const [template, message] of cases) {
      const { error } = new ChatTemplate(template, variables).render({
        messages: [],
        addGenerationPrompt: false,
      })
      assert.match(error ?? '', message, template.slice(0, 80))
    }
    for (const template of [
      `{{ ${'('.repeat(100_000)}1${')'.repeat(100_000)} }}`,
      '{% if %}',
      '{{',
    ])
      assert.throws(() => new ChatTemplate(template, variables), /^FormatError: .*does not parse/)
    const range = '{{ range(3) }} {{ range(7, 2, -2) }} {{ range(4, 4) }}'
    assert.equal(
      new ChatTemplate(range, variables).render({ messages: [], addGenerationPrompt: false }).text,
      '[0, 1, 2] [7, 5, 3] []',
    )
  })

  it('turns hostile templates into typed errors', async () => {
    // The second is few steps, each of them long.
    const cases: [string, RegExp][] = [
      ['{{ range(2000000000) }}', /refused the conversation: range\(\)/],
      [
        `${doubled('"aaaaaaaa"', 16)}{% for i in range(999) %}{% set x = ns.v | replace("a", "b") %}{% endfor %}`,
        /took longer than the 300 ms/,
      ],
    ]
    for (const [template, message] of cases) {
      const path = await writeTokenizer(folder, 'hostile', { config: { chat_template: template } })
      const tokenizer = await Tokenizer.load(path, { deadlineMs: 300 })
      await assert.rejects(tokenizer.applyChatTemplate([]), (error: Error) => {
        assert.ok(error instanceof FormatError, String(error))
        assert.match(error.message, message)
        return true
      })
      assert.deepEqual([...(await tokenizer.encode(['ab']))[0]], characterIds('ab'))
      await tokenizer.dispose()
    }
  })

  it('refuses messages without a role', async () => {
    const path = await writeTokenizer(folder, 'roles', {
      config: { chat_template: '{{ messages }}' },
    })
    const tokenizer = await Tokenizer.load(path)
    await assert.rejects(tokenizer.applyChatTemplate([{ content: 'x' } as never]), /messages\[0\]/)
    await assert.rejects(tokenizer.applyChatTemplate([null as never]), ArgumentError)
    await assert.rejects(tokenizer.applyChatTemplate('x' as never), ArgumentError)
    await tokenizer.dispose()
  })
})

describe('encodeChat', () => {
  let folder: TemporaryFolder
  before(async () => {
    folder = await TemporaryFolder.create()
  })
  after(() => folder.remove())

  const user = (content: string): { role: string; content: string } => ({ role: 'user', content })
  const assistant = (content: string): { role: string; content: string } => ({
    role: 'assistant',
    content,
  })
  /** The text with the trained tokens in brackets, one bracket a run. */
  async function show(
    tokenizer: Tokenizer,
    messages: { role: string; content: string }[],
    labels: 'all' | 'last' = 'all',
  ): Promise<string> {
    const { inputIds, labelMask } = await tokenizer.encodeChat(messages, { labels })
    let shown = ''
    for (let i = 0; i < inputIds.length; ++i) {
      if (labelMask[i] !== (labelMask[i - 1] ?? 0)) shown += labelMask[i] ? '[' : ']'
      shown += await tokenizer.decode([inputIds[i]], { skipSpecialTokens: false })
    }
    return labelMask.at(-1) ? `${shown}]` : shown
  }

  it('brackets turns, appends a missing end, and copes with merges over a border', async () => {
    const template =
      '{% for m in messages %}{{ m.role[0] }}:{{ m.content }}\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}'
    // ":b" spans the border between the prompt and an answer that starts with b.
    const path = await writeTokenizer(folder, 'merge', {
      merges: [':b'],
      config: { chat_template: template },
    })
    const tokenizer = await Tokenizer.load(path)
    const chat = [user('x'), assistant('cd'), user('y'), assistant('bc')]
    assert.equal(await show(tokenizer, chat), 'u:x\na:[cd\n]u:y\na[:bc\n<end>]')
    assert.equal(await show(tokenizer, chat, 'last'), 'u:x\na:cd\nu:y\na[:bc\n<end>]')
    assert.equal(await show(tokenizer, chat.slice(0, 3)), 'u:x\na:[cd\n]u:y\n')
    assert.equal(await show(tokenizer, [assistant('hm'), user('y')]), 'a:[hm\n]u:y\n')
    const [prompted, none] = await tokenizer.encodeChats([
      { messages: chat, completionFrom: 2 },
      { messages: [user('x')] },
    ])
    assert.ok('inputIds' in prompted)
    assert.equal(prompted.labelMask.indexOf(1), 'u:x\na:cd\n'.length)
    assert.deepEqual(none, { problem: 'it has no assistant turn' })
    await assert.rejects(tokenizer.encodeChat([user('x')]), /no assistant turn/)
    await tokenizer.dispose()
  })

  it('does not append an end that the template wrote', async () => {
    const template =
      '{% for m in messages %}{{ m.role[0] }}:{{ m.content }}<end>\n{% endfor %}{% if add_generation_prompt %}a:{% endif %}'
    const path = await writeTokenizer(folder, 'ends', { config: { chat_template: template } })
    const tokenizer = await Tokenizer.load(path)
    assert.equal(await show(tokenizer, [user('x'), assistant('y')]), 'u:x<end>\na:[y<end>\n]')
    await tokenizer.dispose()
  })

  it('keeps the border of a template that refuses other conversations', async () => {
    const template =
      '{% if messages | length != 2 %}{{ raise_exception("two, please") }}{% endif %}{% for m in messages %}{{ m.content }}|{% endfor %}'
    const path = await writeTokenizer(folder, 'refuses', { config: { chat_template: template } })
    const tokenizer = await Tokenizer.load(path)
    const [one, two] = await tokenizer.encodeChats([
      { messages: [user('x'), assistant('y'), user('z')] },
      { messages: [assistant('yy'), user('x')] },
    ])
    assert.deepEqual(one, { problem: 'the chat template refused it: two, please' })
    // The prompt cannot be rendered alone, so the turn opens the text; its end is found by content.
    assert.ok('labelMask' in two)
    assert.deepEqual([...two.labelMask], [0, 1, 0, 0, 0])
    await tokenizer.dispose()
  })
})

describe('StreamingDecoder', () => {
  for (const name of ['qwen', 'llama-2'])
    it(`gives out what decoding at once gives (${name})`, async () => {
      const tokenizer = await Tokenizer.load(join(golden, name))
      try {
        const texts = ['Zürich 👩‍👩‍👧 costs 5 €, 日本 does not.', '', 'plain words only', '😀😀😀']
        const sequences = await tokenizer.encode(texts, { addSpecialTokens: false })
        const decoder = tokenizer.streamingDecoder(texts.length)
        const pieces: string[][] = texts.map(() => [])
        for (let i = 0; i < Math.max(...sequences.map((ids) => ids.length)); ++i) {
          const step = await decoder.push(sequences.map((ids) => ids.subarray(i, i + 1)))
          step.forEach((text, index) => {
            if (text !== '') pieces[index].push(text)
          })
        }
        for (const [index, text] of (await decoder.end()).entries()) pieces[index].push(text)
        for (const [index, text] of texts.entries()) {
          assert.equal(pieces[index].join(''), text)
          for (const piece of pieces[index]) assert.ok(!piece.includes('\ufffd'))
        }
        assert.ok(pieces[2].length > 4, 'words come out one after the other')
        await assert.rejects(decoder.push([[1]]), ArgumentError)
      } finally {
        await tokenizer.dispose()
      }
    })

  it('gives broken characters out at the end, and does not wait for ever', async () => {
    const tokenizer = await Tokenizer.load(join(golden, 'qwen'))
    const [ids] = await tokenizer.encode(['€'], { addSpecialTokens: false })
    const decoder = tokenizer.streamingDecoder()
    assert.deepEqual(await decoder.push([ids.subarray(0, 1)]), [''])
    assert.match((await decoder.end())[0], /^\ufffd/)
    let text = ''
    for (let i = 0; i < 40; ++i) text += (await decoder.push([ids.subarray(1, 2)]))[0]
    assert.ok(text.length > 20, 'continuation bytes alone')
    await tokenizer.dispose()
  })
})
