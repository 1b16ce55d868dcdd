import assert from 'node:assert/strict'
import { it } from 'mocha'
import { ShapeError } from '../../lib/errors.js'
import { add } from '../../lib/ops/add.js'
import { scope } from '../../lib/scope.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, unitRoundoff } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { combine } from './reference.js'

forEachDevice('add', (context) => {
  const random = new Random(101)

  it('adds scaled tensors of any shape', async () => {
    for (const shape of [[1], [37], [5, 7, 3], [2, 3, 5, 11], [0, 4]]) {
      const size = shape.reduce((product, n) => product * n, 1)
      const [a, b] = [random.normal(size), random.normal(size)]
      const { plain, scaled } = await evaluate(() => {
        const [first, second] = [a, b].map((values) => Tensor.from(context.device, values, shape))
        return { plain: add(first, second), scaled: add(first, second, -0.75, 3) }
      })
      // One rounding of the sum, or two of the products and one of their sum, each of values up to 4 times the result.
      assertClose(
        plain,
        combine((x, y) => x + y, a, b),
        2 * unitRoundoff,
        `sum of [${shape.join()}]`,
      )
      assertClose(
        scaled,
        combine((x, y) => -0.75 * x + 3 * y, a, b),
        4 * unitRoundoff,
      )
    }
  })

  it('reads views', async () => {
    const values = random.normal(6 * 9)
    const { y } = await evaluate(() => {
      const x = Tensor.from(context.device, values, [6, 9])
      return { y: add(x.slice(1, 2, 8), x.slice(1, 3, 9), 1, -1) }
    })
    const expected = Float64Array.from({ length: 36 }, (_, i) => {
      const at = Math.floor(i / 6) * 9 + (i % 6) + 2
      return values[at] - values[at + 1]
    })
    assertClose(y, expected, 2 * unitRoundoff)
  })

  it('refuses shapes that differ', () => {
    scope(() => {
      const a = Tensor.zeros(context.device, [3, 4])
      assert.throws(() => add(a, Tensor.zeros(context.device, [4, 3])), ShapeError)
    })
  })
})
