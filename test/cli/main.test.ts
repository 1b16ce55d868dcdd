import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { goldenFolder, goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'
import { type Finished, polylora, start } from './polylora.js'

const model = goldenModel('qwen2-text')
const read = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
const linesOf = (path: string) =>
  readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line) as Record<string, unknown>)

interface Scores {
  records: {
    prompt: string
    completion: string
    tokens: number[]
    logLikelihood: number
    greedy: boolean
  }[]
  recordsPerplexity: number
  multipleChoice: {
    context: string
    choices: string[]
    answer: number
    accuracy: number
    accuracyNormalised: number
    logLikelihoods: number[]
  }[]
}

const scores = read(join(goldenFolder, 'evaluation/scores.json')) as unknown as Scores
const jsonLines = (records: object[]) => records.map((one) => `${JSON.stringify(one)}\n`).join('')

/** One sentence on standard error, and no stack trace. */
function assertRefused(result: Finished, code: number, expected: RegExp): void {
  assert.equal(result.code, code, result.stderr)
  assert.match(result.stderr, expected)
  assert.match(result.stderr, /^polylora: [^\n]*\n$/)
  assert.doesNotMatch(result.stderr, /\bat .*:\d+:\d+/)
  assert.equal(result.stdout, '')
}

describe('polylora', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  it('says what there is', async () => {
    const help = await polylora(['--help'], at('.'))
    assert.equal(help.code, 0)
    for (const command of ['train', 'evaluate', 'generate', 'merge', 'doctor'])
      assert.match(help.stdout, new RegExp(`^  ${command} `, 'm'))
    const version = await polylora(['--version'], at('.'))
    assert.equal(version.stdout, `${read('package.json').version as string}\n`)
    const doctor = await polylora(['doctor'], at('.'))
    assert.equal(doctor.code, 0)
    assert.match(doctor.stdout, /^cpu: .*\n {2}loaded from .*polylora.*\.node$/m)
    assert.match(doctor.stdout, /^ {2}instruction set (portable|avx2|avx512|avx512-bf16)$/m)
    assert.match(doctor.stdout, /^ {2}threads [1-9]/m)
    assert.match(doctor.stdout, /^cuda: /m)
  })

  it('refuses what it does not know with exit code 2 and one sentence', async () => {
    writeFileSync(at('list.yaml'), '- 1\n')
    writeFileSync(
      at('unknown.yaml'),
      `model: ${model}\noutput: o\nmethod: { kind: lora }\ndata: {}\n`,
    )
    const cases: [string[], RegExp][] = [
      [['frobnicate'], /unknown command 'frobnicate'/],
      [['evaluate'], /'--model <folder>'/],
      [['evaluate', '--model', model, '--data', 'd', '--what'], /unknown option '--what'/],
      [['generate', '--model', model], /'--prompt <text>'/],
      [
        ['generate', '--model', model, '--prompt', 'x', '--max-tokens', '0'],
        /--max-tokens.*'0'.*whole number from 1/,
      ],
      [
        ['generate', '--model', model, '--prompt', 'x', '--top-p', '1.5'],
        /--top-p.*'1\.5'.*from 0 to 1/,
      ],
      [
        ['generate', '--model', model, '--prompt', 'x', '--instruction-set', 'sse'],
        /sse.*portable, avx2/,
      ],
      [['generate', '--model', 'nowhere', '--prompt', 'x'], /nowhere.config\.json/],
      [
        ['generate', '--model', model, '--adapter', 'nowhere', '--prompt', 'x'],
        /nowhere.adapter_config\.json/,
      ],
      [['train'], /one YAML file/],
      [['train', 'nowhere.yaml'], /nowhere\.yaml: the configuration cannot be read/],
      [['train', 'list.yaml'], /list\.yaml: the configuration: .*expected object/],
      [['train', 'unknown.yaml'], /unknown\.yaml: data\.train: .*missing/],
      [['train', 'unknown.yaml', '--set', 'steps'], /KEY=VALUE.*"steps"/],
      [
        ['train', 'unknown.yaml', '--set', 'data.train=[]', '--set', 'optimizer.learningRat=1'],
        /data\.train|optimizer\.learningRat/,
      ],
      [
        ['merge', '--model', model, '--adapter', 'a', '--output', join(model, 'merged')],
        /lies inside the input folder/,
      ],
    ]
    for (const [args, expected] of cases) assertRefused(await polylora(args, at('.')), 2, expected)
    assert.ok(!existsSync(join(model, 'merged')))
  })

  it('evaluates records as the reference does', async () => {
    writeFileSync(
      at('records.jsonl'),
      jsonLines(scores.records.map(({ prompt, completion }) => ({ prompt, completion }))),
    )
    const args = [
      'evaluate',
      '--model',
      model,
      '--data',
      'records.jsonl',
      '--output',
      'out/scores.jsonl',
    ]
    const result = await polylora(args, at('.'))
    assert.equal(result.code, 0, result.stderr)
    const written = linesOf(at('out/scores.jsonl'))
    assert.equal(written.length, scores.records.length)
    for (const [i, { tokens, logLikelihood, greedy }] of scores.records.entries()) {
      assert.deepEqual(Object.keys(written[i]), ['tokens', 'logLikelihood', 'greedy'])
      assert.equal(written[i].tokens, tokens.length)
      assert.equal(written[i].greedy, greedy)
      const error = Math.abs((written[i].logLikelihood as number) - logLikelihood)
      assert.ok(error < 1e-4 * Math.max(1, -logLikelihood), `record ${i}: ${error}`)
    }
    const perplexity = Number(/^perplexity (.*)$/m.exec(result.stdout)?.[1])
    assert.ok(Math.abs(perplexity - scores.recordsPerplexity) < 1e-4, result.stdout)
    assert.doesNotMatch(result.stdout, /accuracy/)
    // Again: the older file is replaced.
    assert.equal((await polylora(args, at('.'))).code, 0)
    assert.deepEqual(readdirSync(at('out')), ['scores.jsonl'])
  })

  it('evaluates multiple choice as the reference does', async () => {
    const questions = scores.multipleChoice.map(({ context, choices, answer }) => ({
      question: /^Question: (.*)\nAnswer:$/s.exec(context)![1],
      choices,
      answer,
    }))
    writeFileSync(at('choices.jsonl'), jsonLines(questions))
    const result = await polylora(
      ['evaluate', '--model', model, '--data', 'choices.jsonl', '--output', 'choices.out'],
      at('.'),
    )
    assert.equal(result.code, 0, result.stderr)
    const mean = (values: number[]) =>
      (values.reduce((sum, value) => sum + value, 0) / values.length).toFixed(4)
    const all = scores.multipleChoice
    assert.match(
      result.stdout,
      new RegExp(`^accuracy ${mean(all.map((one) => one.accuracy))}$`, 'm'),
    )
    assert.match(
      result.stdout,
      new RegExp(`^accuracy by character ${mean(all.map((one) => one.accuracyNormalised))}$`, 'm'),
    )
    for (const [i, { choices }] of linesOf(at('choices.out')).entries())
      for (const [j, { logLikelihood }] of (choices as { logLikelihood: number }[]).entries()) {
        const expected = all[i].logLikelihoods[j]
        assert.ok(Math.abs(logLikelihood - expected) < 1e-4 * Math.max(1, -expected))
      }
  })

  it('leaves an older score file alone when it fails, and never writes over what it reads', async () => {
    writeFileSync(at('bad.jsonl'), '{"prompt": "a", "completion": "b"}\n{"prompt": \n')
    writeFileSync(at('older.jsonl'), 'older')
    symlinkSync(at('bad.jsonl'), at('link.jsonl'))
    mkdirSync(at('scores'))
    const evaluate = (output: string, ...more: string[]) =>
      polylora(
        ['evaluate', '--model', model, '--data', 'bad.jsonl', '--output', output, ...more],
        at('.'),
      )
    assertRefused(await evaluate('older.jsonl'), 2, /bad\.jsonl:2: /)
    assert.equal(readFileSync(at('older.jsonl'), 'utf8'), 'older')
    assertRefused(await evaluate('bad.jsonl'), 2, /is the input/)
    assertRefused(await evaluate('link.jsonl'), 2, /is the input/)
    assertRefused(await evaluate(join(model, 'scores.jsonl')), 2, /lies inside the input/)
    assertRefused(await evaluate('scores'), 2, /is a folder/)
    const skipped = await evaluate('older.jsonl', '--skip-bad-records')
    assert.equal(skipped.code, 0, skipped.stderr)
    assert.match(skipped.stdout, /^records 1, 1 left out$/m)
    assert.match(skipped.stderr, /bad\.jsonl:2: /)
    assert.equal(linesOf(at('older.jsonl')).length, 1)
  })

  it('generates what the reference generates', async () => {
    const { cases } = read(join(goldenFolder, 'evaluation/generations.json')) as {
      cases: { question: string; chat: boolean; prompt: string; text: string }[]
    }
    for (const { question, chat, prompt, text } of cases.slice(0, 6)) {
      const how = chat ? ['--prompt', question, '--chat-template'] : ['--prompt', prompt]
      const args = [
        'generate',
        '--model',
        model,
        ...how,
        '--max-tokens',
        '24',
        '--temperature',
        '0',
      ]
      const result = await polylora(args, at('.'))
      assert.equal(result.code, 0, result.stderr)
      // The golden conversations open with a system turn of the template's own choice.
      assert.equal(result.stdout.trim(), text.trim(), prompt)
      assert.equal(result.stderr, '')
    }
    const stopped = await polylora(
      [
        'generate',
        '--model',
        model,
        '--prompt',
        cases[0].prompt,
        '--temperature',
        '0',
        '--stop',
        'ky',
      ],
      at('.'),
    )
    assert.equal(stopped.stdout, ' To\n')
  })

  it('merges into a folder that gives the same text', async () => {
    writeFileSync(at('tiny.jsonl'), jsonLines([{ prompt: 'Name:', completion: ' Ada' }]))
    writeFileSync(
      at('tiny.yaml'),
      `model: ${model}\noutput: tiny\nmethod: { kind: lora, rank: 2 }\noptimizer: { learningRate: 0.01 }\n` +
        'data: { train: [{ path: tiny.jsonl }] }\nbatch: { size: 1 }\nsteps: 30\nschedule: { kind: constant }\n',
    )
    const trained = await polylora(['train', 'tiny.yaml'], at('.'))
    assert.equal(trained.code, 0, trained.stderr)
    const adapter = at('tiny/adapter')
    const merge = () =>
      polylora(
        ['merge', '--model', model, '--adapter', adapter, '--output', 'merged', '--dtype', 'f32'],
        at('.'),
      )
    const merged = await merge()
    assert.equal(merged.code, 0, merged.stderr)
    assert.equal(merged.stdout, 'merged model written to merged\n')
    assertRefused(await merge(), 2, /merged already holds/)
    const ask = ['--prompt', 'Name:', '--temperature', '0', '--max-tokens', '8']
    const [before, attached, alone] = await Promise.all([
      polylora(['generate', '--model', model, ...ask], at('.')),
      polylora(['generate', '--model', model, '--adapter', adapter, ...ask], at('.')),
      polylora(['generate', '--model', 'merged', ...ask], at('.')),
    ])
    assert.equal(attached.stdout, ' Ada\n')
    assert.equal(alone.stdout, attached.stdout)
    assert.notEqual(before.stdout, attached.stdout)
  })

  it('ends quietly when nobody reads its output any more', async () => {
    const running = start(
      ['generate', '--model', model, '--prompt', 'a', '--max-tokens', '100'],
      at('.'),
    )
    running.child.stdout!.destroy()
    const { code, stderr } = await running.finished
    assert.deepEqual([code, stderr], [0, ''])
  })
})
