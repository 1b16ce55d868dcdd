import { it } from 'mocha'
import { logits } from '../../lib/ops/logits.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { makeWeight } from './linear-case.js'
import { productNT, takeRows } from './reference.js'
import { forwardPass } from './tape.js'

forEachDevice('logits', (context) => {
  const [numTokens, columns, vocabulary] = [17, 45, 203]
  const random = new Random(91)
  const hidden = random.normal(numTokens * columns)
  const head = random.normal(vocabulary * columns)

  const run = (rows: readonly number[]) =>
    evaluate(() => {
      const weight = makeWeight(context.device, head, vocabulary, columns)
      const x = Tensor.from(context.device, hidden, [numTokens, columns])
      const indices = Tensor.from(context.device, Int32Array.from(rows))
      const matrix = { name: 'head', weight, master: null }
      const y = logits(forwardPass(context.device), x, indices, matrix)
      weight.dispose()
      return { y }
    })

  it('are those of the given rows, in their order', async () => {
    const rows = [16, 3, 3, 0]
    const { y } = await run(rows)
    const expected = productNT(takeRows(hidden, columns, rows), head, 4, vocabulary, columns)
    assertClose(y, expected, roundingTolerance(columns))
    const { y: alone } = await run([0])
    assertSameBits(alone, y.slice(3 * vocabulary))
  })
})
