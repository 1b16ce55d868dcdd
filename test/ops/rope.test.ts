import { it } from 'mocha'
import { rope } from '../../lib/ops/rope.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, unitRoundoff } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { centralDifferences, rope as reference } from './reference.js'
import { forwardBackward } from './tape.js'

forEachDevice('rope', (context) => {
  for (const [numTokens, numHeads, headDim] of [
    [1, 1, 2],
    [9, 3, 6],
    [5, 2, 34],
  ])
    it(`of ${numTokens} tokens, ${numHeads} heads of ${headDim}, and its gradient agree with float64`, async () => {
      const random = new Random(numTokens * headDim)
      const numPositions = 13
      const half = headDim / 2
      const x = random.normal(numTokens * numHeads * headDim)
      const positions = random.integers(numTokens, numPositions)
      // Any angles do; the product's are tested with the models.
      const angles = Array.from({ length: numPositions * half }, () => 7 * random.next())
      const [cosines, sines] = [Math.cos, Math.sin].map((f) =>
        Float32Array.from(angles, (a) => f(a)),
      )
      const cotangent = random.normal(x.length)
      const { y, dx } = await evaluate(() => {
        const input = Tensor.from(context.device, x, [numTokens, numHeads * headDim])
        const table = {
          cosines: Tensor.from(context.device, cosines, [numPositions, half]),
          sines: Tensor.from(context.device, sines, [numPositions, half]),
        }
        const rows = Tensor.from(context.device, positions)
        const { outputs, gradients } = forwardBackward(
          context.device,
          [input],
          (pass) => [rope(pass, input, rows, table, numHeads)],
          [cotangent],
        )
        return { y: outputs[0], dx: gradients[0]! }
      })
      const rotate = (x: ArrayLike<number>) => reference(x, positions, cosines, sines, numHeads)
      // Two products and a sum: three roundings at most of values no larger than 1.5 times the largest.
      assertClose(y, rotate(x), 4 * unitRoundoff, 'y')
      const expected = centralDifferences(({ x }) => [rotate(x)], { x }, [cotangent])
      // The differences themselves are good to 1e-9.
      assertClose(dx, expected.x, 4 * unitRoundoff + 1e-9, 'dx')
    })
})
