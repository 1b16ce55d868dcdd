import assert from 'node:assert/strict'
import { it } from 'mocha'
import { DeviceError } from '../../lib/errors.js'
import { scope } from '../../lib/scope.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'

// More tensors than one launch takes, of sizes around a block's; one is empty.
const sizes = [5000, 1, 0, 17, 8192, 8193, ...Array.from({ length: 130 }, (_, i) => 1 + (i % 7))]

forEachDevice('gradient_norm and adamw', (context) => {
  it('agree with float64 over many tensors', async () => {
    const random = new Random(31)
    const parameters = sizes.map((n) => random.normal(n))
    const gradients = sizes.map((n) => random.normal(n, 0.1))
    const [beta1, beta2, epsilon, learningRate, weightDecay] = [0.9, 0.999, 1e-8, 1e-2, 0.1]
    const results = await evaluate<string>(() => {
      const scalar = (value: number) => Tensor.from(context.device, Float32Array.of(value))
      const norm = Tensor.empty(context.device, [3])
      const all = sizes.map((n, i) => ({
        parameter: Tensor.from(context.device, parameters[i], [n]),
        gradient: Tensor.from(context.device, gradients[i], [n]),
        moment: Tensor.zeros(context.device, [n]),
        variance: Tensor.zeros(context.device, [n]),
      }))
      context.device.run('gradient_norm', {
        gradients: all.map(({ gradient }) => gradient.native),
        maxNorm: 0.5,
        watched: scalar(1).native,
        result: norm.native,
      })
      context.device.run('adamw', {
        parameters: all.map(({ parameter, gradient, moment, variance }) => ({
          parameter: parameter.native,
          gradient: gradient.native,
          moment: moment.native,
          variance: variance.native,
          learningRateScale: 1,
          weightDecay,
        })),
        beta1,
        beta2,
        epsilon,
        learningRate: scalar(learningRate).native,
        step: Tensor.from(context.device, Int32Array.of(1)).native,
        gradientScale: norm.slice(0, 1, 2).native,
        finite: norm.slice(0, 2, 3).native,
      })
      return {
        norm,
        ...Object.fromEntries(all.map(({ parameter }, i) => [`p${i}`, parameter])),
      }
    })
    let squares = 0
    for (const gradient of gradients) for (const g of gradient) squares += g * g
    const expectedNorm = Math.sqrt(squares)
    const scale = 0.5 / (expectedNorm + 1e-6)
    assertClose(results.norm, Float64Array.of(expectedNorm, scale, 1), 2 ** -22, 'norm')
    sizes.forEach((n, i) => {
      if (n === 0) return
      // At the first step both corrected moments are the gradient itself.
      const expected = Float64Array.from(parameters[i], (p, j) => {
        const g = gradients[i][j] * scale
        return p * (1 - learningRate * weightDecay) - (learningRate * g) / (Math.abs(g) + epsilon)
      })
      assertClose(results[`p${i}`], expected, 2 ** -20, `parameter ${i}`)
    })
  })

  it('says when a gradient or a loss is not finite', async () => {
    for (const [gradient, loss, finite] of [
      [1, 1, 1],
      [Infinity, 1, 0],
      [1, NaN, 0],
    ]) {
      const { result } = await evaluate(() => {
        const result = Tensor.empty(context.device, [3])
        context.device.run('gradient_norm', {
          gradients: [Tensor.from(context.device, Float32Array.of(2, gradient)).native],
          maxNorm: 0,
          watched: Tensor.from(context.device, Float32Array.of(0, loss, 3)).native,
          result: result.native,
        })
        return { result }
      })
      assert.equal(result[2], finite)
    }
  })
})

forEachDevice('scatter_add_rows', (context) => {
  it('adds rows with one index in their order', async () => {
    const [rows, width, targets] = [300, 41, 9]
    const random = new Random(33)
    const [x, y] = [random.normal(rows * width), random.normal(targets * width)]
    const indices = Int32Array.from({ length: rows }, (_, i) => (i * 5 + (i % 3)) % targets)
    const { sum } = await evaluate(() => {
      const sum = Tensor.from(context.device, y, [targets, width])
      context.device.run('scatter_add_rows', {
        x: Tensor.from(context.device, x, [rows, width]).native,
        indices: Tensor.from(context.device, indices).native,
        y: sum.native,
      })
      return { sum }
    })
    // The order fixes every bit.
    const expected = Float32Array.from(y)
    x.forEach((value, i) => {
      const at = indices[Math.floor(i / width)] * width + (i % width)
      expected[at] += value
    })
    assert.deepEqual(sum, expected)
  })

  it('fails its device, not the process, for an index that does not exist', async () => {
    const device = context.open()
    scope(() => {
      device.run('scatter_add_rows', {
        x: Tensor.zeros(device, [3, 2]).native,
        indices: Tensor.from(device, Int32Array.of(1, -4, 0)).native,
        y: Tensor.zeros(device, [2, 2]).native,
      })
    })
    await assert.rejects(
      device.synchronize(),
      (error) => error instanceof DeviceError && /indices\[1\] is -4/.test(error.message),
    )
    await device.close()
  })
})
