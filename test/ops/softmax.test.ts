import { it } from 'mocha'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'

const scale = -0.7

/** softmax(scale x) and its gradient of each row, in float64. */
function reference(x: Float32Array, dy: Float32Array, size: number) {
  const y = new Float64Array(x.length)
  const dx = new Float64Array(x.length)
  for (let begin = 0; begin < x.length; begin += size) {
    const z = Array.from(x.subarray(begin, begin + size), (value) => scale * value)
    const most = Math.max(...z)
    const sum = z.reduce((total, value) => total + Math.exp(value - most), 0)
    let mean = 0
    for (let i = 0; i < size; ++i) {
      y[begin + i] = Math.exp(z[i] - most) / sum
      mean += y[begin + i] * dy[begin + i]
    }
    for (let i = begin; i < begin + size; ++i) dx[i] = scale * y[i] * (dy[i] - mean)
  }
  return { y, dx }
}

forEachDevice('softmax', (context) => {
  const run = (x: Float32Array, dy: Float32Array, rows: number, size: number, pad = 0) =>
    evaluate(() => {
      // With `pad` the rows lie apart.
      const place = () => Tensor.empty(context.device, [rows, size + pad]).slice(1, 0, size)
      const put = (values: Float32Array) =>
        place().copyFrom(Tensor.from(context.device, values, [rows, size]))
      const y = place()
      const dx = place()
      context.device.run('softmax', { x: put(x).native, scale, y: y.native })
      context.device.run('softmax_backward', {
        dy: put(dy).native,
        y: y.native,
        scale,
        dx: dx.native,
      })
      return { y: y.clone(), dx: dx.clone() }
    })

  for (const [rows, size] of [
    [5, 1],
    [9, 7],
    [3, 1024],
    [2, 1025],
    [2, 4999],
  ]) {
    it(`and its gradient agree with float64 on ${rows} rows of ${size}`, async () => {
      const random = new Random(size)
      const x = random.normal(rows * size, 5, 300)
      const dy = random.normal(rows * size)
      const { y, dx } = await run(x, dy, rows, size)
      const expected = reference(x, dy, size)
      // 300 times the scale is known to 2^-24 of itself, and so is its exponential.
      const tolerance = 300 * roundingTolerance(16)
      assertClose(y, expected.y, tolerance)
      if (size > 1) assertClose(dx, expected.dx, tolerance)
      // Wherever rows lie.
      const apart = await run(x, dy, rows, size, 3)
      assertSameBits(apart.y, y)
      assertSameBits(apart.dx, dx)
    })
  }

  it('works in place', async () => {
    const x = new Random(1).normal(6 * 33)
    const [separate, inPlace] = await Promise.all(
      [false, true].map((same) =>
        evaluate(() => {
          const from = Tensor.from(context.device, x, [6, 33])
          const y = same ? from : Tensor.empty(context.device, [6, 33])
          context.device.run('softmax', { x: from.native, scale, y: y.native })
          return { y }
        }),
      ),
    )
    assertSameBits(inPlace.y, separate.y)
  })
})
