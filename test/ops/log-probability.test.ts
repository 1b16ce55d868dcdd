import assert from 'node:assert/strict'
import { it } from 'mocha'
import type { Device } from '../../lib/device.js'
import { DeviceError } from '../../lib/errors.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'

/** log softmax(x)[label] of each row; no function of the library is as bare as the operation. */
async function logProbability(
  device: Device,
  logits: ArrayLike<number>,
  labels: Int32Array,
): Promise<Float32Array> {
  const { y } = await evaluate(() => {
    const rows = labels.length
    const x = Tensor.from(device, Float32Array.from(logits), [rows, logits.length / rows])
    const y = Tensor.empty(device, [rows])
    device.run('log_probability', {
      x: x.native,
      labels: Tensor.from(device, labels).native,
      y: y.native,
    })
    return { y }
  })
  return y
}

forEachDevice('log probabilities', (context) => {
  for (const [rows, columns] of [
    [1, 1],
    [3, 7],
    [5, 257],
    [2, 4099],
  ])
    it(`of labels agree with float64: ${rows} rows of ${columns}`, async () => {
      const random = new Random(rows * columns)
      const logits = random.normal(rows * columns, 8)
      const labels = random.integers(rows, columns)
      const expected = Array.from(labels, (label, row) => {
        const x = logits.subarray(row * columns, (row + 1) * columns)
        const most = x.reduce((a, b) => Math.max(a, b))
        const total = x.reduce((sum, value) => sum + Math.exp(value - most), 0)
        return x[label] - most - Math.log(total)
      })
      const y = await logProbability(context.device, logits, labels)
      assertClose(y, expected, roundingTolerance(16))
      const last = logits.subarray((rows - 1) * columns)
      const alone = await logProbability(context.device, last, labels.slice(rows - 1))
      assertSameBits(alone, y.slice(rows - 1), 'the last row alone')
    })

  it('keep what no token has, and what is not a number', async () => {
    const { device } = context
    const [inf, nan] = [Infinity, NaN]
    const y = await logProbability(
      device,
      [-inf, 0, 0, -inf, 5, -inf, nan, 0, 1],
      Int32Array.of(1, 0, 1),
    )
    assert.ok(Math.abs(y[0] + Math.LN2) < 1e-6)
    assert.equal(y[1], -inf)
    assert.ok(Number.isNaN(y[2]))
  })

  it('fails the queue, not the process, for a label that does not exist', async () => {
    for (const label of [-1, 3]) {
      const device = context.open()
      await assert.rejects(
        logProbability(device, [1, 2, 3], Int32Array.of(label)),
        DeviceError,
        String(label),
      )
      await device.close()
    }
  })
})
