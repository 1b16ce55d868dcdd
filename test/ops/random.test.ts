import assert from 'node:assert/strict'
import { it } from 'mocha'
import { type Distribution, random } from '../../lib/ops/random.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, unitRoundoff } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { randomWord } from '../random.js'

const seed = 0xfedc_ba98_7654_3211n
const subsequence = 0x1_0000_0007n

/** 24 bits of a word, from 0 to below 1. */
const unit = (word: number) => (word >>> 8) * 2 ** -24

forEachDevice('random', (context) => {
  const draw = (distribution: Distribution, size: number, sequence = subsequence) =>
    evaluate(() => {
      const y = Tensor.empty(context.device, [size])
      random(y, distribution, seed, sequence)
      return { y }
    })

  for (const size of [1, 5, 10_003]) {
    it(`draws ${size} uniform numbers by the Philox numbering`, async () => {
      const { y } = await draw({ kind: 'uniform', low: -0.25, high: 1.5 }, size)
      const expected = Float64Array.from(
        { length: size },
        (_, i) => -0.25 + 1.75 * unit(randomWord(seed, subsequence, i)),
      )
      assertClose(y, expected, 2 * unitRoundoff)
      for (const value of y) assert.ok(value >= -0.25 && value < 1.5)
    })

    it(`draws ${size} normal numbers in pairs by the Philox numbering`, async () => {
      const { y } = await draw({ kind: 'normal', mean: 0.5, deviation: 2 }, size)
      // Box and Muller 1958.
      const expected = Float64Array.from({ length: size }, (_, i) => {
        const [a, b] = [i & ~1, i | 1].map((j) => randomWord(seed, subsequence, j))
        const radius = Math.sqrt(-2 * Math.log(unit(a) + 2 ** -24))
        const angle = 2 * Math.PI * unit(b)
        return 0.5 + 2 * radius * (i % 2 === 0 ? Math.cos(angle) : Math.sin(angle))
      })
      assertClose(y, expected, 4 * unitRoundoff)
    })
  }

  it('has the moments of its distribution, and no two subsequences alike', async () => {
    const size = 20_000
    const { y } = await draw({ kind: 'normal', mean: 0, deviation: 1 }, size)
    const { y: other } = await draw({ kind: 'normal', mean: 0, deviation: 1 }, size, 8n)
    const mean = (f: (a: number, b: number) => number) =>
      y.reduce((sum, value, i) => sum + f(value, other[i]), 0) / size
    // Five standard errors each.
    assert.ok(Math.abs(mean((a) => a)) < 5 / Math.sqrt(size))
    assert.ok(Math.abs(mean((a) => a * a) - 1) < 5 * Math.sqrt(2 / size))
    assert.ok(Math.abs(mean((a, b) => a * b)) < 5 / Math.sqrt(size))
  })
})
