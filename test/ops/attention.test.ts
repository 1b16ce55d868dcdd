import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import type { Device } from '../../lib/device.js'
import { DeviceError } from '../../lib/errors.js'
import { attention, attentionCached, type KeyValueCache } from '../../lib/ops/attention.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { assertSameAtAnyThreads } from '../threads.js'
import {
  attention as reference,
  attentionBackward,
  type AttentionSizes,
  centralDifferences,
  roundToBfloat16,
} from './reference.js'
import { forwardBackward, forwardPass } from './tape.js'

class AttentionCase {
  readonly sizes: AttentionSizes
  readonly cuSeqlens: Int32Array
  readonly numTokens: number
  readonly inputs: Record<'q' | 'k' | 'v', Float32Array>
  readonly cotangent: Float32Array
  memory: { backward?: ReturnType<typeof attentionBackward> } = {}

  constructor(lengths: readonly number[], sizes: AttentionSizes, seed: number) {
    const { numHeads, numKeyValueHeads, headDim } = sizes
    this.sizes = sizes
    let total = 0
    this.cuSeqlens = Int32Array.of(0, ...lengths.map((length) => (total += length)))
    this.numTokens = total
    const random = new Random(seed)
    const [queries, keys] = [numHeads, numKeyValueHeads].map((heads) => total * heads * headDim)
    this.inputs = {
      q: random.normal(queries, 1.5),
      k: random.normal(keys, 1.5),
      v: random.normal(keys),
    }
    this.cotangent = random.normal(queries)
  }

  forward({ q, k, v }: Record<'q' | 'k' | 'v', ArrayLike<number>> = this.inputs): Float64Array {
    return reference(q, k, v, this.cuSeqlens, this.sizes)
  }

  backward() {
    const { q, k, v } = this.inputs
    return (this.memory.backward ??= attentionBackward(
      q,
      k,
      v,
      this.cotangent,
      this.cuSeqlens,
      this.sizes,
    ))
  }

  /** Sequences first … last - 1 alone. */
  sequences(first: number, last: number): AttentionCase {
    const [begin, end] = [this.cuSeqlens[first], this.cuSeqlens[last]]
    const lengths = Array.from(
      { length: last - first },
      (_, i) => this.cuSeqlens[first + i + 1] - this.cuSeqlens[first + i],
    )
    const part = new AttentionCase(lengths, this.sizes, 0)
    for (const name of ['q', 'k', 'v'] as const)
      part.inputs[name].set(this.rows(this.inputs[name], begin, end))
    part.cotangent.set(this.rows(this.cotangent, begin, end))
    return part
  }

  rows(values: Float32Array, begin: number, end: number): Float32Array {
    const columns = values.length / this.numTokens
    return values.slice(begin * columns, end * columns)
  }

  /** The same case with inputs that bf16 holds exactly. */
  rounded(): AttentionCase {
    const rounded = new AttentionCase([], this.sizes, 0)
    const round = (values: Float32Array) => Float32Array.from(roundToBfloat16(values))
    const { q, k, v } = this.inputs
    return Object.assign(rounded, this, {
      inputs: { q: round(q), k: round(k), v: round(v) },
      cotangent: round(this.cotangent),
      memory: {},
    })
  }

  async run(device: Device, compute: 'f32' | 'bf16' = 'f32') {
    return evaluate(() => {
      const [q, k, v] = Object.values(this.inputs).map((values) =>
        Tensor.from(device, values, [this.numTokens, values.length / Math.max(this.numTokens, 1)]),
      )
      const cuSeqlens = Tensor.from(device, this.cuSeqlens)
      const { outputs, gradients } = forwardBackward(
        device,
        [q, k, v],
        (pass) => [attention(pass, q, k, v, cuSeqlens, { ...this.sizes, compute })],
        [this.cotangent],
      )
      return { o: outputs[0], dq: gradients[0]!, dk: gradients[1]!, dv: gradients[2]! }
    })
  }
}

const small = {
  'grouped heads, sequences of length 0 and 1': new AttentionCase(
    [4, 0, 1, 7, 1, 0, 3],
    { numHeads: 4, numKeyValueHeads: 2, headDim: 6 },
    41,
  ),
  'one key-value head, heads of 10': new AttentionCase(
    [9, 2],
    { numHeads: 3, numKeyValueHeads: 1, headDim: 10 },
    42,
  ),
  'as many key-value heads, heads of 2': new AttentionCase(
    [13],
    { numHeads: 3, numKeyValueHeads: 3, headDim: 2 },
    43,
  ),
}

const cases = {
  ...small,
  'sequences beyond one tile, heads of 18': new AttentionCase(
    [131, 1, 67, 0, 200],
    { numHeads: 6, numKeyValueHeads: 2, headDim: 18 },
    44,
  ),
  'heads of 64': new AttentionCase([70, 33], { numHeads: 2, numKeyValueHeads: 1, headDim: 64 }, 45),
  'heads of 128': new AttentionCase([133], { numHeads: 2, numKeyValueHeads: 1, headDim: 128 }, 49),
  'heads of 130': new AttentionCase(
    [3, 67],
    { numHeads: 2, numKeyValueHeads: 2, headDim: 130 },
    50,
  ),
}

describe('the float64 reference of attention', () => {
  for (const [title, one] of Object.entries(small))
    it(`has the gradients that central differences give: ${title}`, () => {
      const differences = centralDifferences((values) => [one.forward(values)], one.inputs, [
        one.cotangent,
      ])
      const { dq, dk, dv } = one.backward()
      assertClose(dq, differences.q, 1e-7, 'dq')
      assertClose(dk, differences.k, 1e-7, 'dk')
      assertClose(dv, differences.v, 1e-7, 'dv')
    })
})

forEachDevice('attention', (context) => {
  for (const [title, one] of Object.entries(cases))
    it(`and its gradients agree with float64: ${title}`, async () => {
      const { o, dq, dk, dv } = await one.run(context.device)
      // Scores of up to 10 in size, whose errors the exponential passes on as they are: ten times the error of the
      // sums over the head and over the sequence.
      const longest = Math.max(...one.cuSeqlens.slice(1).map((end, i) => end - one.cuSeqlens[i]))
      const tolerance = 10 * roundingTolerance(one.sizes.headDim + longest)
      assertClose(o, one.forward(), tolerance, 'o')
      const exact = one.backward()
      assertClose(dq, exact.dq, tolerance, 'dq')
      assertClose(dk, exact.dk, tolerance, 'dk')
      assertClose(dv, exact.dv, tolerance, 'dv')
    })

  for (const [title, exact] of Object.entries(cases))
    it(`and its gradients agree with float64, operands in bf16: ${title}`, async () => {
      const one = exact.rounded()
      const { o, dq, dk, dv } = await one.run(context.device, 'bf16')
      // The inputs are exact. Probabilities are rounded, by 2^-9 of themselves, and so are the gradients of the scores,
      // whose sums keep that as a random walk: 4 for the largest of many elements. o's first rows are v's, so that it
      // is as large as v.
      assertClose(o, one.forward(), 2 ** -8, 'o')
      const { dq: expectedDq, dk: expectedDk, dv: expectedDv } = one.backward()
      assertClose(dq, expectedDq, 2 ** -7, 'dq')
      assertClose(dk, expectedDk, 2 ** -7, 'dk')
      assertClose(dv, expectedDv, 2 ** -7, 'dv')
    })

  for (const compute of ['f32', 'bf16'] as const)
    it(`gives a sequence the same bits alone and packed, forward and backward, in ${compute}`, async () => {
      const one = cases['sequences beyond one tile, heads of 18']
      const whole = await one.run(context.device, compute)
      for (const [first, last] of [
        [0, 1],
        [1, 2],
        [2, 3],
        [4, 5],
        [1, 4],
      ]) {
        const [begin, end] = [one.cuSeqlens[first], one.cuSeqlens[last]]
        const part = await one.sequences(first, last).run(context.device, compute)
        for (const name of ['o', 'dq', 'dk', 'dv'] as const)
          assertSameBits(
            part[name],
            one.rows(whole[name], begin, end),
            `${name} of sequences ${first} to ${last}`,
          )
      }
    })

  it('gives a row the same bits whatever comes after it', async () => {
    const one = cases['sequences beyond one tile, heads of 18']
    const { numHeads, headDim } = one.sizes
    for (const compute of ['f32', 'bf16'] as const) {
      const whole = await one.sequences(4, 5).run(context.device, compute)
      for (const length of [1, 64, 130]) {
        const part = new AttentionCase([length], one.sizes, 0)
        for (const name of ['q', 'k', 'v'] as const)
          part.inputs[name].set(
            one.inputs[name].subarray(
              (one.cuSeqlens[4] * part.inputs[name].length) / length,
              ((one.cuSeqlens[4] + length) * part.inputs[name].length) / length,
            ),
          )
        const { o } = await part.run(context.device, compute)
        assertSameBits(o, whole.o.slice(0, length * numHeads * headDim), `${compute}, ${length}`)
      }
    }
  })

  it('has the same bits at any number of threads', () =>
    assertSameAtAnyThreads(context, (device) =>
      cases['sequences beyond one tile, heads of 18'].run(device),
    ))

  it('takes scores that overflow a float32 exponential', async () => {
    const one = new AttentionCase([5], { numHeads: 2, numKeyValueHeads: 1, headDim: 4 }, 46)
    for (let i = 0; i < one.inputs.q.length; ++i) one.inputs.q[i] *= 60
    for (let i = 0; i < one.inputs.k.length; ++i) one.inputs.k[i] *= 60
    const { o } = await one.run(context.device)
    // Scores of some thousands carry errors of 1e-3; what is far below the largest vanishes.
    assertClose(o, one.forward(), 4e-3)
  })

  it('of no tokens is empty', async () => {
    const one = new AttentionCase([0, 0], { numHeads: 2, numKeyValueHeads: 1, headDim: 4 }, 47)
    const { o, dk } = await evaluate(() => {
      const [q, k, v] = [8, 4, 4].map((width) => Tensor.empty(context.device, [0, width]))
      const cuSeqlens = Tensor.from(context.device, one.cuSeqlens)
      const { outputs, gradients } = forwardBackward(
        context.device,
        [q, k, v],
        (pass) => [attention(pass, q, k, v, cuSeqlens, one.sizes)],
        [new Float32Array(0)],
      )
      return { o: outputs[0], dk: gradients[1]! }
    })
    assert.equal(o.length + dk.length, 0)
  })

  it('fails the queue, not the process, for cumulative lengths that are not', async () => {
    const sizes = { numHeads: 2, numKeyValueHeads: 2, headDim: 4 }
    for (const bad of [
      [0, 3, 2, 5],
      [1, 5],
      [0, 4],
      [0, 6],
      [0, -1, 5],
      [0, 2 ** 31 - 1, 5],
    ]) {
      const device = context.open()
      await assert.rejects(
        evaluate(() => {
          const [q, k, v] = [1, 2, 3].map(() => Tensor.zeros(device, [5, 8]))
          const cuSeqlens = Tensor.from(device, Int32Array.from(bad))
          return { o: attention(forwardPass(device), q, k, v, cuSeqlens, sizes) }
        }),
        DeviceError,
        bad.join(),
      )
      await device.close()
    }
  })
})

forEachDevice('attentionCached', (context) => {
  const sizes = { numHeads: 6, numKeyValueHeads: 2, headDim: 10 }

  /** Feeds sequences in steps: step i holds how many more rows of which sequence. */
  async function feed(
    one: AttentionCase,
    steps: readonly (readonly [sequence: number, rows: number][])[],
  ): Promise<Float32Array> {
    const { device } = context
    const { sizes } = one
    const lengths = Array.from(one.cuSeqlens.slice(1), (end, i) => end - one.cuSeqlens[i])
    const done = lengths.map(() => 0)
    const o = new Float32Array(one.inputs.q.length)
    const width = sizes.numHeads * sizes.headDim
    const cacheShape = [lengths.length, Math.max(...lengths), sizes.numKeyValueHeads, sizes.headDim]
    const cache: KeyValueCache = {
      // NaN: what has not been appended must not be read.
      keys: Tensor.full(device, cacheShape, NaN),
      values: Tensor.full(device, cacheShape, NaN),
    }
    try {
      for (const step of steps) {
        const rows = step.flatMap(([sequence, count]) =>
          Array.from({ length: count }, () => ({ sequence, position: done[sequence]++ })),
        )
        const source = rows.map(({ sequence, position }) => one.cuSeqlens[sequence] + position)
        const { part } = await evaluate(() => {
          const [q, k, v] = Object.values(one.inputs).map((values) => {
            const columns = values.length / one.numTokens
            const data = source.flatMap((row) =>
              Array.from(values.slice(row * columns, (row + 1) * columns)),
            )
            return Tensor.from(device, Float32Array.from(data), [rows.length, columns])
          })
          const [rowSequence, rowPosition] = (['sequence', 'position'] as const).map((key) =>
            Tensor.from(
              device,
              Int32Array.from(rows, (row) => row[key]),
            ),
          )
          return {
            part: attentionCached(
              forwardPass(device),
              q,
              k,
              v,
              cache,
              rowSequence,
              rowPosition,
              sizes,
            ),
          }
        })
        source.forEach((row, i) => o.set(part.subarray(i * width, (i + 1) * width), row * width))
      }
    } finally {
      cache.keys.release()
      cache.values.release()
    }
    return o
  }

  it('agrees with attention over the whole sequences, however they are fed', async () => {
    const lengths = [9, 1, 70, 33]
    const one = new AttentionCase(lengths, sizes, 48)
    const whole = await feed(one, [lengths.map((length, sequence) => [sequence, length])])
    const tolerance = 10 * roundingTolerance(80)
    assertClose(whole, one.forward(), tolerance, 'prefill')
    // Prompts of three sequences, then one token at a time, two at a time for one of them, the last sequence later.
    const steps: [number, number][][] = [
      [
        [2, 41],
        [0, 3],
        [1, 1],
      ],
    ]
    for (let i = 0; i < 6; ++i)
      steps.push([[0, 1], [2, 2], ...(i === 3 ? [[3, 30] as [number, number]] : [])])
    steps.push(
      [
        [2, 17],
        [3, 1],
      ],
      [[3, 2]],
    )
    const pieces = await feed(one, steps)
    assertClose(pieces, one.forward(), tolerance, 'in pieces')
    // A row's bits depend on no other row of its pass.
    assertSameBits(pieces, whole)
  })

  // One size for each width of tile that CUDA has beyond the first.
  for (const headDim of [64, 128, 130])
    it(`agrees with attention over the whole sequences, heads of ${headDim}`, async () => {
      const one = new AttentionCase([37, 3], { numHeads: 2, numKeyValueHeads: 1, headDim }, 52)
      const whole = await feed(one, [
        [
          [0, 37],
          [1, 3],
        ],
      ])
      assertClose(whole, one.forward(), 10 * roundingTolerance(37 + headDim), 'prefill')
      const pieces = await feed(one, [
        [[0, 35]],
        [
          [0, 1],
          [1, 3],
        ],
        [[0, 1]],
      ])
      assertSameBits(pieces, whole)
    })

  it('has the same bits for a long sequence as a whole and token by token', async () => {
    const one = new AttentionCase([531, 6], { ...sizes, headDim: 4 }, 51)
    const whole = await feed(one, [
      [
        [0, 531],
        [1, 6],
      ],
    ])
    assertClose(whole, one.forward(), 10 * roundingTolerance(535), 'as a whole')
    const pieces = await feed(one, [
      [[0, 254]],
      [[0, 1]],
      [
        [0, 1],
        [1, 5],
      ],
      [
        [0, 1],
        [1, 1],
      ],
      [[0, 254]],
      [[0, 1]],
      [[0, 19]],
    ])
    assertSameBits(pieces, whole)
  })
})
