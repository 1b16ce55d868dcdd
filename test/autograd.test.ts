import assert from 'node:assert/strict'
import { it } from 'mocha'
import { checkpoint, type Rule, Tape } from '../lib/autograd.js'
import type { Device } from '../lib/device.js'
import { ArgumentError } from '../lib/errors.js'
import { add } from '../lib/ops/add.js'
import { linear } from '../lib/ops/linear.js'
import type { Pass } from '../lib/ops/pass.js'
import { rmsNorm } from '../lib/ops/rms-norm.js'
import { swiglu } from '../lib/ops/swiglu.js'
import type { Parameter } from '../lib/parameter.js'
import { Scope, scope } from '../lib/scope.js'
import { Tensor } from '../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from './compare.js'
import { forEachDevice } from './devices.js'
import { evaluate } from './evaluate.js'
import { makeWeight } from './ops/linear-case.js'
import {
  centralDifferences,
  combine,
  productNT,
  rmsNorm as rmsNormReference,
  swiglu as swigluReference,
} from './ops/reference.js'
import { trainedParameter } from './ops/tape.js'
import { Random } from './random.js'

const [numTokens, width, inner] = [7, 13, 19]
const epsilon = 1e-5

/** The values of a pre-norm block: y = x + down(swiglu(gate(norm(x)), up(norm(x)))). */
function blockValues(seed: number) {
  const random = new Random(seed)
  return {
    norm: random.normal(width, 0.2, 1),
    gate: random.normal(inner * width, 0.4),
    up: random.normal(inner * width, 0.4),
    down: random.normal(width * inner, 0.4),
  }
}
type BlockValues = Record<keyof ReturnType<typeof blockValues>, ArrayLike<number>>

function blockReference(x: ArrayLike<number>, { norm, gate, up, down }: BlockValues): Float64Array {
  const normed = rmsNormReference(x, norm, epsilon)
  const [g, u] = [gate, up].map((w) => productNT(normed, w, numTokens, inner, width))
  const y = productNT(swigluReference(g, u), down, numTokens, width, inner)
  return combine((a, b) => a + b, x, y)
}

/** A block on a device; its norm is trained. Scoped, but for the weights. */
class Block {
  readonly norm: Parameter
  readonly #layers

  constructor(device: Device, values: ReturnType<typeof blockValues>) {
    this.norm = trainedParameter(device, values.norm, [width], new Float32Array(width))
    const layer = (name: 'gate' | 'up' | 'down', rows: number, columns: number) => ({
      matrix: { name, weight: makeWeight(device, values[name], rows, columns), master: null },
      bias: null,
    })
    this.#layers = {
      gate: layer('gate', inner, width),
      up: layer('up', inner, width),
      down: layer('down', width, inner),
    }
  }

  forward(pass: Pass, x: Tensor): Tensor {
    return scope((keep) => {
      const normed = rmsNorm(pass, x, this.norm, epsilon)
      const { gate, up, down } = this.#layers
      const [g, u] = linear(pass, normed, [gate, up])
      return keep(linear(pass, swiglu(pass, g, u), [down], null, x)[0])
    })
  }

  dispose(): void {
    for (const { matrix } of Object.values(this.#layers)) matrix.weight.dispose()
  }
}

/** Runs x through the blocks in turn on one tape, gives the result its cotangent, and walks back. */
function throughBlocks(
  device: Device,
  values: readonly ReturnType<typeof blockValues>[],
  input: Float32Array,
  cotangent: Float32Array,
  checkpointing: boolean,
) {
  return evaluate<string>(() => {
    const blocks = values.map((one) => new Block(device, one))
    using tape = new Tape()
    try {
      const x = Tensor.from(device, input, [numTokens, width])
      tape.track(x)
      let y = x
      for (const block of blocks)
        y = checkpointing
          ? checkpoint(tape, y, (inner, z) =>
              block.forward({ device, tape: inner, dropout: null }, z),
            )
          : block.forward({ device, tape, dropout: null }, y)
      tape.accumulate(y, Tensor.from(device, cotangent, y.shape))
      tape.backward()
      const gradients: Record<string, Tensor> = { dx: tape.takeGradient(x)! }
      blocks.forEach(({ norm }, i) => (gradients[`dNorm${i}`] = norm.gradient!))
      return { y, ...gradients }
    } finally {
      for (const block of blocks) block.dispose()
    }
  })
}

forEachDevice('Tape', (context) => {
  const random = new Random(500)
  const x = random.normal(numTokens * width)
  const cotangent = random.normal(numTokens * width)
  const values = [blockValues(501), blockValues(502), blockValues(503)]

  it('carries gradients through blocks with residual streams, as float64 has them', async () => {
    const result = await throughBlocks(context.device, values, x, cotangent, false)
    const reference = (inputs: Record<string, Float64Array>) => {
      let y = inputs.x
      values.forEach((one, i) => (y = blockReference(y, { ...one, norm: inputs[`norm${i}`] })))
      return [y]
    }
    const inputs: Record<string, Float32Array> = { x }
    values.forEach(({ norm }, i) => (inputs[`norm${i}`] = norm))
    const differences = centralDifferences(reference, inputs, [cotangent])
    // Three blocks of some ten chains each.
    const tolerance = 3 * roundingTolerance(width + inner)
    assertClose(result.dx, differences.x, tolerance, 'dx')
    values.forEach((_, i) =>
      assertClose(result[`dNorm${i}`], differences[`norm${i}`], tolerance, `norm ${i}`),
    )
  })

  it('has the same bits with activation checkpointing', async () => {
    const plain = await throughBlocks(context.device, values, x, cotangent, false)
    const checkpointed = await throughBlocks(context.device, values, x, cotangent, true)
    assert.deepEqual(Object.keys(checkpointed), Object.keys(plain))
    for (const [name, gradient] of Object.entries(plain))
      assertSameBits(checkpointed[name], gradient, name)
  })

  it('has them too where the input of a recomputed part is used again later', async () => {
    const { device } = context
    const run = (checkpointing: boolean) =>
      evaluate(() => {
        const block = new Block(device, values[0])
        using tape = new Tape()
        const input = Tensor.from(device, x, [numTokens, width])
        tape.track(input)
        const forward = (inner: Tape | null, z: Tensor) =>
          block.forward({ device, tape: inner, dropout: null }, z)
        const y = checkpointing ? checkpoint(tape, input, forward) : forward(tape, input)
        const z = swiglu({ device, tape, dropout: null }, y, input)
        tape.accumulate(z, Tensor.from(device, cotangent, z.shape))
        tape.backward()
        block.dispose()
        return { z, dx: tape.takeGradient(input)! }
      })
    const [plain, checkpointed] = [await run(false), await run(true)]
    assertSameBits(checkpointed.z, plain.z)
    assertSameBits(checkpointed.dx, plain.dx)
    const differences = centralDifferences(
      (inputs) => [swigluReference(blockReference(inputs.x, values[0]), inputs.x)],
      { x },
      [cotangent],
    )
    assertClose(plain.dx, differences.x, 2 * roundingTolerance(width + inner))
  })

  it('sums the gradients of a tensor that is used several times', async () => {
    const { device } = context
    const [a, b] = [random.normal(30), random.normal(30)]
    const dy = random.normal(30)
    const { da, db } = await evaluate(() => {
      using tape = new Tape()
      const pass: Pass = { device, tape, dropout: null }
      const [p, q] = [a, b].map((data) => Tensor.from(device, data, [5, 6]))
      tape.track(p)
      tape.track(q)
      // p and q as gate, p as gate and up at once, and the result once more as gate.
      const first = swiglu(pass, p, q)
      const second = swiglu(pass, first, swiglu(pass, p, p))
      tape.accumulate(second, Tensor.from(device, dy, [5, 6]))
      tape.accumulate(first, Tensor.from(device, dy, [5, 6]))
      tape.backward()
      return { da: tape.takeGradient(p)!, db: tape.takeGradient(q)! }
    })
    const differences = centralDifferences(
      ({ a, b }) => {
        const first = swigluReference(a, b)
        return [swigluReference(first, swigluReference(a, a)), first]
      },
      { a, b },
      [dy, dy],
    )
    assertClose(da, differences.a, roundingTolerance(32), 'da')
    assertClose(db, differences.b, roundingTolerance(32), 'db')
  })

  it('lets a rule take the gradient of its input, and fold it into its own', async () => {
    const { device } = context
    const { gradient, left } = await evaluate(() => {
      using tape = new Tape()
      const input = Tensor.from(device, [1, 2, 3])
      const output = Tensor.from(device, [0, 0, 0])
      tape.track(input)
      tape.record({
        inputs: [input],
        outputs: [output],
        saved: [],
        backward: ([dy], tape) => {
          const bypass = tape.takeGradient(input)!
          assert.equal(tape.takeGradient(input), null, 'a gradient is taken once')
          return [add(dy!, bypass, 10, 1)]
        },
      })
      tape.accumulate(input, Tensor.from(device, [100, 200, 300]))
      tape.accumulate(output, Tensor.from(device, [1, 2, 3]))
      tape.backward()
      const gradient = tape.takeGradient(input)!
      return { gradient, left: Tensor.from(device, [tape.takeGradient(input) ? 1 : 0]) }
    })
    assert.deepEqual(Array.from(gradient), [110, 220, 330])
    assert.equal(left[0], 0)
  })

  it('passes a gradient through to two inputs without freeing it twice', async () => {
    const { device } = context
    const { da, db } = await evaluate(() => {
      using tape = new Tape()
      const [a, b, y] = [1, 2, 3].map((value) => Tensor.from(device, [value]))
      tape.track(a)
      tape.track(b)
      const through: Rule = {
        inputs: [a, b],
        outputs: [y],
        saved: [],
        backward: ([dy]) => [dy, dy],
      }
      tape.record(through)
      tape.accumulate(y, Tensor.from(device, [7]))
      tape.backward()
      return { da: tape.takeGradient(a)!, db: tape.takeGradient(b)! }
    })
    assert.deepEqual([da[0], db[0]], [7, 7])
  })

  it('gives no gradient to what it does not track, and keeps nothing for it', async () => {
    const { device } = context
    const { dx } = await evaluate(() => {
      using tape = new Tape()
      const [a, b, y] = [1, 2, 3].map((value) => Tensor.from(device, [value]))
      tape.track(a)
      tape.record({ inputs: [a, b], outputs: [y], saved: [], backward: ([dy]) => [dy, dy] })
      tape.accumulate(y, Tensor.from(device, [5]))
      tape.backward()
      assert.equal(tape.takeGradient(b), null)
      assert.equal(tape.tracks(y), false, 'outputs are forgotten when their rule has run')
      return { dx: tape.takeGradient(a)! }
    })
    assert.equal(dx[0], 5)
  })

  it('refuses a rule with the wrong number of gradients', () => {
    scope(() => {
      using tape = new Tape()
      const [a, y] = [1, 2].map((value) => Tensor.from(context.device, [value]))
      tape.record({ inputs: [a], outputs: [y], saved: [], backward: () => [] })
      tape.accumulate(y, Tensor.from(context.device, [1]))
      assert.throws(() => {
        tape.backward()
      }, ArgumentError)
    })
    assert.equal(Scope.current, null)
  })

  it('frees activations while it walks back, and everything in the end', async () => {
    const { device } = context
    const size = 50_000
    const used = () => device.info.memoryUsed
    const start = used()
    const outer = new Scope()
    const tape = new Tape()
    const pass: Pass = { device, tape, dropout: null }
    const input = Tensor.zeros(device, [1, size])
    tape.track(input)
    const y = scope((keep) => {
      let y = input
      for (let i = 0; i < 8; ++i) y = swiglu(pass, y, input)
      return keep(y)
    })
    // The tape alone keeps the seven between.
    assert.ok(used() - start >= 9 * 4 * size)
    tape.accumulate(y, Tensor.zeros(device, [1, size]))
    tape.backward()
    await device.synchronize()
    // The input, its gradient, the result, and the cotangent, which the scope still owns.
    assert.ok(used() - start < 4.5 * 4 * size, `${used() - start} bytes`)
    tape.dispose()
    outer.end()
    assert.equal(used(), start)
  })

  it('keeps no output that no rule saves, and makes again what is cheap', async () => {
    const { device } = context
    const bytes = 4 * 60_000
    const used = () => device.info.memoryUsed
    const outer = new Scope()
    const tape = new Tape()
    const pass: Pass = { device, tape, dropout: null }
    const input = Tensor.from(
      device,
      Float32Array.from({ length: 60_000 }, (_, i) => Math.sin(i)),
      [1, 60_000],
    )
    tape.track(input)
    const start = used()
    let expected: Promise<Float32Array> = Promise.resolve(new Float32Array())
    let again: Promise<Float32Array> = Promise.resolve(new Float32Array())
    scope(() => {
      const made = swiglu(pass, input, input)
      expected = made.readFloats()
      const { saved, get } = tape.recall(made)
      assert.deepEqual(saved, [])
      const y = Tensor.zeros(device, [1])
      tape.record({
        inputs: [made],
        outputs: [y],
        saved,
        backward() {
          again = get().readFloats()
          return [null]
        },
      })
      // What no rule makes can only be kept.
      assert.deepEqual(tape.recall(input).saved, [input])
      tape.accumulate(y, y)
    })
    assert.ok(used() - start < bytes / 2, `${used() - start} bytes are kept`)
    tape.backward()
    tape.dispose()
    outer.end()
    assert.deepEqual(await again, await expected)
    assert.ok((await expected).some((value) => value > 0.5))
  })

  it('frees everything where a rule throws, and where backward never ran', () => {
    const { device } = context
    const start = device.info.memoryUsed
    for (const throws of [false, true])
      scope(() => {
        using tape = new Tape()
        const pass: Pass = { device, tape, dropout: null }
        const input = Tensor.zeros(device, [3, 5])
        tape.track(input)
        const middle = swiglu(pass, input, input)
        const y = Tensor.zeros(device, [3, 5])
        tape.record({
          inputs: [middle],
          outputs: [y],
          saved: [middle],
          backward() {
            Tensor.zeros(device, [100])
            throw new Error('on purpose')
          },
        })
        tape.accumulate(y, Tensor.zeros(device, [3, 5]))
        if (throws)
          assert.throws(() => {
            tape.backward()
          }, /on purpose/)
      })
    assert.equal(device.info.memoryUsed, start)
    assert.equal(Scope.current, null)
  })
})
