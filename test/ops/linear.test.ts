import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { type DeviceContext, forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { assertSameAtAnyThreads } from '../threads.js'
import { LinearCase, type LinearOptions, type LinearSizes } from './linear-case.js'
import { centralDifferences, combine, roundToBfloat16 } from './reference.js'

const small: Record<string, LinearSizes> = {
  'one layer': { numTokens: 5, inFeatures: 7, outFeatures: [3], ranks: null },
  'one token': { numTokens: 1, inFeatures: 37, outFeatures: [19], ranks: [3], residual: true },
  'three layers with updates on two': {
    numTokens: 9,
    inFeatures: 23,
    outFeatures: [17, 6, 11],
    ranks: [4, null, 3],
    bias: true,
  },
  'three layers with dropout, biases and a residual': {
    numTokens: 11,
    inFeatures: 29,
    outFeatures: [13, 5, 8],
    ranks: [2, 5, 1],
    bias: true,
    residual: true,
    dropout: 0.3,
  },
}

// Beyond every tile: 256 steps of k in a packed block, 384 rows and columns in a task.
const large: LinearSizes = {
  numTokens: 401,
  inFeatures: 269,
  outFeatures: [391, 33],
  ranks: [17, 9],
  bias: true,
  residual: true,
  dropout: 0.1,
}

// CUDA takes a narrow side whole, 64 of its columns a block and 512 rows or more of x^T w, and copies three steps ahead.
const narrow: Record<string, LinearSizes> = {
  'more rows than are summed at once': {
    numTokens: 1100,
    inFeatures: 150,
    outFeatures: [302],
    ranks: [20],
    dropout: 0.1,
  },
  'a rank beyond one block': { numTokens: 37, inFeatures: 301, outFeatures: [260], ranks: [70] },
}

const cases = new Map(
  Object.entries({ ...small, 'beyond one tile': large, ...narrow }).map(([title, sizes], i) => [
    title,
    new LinearCase(sizes, 300 + i),
  ]),
)

// Worked out once for all devices.
const expected = new Map<string, ReturnType<typeof reference>>()
function reference(title: string) {
  const one = cases.get(title)!
  return { outputs: one.forward(), gradients: one.backward() }
}
function referenceOf(title: string) {
  const known = expected.get(title) ?? reference(title)
  expected.set(title, known)
  return known
}

describe('the float64 reference of linear', () => {
  for (const title of Object.keys(small))
    it(`has the gradients that central differences give: ${title}`, () => {
      const one = cases.get(title)!
      const differences = centralDifferences(
        (values) => one.forward(values),
        one.values,
        one.cotangents,
      )
      const analytic = one.backward()
      assert.deepEqual(Object.keys(analytic).sort(), Object.keys(differences).sort())
      for (const [name, gradient] of Object.entries(analytic))
        assertClose(gradient, differences[name], 1e-8, name)
    })
})

/** Runs a case and reads everything. */
async function run(
  one: LinearCase,
  device: Parameters<LinearCase['run']>[0],
  options?: LinearOptions,
) {
  const names: string[] = []
  const read = await evaluate(() => {
    const { outputs, gradients } = one.run(device, options)
    names.push(...Object.keys(gradients))
    return { ...gradients, ...Object.fromEntries(outputs.map((y, i) => [`y${i}`, y])) }
  })
  const outputs = one.sizes.outFeatures.map((_, i) => read[`y${i}`])
  return { outputs, gradients: Object.fromEntries(names.map((name) => [name, read[name]])) }
}

forEachDevice('linear', (context) => {
  for (const [title, one] of cases) {
    const { numTokens, inFeatures, outFeatures } = one.sizes
    // Forward: a chain over the inputs and ranks. dX: over all outputs. Weight gradients: over the rows.
    const numRanks = one.rankScale.length
    const tolerances = {
      forward: roundingTolerance(inFeatures + numRanks),
      data: roundingTolerance(outFeatures.reduce((sum, out) => sum + out, numRanks)),
      weight: roundingTolerance(numTokens + inFeatures),
    }

    for (const trainsBase of [false, true])
      it(`agrees with float64${trainsBase ? ' where everything is trained' : ''}: ${title}`, async () => {
        const { outputs, gradients } = await run(one, context.device, { trainsBase })
        const float64 = referenceOf(title)
        outputs.forEach((y, i) =>
          assertClose(y, float64.outputs[i], tolerances.forward, `y of layer ${i}`),
        )
        assert.deepEqual(
          Object.keys(gradients).sort(),
          Object.keys(float64.gradients)
            .filter((name) => trainsBase || !/^(w|bias)\d/.test(name))
            .sort(),
        )
        for (const [name, gradient] of Object.entries(gradients)) {
          const exact = float64.gradients[name]
          if (name === 'x') assertClose(gradient, exact, tolerances.data, name)
          else if (name === 'residual') assert.deepEqual(gradient, one.cotangents[0])
          else {
            // The rules add to what the buffers held.
            const sum = combine((a, b) => a + b, exact, one.initialGradients[name])
            assertClose(gradient, sum, tolerances.weight, `gradient of ${name}`)
          }
        }
      })
  }

  it('drops what the Philox numbering says, and keeps the rest scaled', async () => {
    // A and B are identities, the base is zero: y is dropout(x) itself.
    const size = 41
    const one = new LinearCase(
      { numTokens: 67, inFeatures: size, outFeatures: [size], ranks: [size], dropout: 0.37 },
      5,
    )
    const identity = Float32Array.from({ length: size * size }, (_, i) => (i % (size + 1) ? 0 : 1))
    one.values.a.set(identity)
    one.values.b0.set(identity)
    one.values.w0.fill(0)
    one.rankScale.fill(1)
    const { outputs, gradients } = await run(one, context.device)
    const dropped = Float32Array.from(one.values.x, (x, i) => x * one.mask[i])
    assertClose(outputs[0], dropped, 0)
    const kept = one.mask.filter((factor) => factor > 0).length / one.mask.length
    // 2747 draws: five standard deviations are 0.046.
    assert.ok(Math.abs(kept - 0.63) < 0.046, `kept ${kept}`)
    // The same mask on the way back.
    const back = Float32Array.from(one.cotangents[0], (dy, i) => dy * one.mask[i])
    assertClose(gradients.x, back, 0)
  })

  it('keeps no dropout in a pass without it', async () => {
    const one = cases.get('three layers with dropout, biases and a residual')!
    const mask = new Float64Array(one.mask.length).fill(1)
    const { outputs } = await run(one.with({ dropoutRows: () => null }), context.device)
    one
      .with({ mask })
      .forward()
      .forEach((y, i) => assertClose(outputs[i], y, roundingTolerance(40), `y of layer ${i}`))
  })

  it('leaves out layers that no gradient reaches, and an input that wants none', async () => {
    const one = cases.get('three layers with dropout, biases and a residual')!
    const { gradients } = await run(one, context.device, { unreached: [0, 2], trainsBase: true })
    const silent = one.cotangents.map((dy, i) => (i === 1 ? dy : new Float32Array(dy.length)))
    const exact = one.backward(silent)
    assert.equal(gradients.residual, undefined)
    for (const [name, gradient] of Object.entries(gradients)) {
      const initial = name === 'x' ? new Float64Array(gradient.length) : one.initialGradients[name]
      const sum = combine((a, b) => a + b, exact[name], initial)
      assertClose(gradient, sum, roundingTolerance(64), `gradient of ${name}`)
    }
    const untracked = await run(one, context.device, { tracksInput: false })
    const tracked = await run(one, context.device)
    assert.deepEqual(Object.keys(untracked.gradients).sort(), ['a', 'b0', 'b1', 'b2'])
    for (const name of ['a', 'b0', 'b1', 'b2'])
      assertSameBits(untracked.gradients[name], tracked.gradients[name], name)
  })

  it('adds its gradient of x to what has reached x before', async () => {
    for (const title of ['one layer', 'three layers with dropout, biases and a residual']) {
      const one = cases.get(title)!
      const bypass = one.values.x.map((value) => 3 * value)
      const { gradients } = await run(one, context.device, { bypass })
      const sum = combine((a, b) => a + b, referenceOf(title).gradients.x, bypass)
      assertClose(gradients.x, sum, roundingTolerance(64), title)
    }
  })

  it('computes with the stored bf16 weights in float32', async () => {
    for (const title of ['three layers with updates on two', 'beyond one tile']) {
      const one = cases.get(title)!
      const rounded = one.with({ values: { ...one.values } })
      one.sizes.outFeatures.forEach((_, i) => {
        rounded.values[`w${i}`] = Float32Array.from(roundToBfloat16(one.values[`w${i}`]))
      })
      const narrow = await run(one, context.device, { storage: 'bf16' })
      const wide = await run(rounded, context.device, { storage: 'f32' })
      narrow.outputs.forEach((y, i) => assertSameBits(y, wide.outputs[i], `y of layer ${i}`))
      for (const [name, gradient] of Object.entries(narrow.gradients))
        assertSameBits(gradient, wide.gradients[name], name)
    }
  })

  itKeepsBits(context, 'f32')
})

forEachDevice(
  'linear, computing in bf16',
  (context) => {
    const bf16 = { storage: 'bf16', compute: 'bf16' } as const

    it('rounds both operands of the base products', async () => {
      for (const title of [
        'one layer',
        'three layers with updates on two',
        'beyond one tile',
        'a rank beyond one block',
      ]) {
        const one = cases.get(title)!
        const float64 = referenceOf(title)
        const { outputs, gradients } = await run(one, context.device, {
          ...bf16,
          trainsBase: true,
        })
        // Each product of two rounded operands is off by 2^-8 at most and by a third of it on average; relative to the
        // largest of many sums of independent terms that stays below 2^-8.
        outputs.forEach((y, i) => assertClose(y, float64.outputs[i], 2 ** -8, `y of layer ${i}`))
        for (const [name, gradient] of Object.entries(gradients)) {
          const exact = float64.gradients[name]
          // The rules of what is trained add to what the buffers held.
          const adds = name !== 'x' && name !== 'residual'
          const wanted = adds ? combine((a, b) => a + b, exact, one.initialGradients[name]) : exact
          assertClose(gradient, wanted, 2 ** -8, `gradient of ${name}`)
        }
        if (title !== 'one layer') continue
        // Here all terms are known: the products of bf16 are exact in float32.
        const { numTokens, inFeatures, outFeatures } = one.sizes
        const [x, w] = [roundToBfloat16(one.values.x), roundToBfloat16(one.values.w0)]
        const plain = new LinearCase({ numTokens, inFeatures, outFeatures, ranks: null }, 1)
        const y = plain.forward({ x, w0: w })
        assertClose(outputs[0], y[0], roundingTolerance(inFeatures), 'y of rounded operands')
      }
    })

    itKeepsBits(context, 'bf16')
  },
  { onEveryTier: true },
)

/** The promises of bits, whatever the products compute in. */
function itKeepsBits(context: DeviceContext, compute: 'f32' | 'bf16'): void {
  const options = { compute, storage: compute }

  it(`has the same bits at any number of threads, computing in ${compute}`, () =>
    assertSameAtAnyThreads(context, async (device) => {
      const one = cases.get('beyond one tile')!
      const { outputs, gradients } = await run(one, device, { ...options, trainsBase: true })
      return { ...gradients, y0: outputs[0], y1: outputs[1] }
    }))

  it(`gives a row the same bits whatever rows are with it, computing in ${compute}`, async () => {
    const one = new LinearCase(
      { ...large, numTokens: 97, inFeatures: 131, outFeatures: [75, 18] },
      8,
    )
    const whole = await run(one, context.device, options)
    for (const [begin, end] of [
      [0, 1],
      [96, 97],
      [40, 42],
      [1, 8],
      [3, 20],
      [11, 76],
      [0, 96],
    ]) {
      const part = await run(one.rows(begin, end), context.device, options)
      const cut = (values: Float32Array) => {
        const columns = values.length / 97
        return values.slice(begin * columns, end * columns)
      }
      const label = `rows ${begin} to ${end}`
      part.outputs.forEach((y, i) => assertSameBits(y, cut(whole.outputs[i]), label))
      assertSameBits(part.gradients.x, cut(whole.gradients.x), `dx, ${label}`)
    }
  })
}
