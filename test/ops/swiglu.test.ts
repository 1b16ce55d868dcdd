import assert from 'node:assert/strict'
import { it } from 'mocha'
import { swiglu } from '../../lib/ops/swiglu.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { centralDifferences, swiglu as reference } from './reference.js'
import { forwardBackward, forwardPass } from './tape.js'

// A handful of roundings, and an exponential that is good to a few units in the last place.
const tolerance = roundingTolerance(16)

forEachDevice('swiglu', (context) => {
  for (const [rows, columns] of [
    [1, 1],
    [3, 17],
    [7, 61],
  ])
    it(`of [${rows}, ${columns}] and its gradient agree with float64`, async () => {
      const random = new Random(rows * 100 + columns)
      const size = rows * columns
      const inputs = { gate: random.normal(size, 3), up: random.normal(size) }
      const cotangent = random.normal(size)
      const { y, dGate, dUp } = await evaluate(() => {
        const gate = Tensor.from(context.device, inputs.gate, [rows, columns])
        const up = Tensor.from(context.device, inputs.up, [rows, columns])
        const { outputs, gradients } = forwardBackward(
          context.device,
          [gate, up],
          (pass) => [swiglu(pass, gate, up)],
          [cotangent],
        )
        return { y: outputs[0], dGate: gradients[0]!, dUp: gradients[1]! }
      })
      assertClose(y, reference(inputs.gate, inputs.up), tolerance, 'y')
      const expected = centralDifferences(({ gate, up }) => [reference(gate, up)], inputs, [
        cotangent,
      ])
      assertClose(dGate, expected.gate, tolerance, 'dGate')
      assertClose(dUp, expected.up, tolerance, 'dUp')
    })

  it('saturates without overflow, and lets NaN through', async () => {
    const gate = Float32Array.of(-200, -104, -88, 0, 88, 104, 200, NaN, Infinity)
    const up = new Float32Array(gate.length).fill(2)
    const { y } = await evaluate(() => {
      const [a, b] = [gate, up].map((values) => Tensor.from(context.device, values, [1, 9]))
      return { y: swiglu(forwardPass(context.device), a, b) }
    })
    assert.deepEqual(Array.from(y.subarray(3, 7)), [0, 176, 208, 400])
    for (const value of y.subarray(0, 3)) assert.ok(Math.abs(value) < 1e-30, String(value))
    assert.ok(Number.isNaN(y[7]))
    assert.equal(y[8], Infinity)
  })
})
