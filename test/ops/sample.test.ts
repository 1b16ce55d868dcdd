import assert from 'node:assert/strict'
import { it } from 'mocha'
import { sampleTokens, type SamplingOptions } from '../../lib/ops/sample.js'
import { Tensor } from '../../lib/tensor.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { assertFailsDevice } from '../failing-device.js'
import { goldenJson, goldenTensors } from '../golden-files.js'
import { philox, Random } from '../random.js'

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

/** The draw by its definition (src/cpu/sample.cc), in float64. */
function drawByDefinition(
  logits: Float32Array,
  { temperature = 1, topK = 0, topP = 1, seed = 0 }: SamplingOptions,
  sample: number,
  position: number,
): number {
  const most = Math.max(...logits)
  let kept = Array.from(logits.keys())
  const p = Float64Array.from(logits, (x) => Math.exp((x - most) / temperature))
  const sum = (of: readonly number[]) => of.reduce((total, i) => total + p[i], 0)
  if (topK > 0 || topP < 1) {
    kept.sort((a, b) => logits[b] - logits[a] || a - b)
    if (topK > 0) kept = kept.filter((i) => logits[i] >= logits[kept[topK - 1]])
    const goal = topP * sum(kept)
    let reached = 0
    if (topP < 1)
      kept = kept.filter((i) => {
        const stays = reached === 0 || reached < goal
        if (stays) reached += p[i]
        return stays
      })
  }
  const [x, y] = philox([position, sample, 0, 0x73616d70], seed, 0)
  const target = (x * 2 ** -32 + (y >>> 11) * 2 ** -53) * sum(kept)
  let running = 0
  return kept.find((i) => (running += p[i]) > target) ?? kept.at(-1)!
}

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
    // A fiber for each thread of each row: the emulator is slow at this, and is held to the definition below.
    const count = context.variant.kind === 'cuda-emulated' ? 50 : 1500
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

  it('draws the tokens of its definition, from vocabularies of any size', async () => {
    for (const size of [1, 61, 3001, 20_011]) {
      // Steps of 1/8, so that equals abound.
      const logits = new Random(size).normal(size, 2).map((x) => Math.round(x * 8) / 8)
      const settings: SamplingOptions[] = [
        {},
        { temperature: 0.6, topK: 40 },
        { topP: 0.9 },
        { temperature: 1.5, topK: 700, topP: 0.7 },
      ]
      for (const [seed, options] of settings.entries()) {
        const count = 6
        const bounded = { ...options, topK: Math.min(options.topK ?? 0, size), seed }
        const expected = Array.from({ length: count }, (_, i) =>
          drawByDefinition(logits, bounded, i, 5),
        )
        assert.deepEqual(await draw(logits, count, bounded), expected, JSON.stringify(bounded))
      }
    }
  })

  it('fails its device, not the process, for logits and settings that make no distribution', async () => {
    const cases: [number[], SamplingOptions, RegExp][] = [
      [[0, NaN, 1], {}, /logit.* nan/],
      [[0, Infinity, 1], { temperature: 0 }, /logit.* inf/],
      [[-Infinity, -Infinity], {}, /logit.* -inf/],
      [[0, 1], { temperature: -1 }, /temperature.* is -1/],
      [[0, 1], { temperature: NaN }, /temperature.* is -?nan/],
      [[0, 1], { topK: -3 }, /top_k.* is -3/],
      [[0, 1], { topP: 1.5 }, /top_p.* is 1.5/],
    ]
    for (const [logits, options, message] of cases)
      await assertFailsDevice(
        context,
        (device) => {
          sampleTokens(
            Tensor.from(device, logits, [1, logits.length]),
            Tensor.from(device, Int32Array.of(0)),
            Tensor.from(device, Int32Array.of(0)),
            options,
          )
        },
        message,
      )
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
