import assert from 'node:assert/strict'
import { gzipSync } from 'node:zlib'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { after, before, describe, it } from 'mocha'
import { Corpus } from '../../lib/data/index.js'
import type { CorpusOptions, CorpusSource, CorpusStep, StepStream } from '../../lib/data/index.js'
import { AbortedError, DataError } from '../../lib/errors.js'
import { Tokenizer } from '../../lib/text/index.js'
import { TemporaryFolder, writeTokenizer } from '../text/helpers.js'

/** One record a line; `completion` tells which. */
function lines(name: string, count: number, lengthOf: (index: number) => number = () => 1): string {
  return Array.from({ length: count }, (_, i) =>
    JSON.stringify({ prompt: name, completion: String(i).padStart(lengthOf(i), '-') }),
  ).join('\n')
}

/** "file:line" of every sample of a step, and what it packs, for comparison. */
function content({ samples, batches, trainedTokens }: CorpusStep): unknown {
  return JSON.parse(JSON.stringify({ samples, batches, trainedTokens }))
}

describe('corpus', function () {
  this.timeout(60_000)
  let folder: TemporaryFolder
  let tokenizer: Tokenizer
  let options: CorpusOptions
  before(async () => {
    folder = await TemporaryFolder.create()
    tokenizer = await Tokenizer.load(await writeTokenizer(folder, 'model'))
    options = {
      tokenizer,
      maxLength: 64,
      onTooLong: 'skip',
      onBadRecord: 'error',
      chatTemplate: false,
      labels: 'all',
    }
  })
  after(async () => {
    await tokenizer.dispose()
    await folder.remove()
  })

  async function source(
    name: string,
    text: string | Uint8Array,
    rest: Partial<CorpusSource> = {},
  ): Promise<CorpusSource> {
    const path = await folder.write(name, text)
    return { discipline: name.split('.')[0], path, weight: 1, ...rest }
  }

  describe('bad records', () => {
    const good = JSON.stringify({ prompt: 'p', completion: 'c' })
    const mixed = Buffer.concat([
      Buffer.from(`${good}\r\n\r\n{"prompt": "p", "completion": ""}\n{"prompt": 5}\n`),
      Buffer.from([0x22, 0xff, 0x22, 0x0a]),
      Buffer.from(`${JSON.stringify({ prompt: 'p', completion: 'c'.repeat(70) })}\n`),
      Buffer.from(`${JSON.stringify({ prompt: 'p'.repeat(63), completion: 'c' })}\n`),
      Buffer.from(`${JSON.stringify({ text: '' })}\n[1]\n${good}\n{"prompt": "p", "comp`),
    ])

    it('are counted and skipped, each with file, line and reason', async () => {
      const corpus = await Corpus.open([await source('mixed.jsonl', mixed)], {
        ...options,
        onBadRecord: 'skip',
      })
      try {
        assert.equal(corpus.numSamples, 2)
        assert.deepEqual(corpus.groups[0].lines, [1, 10])
        const reasons: [number, RegExp][] = [
          [3, /completion is empty/],
          [4, /completion|prompt/],
          [5, /not valid UTF-8/],
          [6, /72 tokens, 64 are allowed/],
          [7, /65 tokens, 64 are allowed/],
          [8, /text is empty/],
          [9, /must be a JSON object/],
          [11, /not valid JSON.*cut short/],
        ]
        assert.equal(corpus.numBadRecords, reasons.length)
        const sorted = [...corpus.badRecords].sort((a, b) => a.line - b.line)
        assert.deepEqual(
          sorted.map(({ line }) => line),
          reasons.map(([line]) => line),
        )
        for (const [i, { file, reason }] of sorted.entries()) {
          assert.ok(file.endsWith('mixed.jsonl'))
          assert.match(reason, reasons[i][1])
        }
      } finally {
        await corpus.close()
      }
    })

    it('are fatal where the user says so', async () => {
      await assert.rejects(
        Corpus.open([await source('mixed.jsonl', mixed)], options),
        (error: Error) => {
          assert.ok(error instanceof DataError)
          assert.match(error.message, /mixed\.jsonl:3: completion is empty/)
          assert.equal(error.details.line, 3)
          return true
        },
      )
    })

    it('are cut to length where the user says so, unless nothing trained is left', async () => {
      const text = [
        JSON.stringify({ prompt: 'p', completion: 'c'.repeat(70) }),
        JSON.stringify({ prompt: 'p'.repeat(64), completion: 'c' }),
      ].join('\n')
      const corpus = await Corpus.open([await source('long.jsonl', text)], {
        ...options,
        onBadRecord: 'skip',
        onTooLong: 'truncate',
      })
      try {
        assert.equal(corpus.numSamples, 1)
        assert.equal(corpus.numTokens, 64)
        assert.deepEqual(
          corpus.badRecords.map(({ line, reason }) => [line, /none .* trained/.test(reason)]),
          [[2, true]],
        )
      } finally {
        await corpus.close()
      }
    })

    it('leave an error behind if there is nothing else', async () => {
      for (const text of ['', '\n\n', '{"prompt": "p"}\n'])
        await assert.rejects(
          Corpus.open([await source('nothing.jsonl', text)], { ...options, onBadRecord: 'skip' }),
          (error: Error) =>
            error instanceof DataError && /nothing\.jsonl: no usable sample/.test(error.message),
        )
      await assert.rejects(
        Corpus.open([{ discipline: 'x', path: `${folder.path}/none.jsonl`, weight: 1 }], options),
        DataError,
      )
    })
  })

  it('has a fingerprint that follows files and options', async () => {
    const fingerprint = async (
      text: string,
      rest: Partial<CorpusOptions> = {},
    ): Promise<string> => {
      const corpus = await Corpus.open([await source('print.jsonl', text)], { ...options, ...rest })
      await corpus.close()
      return corpus.fingerprint
    }
    const text = lines('a', 5)
    const first = await fingerprint(text)
    assert.equal(await fingerprint(text), first)
    const others = [
      await fingerprint(`${text}\n`),
      await fingerprint(text, { maxLength: 63 }),
      await fingerprint(text, { onTooLong: 'truncate' }),
      await fingerprint(text, { labels: 'last' }),
    ]
    assert.equal(new Set([first, ...others]).size, 5)
  })

  it('stops on a signal', async () => {
    const controller = new AbortController()
    const opening = Corpus.open([await source('abort.jsonl', lines('a', 20_000))], {
      ...options,
      signal: controller.signal,
      onProgress: () => {
        controller.abort()
      },
    })
    await assert.rejects(opening, AbortedError)
  })

  it('reads a compressed corpus with the event loop free', async () => {
    const text = lines('words', 6_000, (i) => 20 + (i % 30))
    const gzipped = await source('many.jsonl.gz', gzipSync(text))
    const delay = monitorEventLoopDelay({ resolution: 1 })
    delay.enable()
    const corpus = await Corpus.open([gzipped], options)
    delay.disable()
    try {
      assert.equal(corpus.numSamples, 6_000)
      // Half of the turns within 10 ms even where other processes share the processor.
      assert.ok(delay.percentile(50) < 10e6, `${String(delay.percentile(50) / 1e6)} ms`)
    } finally {
      await corpus.close()
    }
  })

  describe('steps', () => {
    let corpus: Corpus
    before(async () => {
      corpus = await Corpus.open(
        [
          await source(
            'chemistry.jsonl',
            lines('a', 37, (i) => 1 + ((i * 7) % 23)),
          ),
          await source('geography.jsonl', lines('b', 5), { weight: 4 }),
          await source(
            'biology.jsonl',
            lines('c', 11, (i) => 1 + ((i * 5) % 9)),
          ),
        ],
        options,
      )
    })
    after(() => corpus.close())
    const samplesPerEpoch = 37 + 4 * 5 + 11

    async function all(stream: StepStream, count: number): Promise<CorpusStep[]> {
      const steps: CorpusStep[] = []
      for (let i = 0; i < count; ++i) steps.push(await stream.next())
      return steps
    }

    it('hold what the options ask for', async () => {
      const stream = corpus.steps({ batch: { size: 3, accumulation: 4 }, shuffle: true, seed: 1 })
      let position = 0
      for (const step of await all(stream, 9)) {
        assert.deepEqual(
          step.batches.map(({ cuSeqlens }) => cuSeqlens.length - 1),
          [3, 3, 3, 3],
        )
        assert.equal(step.samples.length, 12)
        assert.equal(
          step.trainedTokens,
          step.batches.reduce((sum, { labels }) => sum + labels.length, 0),
        )
        for (const batch of step.batches) {
          assert.deepEqual(batch.disciplineNames, ['chemistry', 'geography', 'biology'])
          // Every sample has the number of its place in the run.
          const numbers = Array.from(batch.cuSeqlens.subarray(0, -1), (row) => batch.rowSample[row])
          assert.deepEqual(numbers, [position, position + 1, position + 2])
          position += 3
        }
      }
      const rows = corpus.steps({
        batch: { maxTokens: 50, accumulation: 2 },
        shuffle: true,
        seed: 1,
      })
      for (const step of await all(rows, 20)) {
        assert.equal(step.batches.length, 2)
        for (const { inputIds, cuSeqlens } of step.batches)
          // Counted with the last token of each sample, which is not packed.
          assert.ok(inputIds.length + cuSeqlens.length - 1 <= 50)
      }
    })

    it('are the same samples for 2 x 8 and 16 x 1', async () => {
      const steps = async (size: number, accumulation: number): Promise<unknown[]> => {
        const stream = corpus.steps({ batch: { size, accumulation }, shuffle: true, seed: 3 })
        return (await all(stream, 6)).map(({ samples, trainedTokens }) => ({
          samples,
          trainedTokens,
        }))
      }
      const expected = await steps(16, 1)
      assert.deepEqual(await steps(2, 8), expected)
      assert.deepEqual(await steps(1, 16), expected)
    })

    for (const batch of [
      { size: 5, accumulation: 2 },
      { maxTokens: 64, accumulation: 3 },
    ])
      for (const shuffle of [true, false])
        it(`go on after a stop as if there had been none (${JSON.stringify(batch)}, ${shuffle ? 'shuffled' : 'in order'})`, async () => {
          const stream = () => corpus.steps({ batch, shuffle, seed: 9, epochs: 2 })
          const count = await stream().stepsFor(2)
          const whole = (await all(stream(), count)).map(content)
          for (const stop of [0, 1, Math.floor(count / 2), count - 1]) {
            const before = stream()
            await all(before, stop)
            const state = JSON.parse(JSON.stringify(before.state)) as typeof before.state
            const after = stream()
            after.restore(state)
            assert.deepEqual((await all(after, count - stop)).map(content), whole.slice(stop))
          }
        })

    for (const batch of [
      { size: 7, accumulation: 3 },
      { size: 200, accumulation: 1 },
      { maxTokens: 40, accumulation: 2 },
    ])
      it(`end with the epochs (${JSON.stringify(batch)})`, async () => {
        for (const epochs of [1, 3, 0.5]) {
          const stream = corpus.steps({ batch, shuffle: true, seed: 4, epochs })
          const steps = await all(stream, await stream.stepsFor(epochs))
          const samples = steps.flatMap((step) => step.samples)
          assert.equal(samples.length, samplesPerEpoch * epochs)
          assert.ok(steps.every(({ trainedTokens }) => trainedTokens > 0))
          await assert.rejects(stream.next(), DataError)
          const seen = new Map<string, number>()
          for (const { file, line } of samples) {
            const key = `${file.split('/').at(-1) ?? ''}:${String(line)}`
            seen.set(key, (seen.get(key) ?? 0) + 1)
          }
          if (!Number.isInteger(epochs)) continue
          for (const [key, count] of seen)
            assert.equal(count, key.startsWith('geography') ? 4 * epochs : epochs)
          assert.equal(seen.size, 53)
        }
      })

    it('count themselves in plain streams too', async () => {
      const stream = corpus.steps({ batch: { size: 8, accumulation: 2 }, shuffle: true, seed: 0 })
      assert.equal(await stream.stepsFor(1), Math.ceil(samplesPerEpoch / 16))
      assert.equal(await stream.stepsFor(10), Math.ceil((10 * samplesPerEpoch) / 16))
    })

    it('take an oversized sample alone', async () => {
      const stream = corpus.steps({
        batch: { maxTokens: 1, accumulation: 2 },
        shuffle: false,
        seed: 0,
      })
      const step = await stream.next()
      assert.deepEqual(
        step.batches.map(({ cuSeqlens }) => cuSeqlens.length),
        [2, 2],
      )
    })

    it('cover the corpus once for validation', async () => {
      const seen: number[] = []
      let trained = 0
      for await (const batch of corpus.batches(64)) {
        assert.ok(batch.inputIds.length <= 64)
        for (const row of batch.cuSeqlens.subarray(0, -1)) seen.push(batch.rowSample[row])
        trained += batch.labels.length
      }
      assert.deepEqual(
        seen,
        Array.from({ length: 53 }, (_, i) => i),
      )
      // Completions are as long as they were padded, and each has an end.
      const padded = Array.from({ length: 37 }, (_, i) =>
        Math.max(String(i).length, 1 + ((i * 7) % 23)),
      )
      const others = Array.from({ length: 11 }, (_, i) =>
        Math.max(String(i).length, 1 + ((i * 5) % 9)),
      )
      assert.equal(
        trained,
        [...padded, ...others].reduce((sum, length) => sum + length + 1, 0) + 5 * 2,
      )
    })
  })
})
