import assert from 'node:assert/strict'
import { it } from 'mocha'
import { sampleTokens, type SamplingOptions } from '../../lib/ops/sample.js'
import { Tensor } from '../../lib/tensor.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { goldenJson, goldenTensors } from '../golden-files.js'

interface Case {
  logits: string
  temperature?: number
  topK?: number
  topP?: number
  probabilities: string
  kept: number
}

const cases = goldenJson<Case[]>('sampling/cases.json')
const vectors = goldenTensors('sampling/vectors.safetensors')

forEachDevice('sampleTokens', (context) => {
  /** `count` draws from one row of logits, for as many samples. */
  const draw = async (
    logits: ArrayLike<number>,
    count: number,
    options: SamplingOptions,
    position = 5,
  ) => {
    const size = logits.length
    const rows = Float32Array.from({ length: count * size }, (_, i) => logits[i % size])
    const { tokens } = await evaluate(() => ({
      tokens: sampleTokens(
        Tensor.from(context.device, rows, [count, size]),
        Tensor.from(
          context.device,
          Int32Array.from({ length: count }, (_, i) => i),
        ),
        Tensor.from(context.device, new Int32Array(count).fill(position)),
        options,
      ),
    }))
    return Array.from(tokens)
  }

  it('draws with the golden probabilities, and never what top-k and top-p cut off', async () => {
    const count = 1500
    assert.ok(cases.length > 20)
    for (const [index, { logits, probabilities, kept, ...options }] of cases.entries()) {
      const expected = vectors.get(probabilities)!.values
      const tokens = await draw(vectors.get(logits)!.values, count, { ...options, seed: index })
      const counts = new Map<number, number>()
      for (const token of tokens) counts.set(token, (counts.get(token) ?? 0) + 1)
      // Pearson's statistic over the tokens that are expected five times, the others pooled.
      let [statistic, cells, rest, pooled] = [0, 0, count, count]
      for (let token = 0; token < expected.length; ++token) {
        const observed = counts.get(token) ?? 0
        if (expected[token] === 0) assert.equal(observed, 0, `case ${index} drew token ${token}`)
        const mean = count * expected[token]
        if (mean < 5) continue
        statistic += (observed - mean) ** 2 / mean
        rest -= observed
        pooled -= mean
        cells++
      }
      if (pooled >= 5) statistic += (rest - pooled) ** 2 / pooled
      // Of chi-squared with f degrees of freedom 1e-9 lies above f + 6 sqrt(2 f) + 24, for every f here.
      assert.ok(
        statistic < cells + 6 * Math.sqrt(2 * cells) + 24,
        `case ${index} (${JSON.stringify(options)}): ${statistic} over ${cells} tokens`,
      )
      assert.ok(counts.size <= kept)
    }
  })

  it('takes the most likely token at temperature 0', async () => {
    for (const { logits } of cases.slice(0, 5)) {
      const { values } = vectors.get(logits)!
      const best = values.indexOf(Math.max(...values))
      assert.deepEqual(await draw(values, 3, { temperature: 0 }), [best, best, best])
      assert.deepEqual(await draw(values, 3, { topK: 1 }), [best, best, best])
    }
  })

  it('depends on seed, sample and position, and not on the neighbours', async () => {
    const logits = new Float32Array(61)
    const first = await draw(logits, 40, { seed: 3 })
    assert.deepEqual(await draw(logits, 40, { seed: 3 }), first)
    assert.deepEqual(await draw(logits, 7, { seed: 3 }), first.slice(0, 7))
    assert.notDeepEqual(await draw(logits, 40, { seed: 4 }), first)
    assert.notDeepEqual(await draw(logits, 40, { seed: 3 }, 6), first)
    assert.ok(new Set(first).size > 10)
  })
})
