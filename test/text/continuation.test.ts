import assert from 'node:assert/strict'
import { readFile } from 'node:fs/promises'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { after, before, describe, it } from 'mocha'
import { ArgumentError } from '../../lib/errors.js'
import { Tokenizer, encodeContinuations } from '../../lib/text/index.js'

const golden = fileURLToPath(new URL('../golden/', import.meta.url))

describe('continuations, against lm-evaluation-harness', () => {
  let tokenizer: Tokenizer
  before(async () => {
    tokenizer = await Tokenizer.load(join(golden, 'models/qwen2-text/model'))
  })
  after(() => tokenizer.dispose())

  it('splits context and continuation where it does', async () => {
    const { continuations } = JSON.parse(
      await readFile(join(golden, 'evaluation/scores.json'), 'utf8'),
    ) as {
      continuations: {
        context: string
        continuation: string
        maxLength: number
        input: number[]
        tokens: number[]
      }[]
    }
    assert.ok(continuations.length >= 7)
    for (const { context, continuation, maxLength, input, tokens } of continuations) {
      const [encoding] = await encodeContinuations(tokenizer, [{ context, continuation }], {
        maxLength,
      })
      assert.deepEqual([...encoding.tokens], input)
      assert.deepEqual([...encoding.tokens.subarray(encoding.start)], tokens)
    }
  })

  it('moves white space as Python sees it', async () => {
    const pairs = [' ', '\u0085', '\u001c', '\u3000', '\ufeff', ' \t\n'].map((space) => ({
      context: `x${space}`,
      continuation: 'y',
    }))
    const starts = (await encodeContinuations(tokenizer, pairs)).map(({ start }) => start)
    const [x] = await tokenizer.encode(['x\ufeff'])
    // U+FEFF is white space for JavaScript only.
    assert.deepEqual(starts, [1, 1, 1, 1, x.length, 1])
  })

  it('refuses what cannot be scored', async () => {
    const score = (context: string, continuation: string, maxLength?: number) =>
      encodeContinuations(tokenizer, [{ context, continuation }], { maxLength })
    await assert.rejects(score('x', ''), ArgumentError)
    await assert.rejects(score('', ''), /adds no token/)
    await assert.rejects(score('x', 'yyyyyy', 3), /leaves no context/)
  })
})
