import { describe, it } from 'mocha'
import type { Device } from '../../lib/device.js'
import { rmsNorm } from '../../lib/ops/rms-norm.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { assertSameAtAnyThreads } from '../threads.js'
import { centralDifferences, combine, rmsNorm as reference, rmsNormBackward } from './reference.js'
import { forwardBackward, forwardPass, frozenParameter, trainedParameter } from './tape.js'

const epsilon = 1e-3

describe('the float64 reference of rmsNorm', () => {
  it('has the gradients that central differences give', () => {
    const random = new Random(12)
    const inputs = { x: random.normal(21), weight: random.normal(7) }
    const dy = random.normal(21)
    const differences = centralDifferences(
      ({ x, weight }) => [reference(x, weight, epsilon)],
      inputs,
      [dy],
    )
    const { dx, dWeight } = rmsNormBackward(dy, inputs.x, inputs.weight, epsilon)
    assertClose(dx, differences.x, 1e-8, 'dx')
    assertClose(dWeight, differences.weight, 1e-8, 'dWeight')
  })
})

forEachDevice('rmsNorm', (context) => {
  for (const [what, rows, width, size] of [
    ['rows', 7, 37, 37],
    ['rows of one element', 3, 1, 1],
    ['heads', 5, 3 * 22, 22],
    ['heads of two', 4, 10, 2],
  ] as const)
    it(`of ${what} and its gradients agree with float64`, async () => {
      const random = new Random(rows * 1000 + width)
      const inputs = {
        x: random.normal(rows * width, 1.5),
        weight: random.normal(size, 0.5, 1),
      }
      const cotangent = random.normal(rows * width)
      const initial = random.normal(size)
      const { y, dx, dWeight } = await evaluate(() => {
        const x = Tensor.from(context.device, inputs.x, [rows, width])
        const weight = trainedParameter(context.device, inputs.weight, [size], initial)
        const { outputs, gradients } = forwardBackward(
          context.device,
          [x],
          (pass) => [rmsNorm(pass, x, weight, epsilon)],
          [cotangent],
        )
        return { y: outputs[0], dx: gradients[0]!, dWeight: weight.gradient! }
      })
      // A sum over the row, and for the weight's gradient one over all rows and heads.
      assertClose(y, reference(inputs.x, inputs.weight, epsilon), roundingTolerance(size), 'y')
      const expected = centralDifferences(
        ({ x, weight }) => [reference(x, weight, epsilon)],
        inputs,
        [cotangent],
      )
      assertClose(dx, expected.x, roundingTolerance(size), 'dx')
      assertClose(
        dWeight,
        combine((a, b) => a + b, expected.weight, initial),
        roundingTolerance((rows * width) / size),
        'dWeight',
      )
    })

  // Whole fours or not, and rows too long for one warp of CUDA's.
  for (const [rows, width] of [
    [6, 40],
    [3, 1028],
    [3, 1301],
  ])
    it(`of ${rows} rows of ${width} and its gradients agree with float64`, async () => {
      const random = new Random(width)
      const [values, weight, dy] = [rows * width, width, rows * width].map((n) => random.normal(n))
      const { y, dx, dWeight } = await evaluate(() => {
        const x = Tensor.from(context.device, values, [rows, width])
        const parameter = trainedParameter(context.device, weight, [width], new Float32Array(width))
        const { outputs, gradients } = forwardBackward(
          context.device,
          [x],
          (pass) => [rmsNorm(pass, x, parameter, epsilon)],
          [dy],
        )
        return { y: outputs[0], dx: gradients[0]!, dWeight: parameter.gradient! }
      })
      const expected = rmsNormBackward(dy, values, weight, epsilon)
      assertClose(y, reference(values, weight, epsilon), roundingTolerance(width), 'y')
      assertClose(dx, expected.dx, roundingTolerance(width), 'dx')
      assertClose(dWeight, expected.dWeight, roundingTolerance(rows), 'dWeight')
    })

  it('agrees with float64 on many rows, whose weight gradient is summed in blocks', async () => {
    const [rows, width] = [531, 133]
    const random = new Random(7)
    const [x, weight, dy] = [rows * width, width, rows * width].map((n) => random.normal(n))
    const run = (device: Device) =>
      evaluate(() => {
        const input = Tensor.from(device, x, [rows, width])
        const parameter = trainedParameter(device, weight, [width], new Float32Array(width))
        const { outputs } = forwardBackward(
          device,
          [],
          (pass) => [rmsNorm(pass, input, parameter, epsilon)],
          [dy],
        )
        return { y: outputs[0], dWeight: parameter.gradient! }
      })
    const { y, dWeight } = await run(context.device)
    assertClose(y, reference(x, weight, epsilon), roundingTolerance(width), 'y')
    const normed = reference(x, new Float64Array(width).fill(1), epsilon)
    const expected = new Float64Array(width)
    normed.forEach((value, i) => (expected[i % width] += value * dy[i]))
    assertClose(dWeight, expected, roundingTolerance(rows), 'dWeight')
    await assertSameAtAnyThreads(context, run)
  })

  it('adds the gradient that bypasses it in its own kernel, to the same bits', async () => {
    const [rows, width] = [5, 19]
    const random = new Random(9)
    const [values, weight, dy, bypass] = [95, 19, 95, 95].map((n) => random.normal(n))
    const run = (fused: boolean) =>
      evaluate(() => {
        const x = Tensor.from(context.device, values, [rows, width])
        const parameter = frozenParameter(context.device, weight)
        const { gradients } = forwardBackward(
          context.device,
          [x],
          (pass) => {
            const y = rmsNorm(pass, x, parameter, epsilon)
            if (fused) pass.tape!.accumulate(x, Tensor.from(context.device, bypass, [rows, width]))
            return [y]
          },
          [dy],
        )
        return { dx: gradients[0]! }
      })
    const [plain, fused] = [await run(false), await run(true)]
    const expected = Float32Array.from(plain.dx, (value, i) => value + bypass[i])
    // One more rounding, unless the kernel contracts it.
    assertClose(fused.dx, expected, roundingTolerance(16))
  })

  it('gives a row the same bits whatever rows are with it', async () => {
    const [rows, width] = [23, 41]
    const random = new Random(11)
    const [values, weight] = [random.normal(rows * width), random.normal(width)]
    const run = (begin: number, end: number) =>
      evaluate(() => {
        const part = values.slice(begin * width, end * width)
        const x = Tensor.from(context.device, part, [end - begin, width])
        return {
          y: rmsNorm(
            forwardPass(context.device),
            x,
            frozenParameter(context.device, weight),
            epsilon,
          ),
        }
      })
    const { y: whole } = await run(0, rows)
    for (const [begin, end] of [
      [0, 1],
      [3, 5],
      [22, 23],
      [6, 21],
    ])
      assertSameBits((await run(begin, end)).y, whole.slice(begin * width, end * width))
  })
})
