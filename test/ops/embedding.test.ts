import assert from 'node:assert/strict'
import { it } from 'mocha'
import type { Device } from '../../lib/device.js'
import { DeviceError } from '../../lib/errors.js'
import { embedding } from '../../lib/ops/embedding.js'
import { type Matrix } from '../../lib/parameter.js'
import { scope } from '../../lib/scope.js'
import { Tensor } from '../../lib/tensor.js'
import { Weight } from '../../lib/weight.js'
import { assertClose, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { assertSameAtAnyThreads } from '../threads.js'
import { roundToBfloat16, takeRows } from './reference.js'
import { forwardBackward, forwardPass, trainedParameter } from './tape.js'

const [vocabulary, columns] = [53, 39]

forEachDevice('embedding', (context) => {
  const random = new Random(17)
  const values = random.normal(vocabulary * columns)

  function table(storage: 'f32' | 'bf16', device = context.device): Matrix {
    const weight = Weight.create(device, { rows: vocabulary, columns, storage })
    scope(() => {
      weight.update(Tensor.from(device, values, [vocabulary, columns]))
    })
    return { name: 'table', weight, master: null }
  }

  for (const storage of ['f32', 'bf16'] as const)
    it(`picks rows of a ${storage} table exactly`, async () => {
      const ids = random.integers(71, vocabulary)
      const matrix = table(storage)
      const { y } = await evaluate(() => ({
        y: embedding(forwardPass(context.device), Tensor.from(context.device, ids), matrix),
      }))
      matrix.weight.dispose()
      const rows = takeRows(values, columns, ids)
      assert.deepEqual(Float64Array.from(y), storage === 'f32' ? rows : roundToBfloat16(rows))
    })

  it('adds the gradients of every occurrence of a token to a trained table', async () => {
    // Few tokens, so that most rows come several times and many never.
    const ids = random.integers(97, 7)
    const cotangent = random.normal(ids.length * columns)
    const initial = random.normal(values.length)
    const run = async (device: Device) => {
      const matrix = table('f32', device)
      const result = await evaluate(() => {
        const shape = [vocabulary, columns]
        matrix.master = trainedParameter(device, values, shape, initial)
        const indices = Tensor.from(device, ids)
        forwardBackward(device, [], (pass) => [embedding(pass, indices, matrix)], [cotangent])
        return { gradient: matrix.master.gradient! }
      })
      matrix.weight.dispose()
      return result
    }
    const { gradient } = await run(context.device)
    const expected = Float64Array.from(initial)
    cotangent.forEach((value, i) => {
      expected[ids[Math.floor(i / columns)] * columns + (i % columns)] += value
    })
    assertClose(gradient, expected, roundingTolerance(ids.length))
    await assertSameAtAnyThreads(context, run)
  })

  it('records nothing where the table is frozen', async () => {
    const matrix = table('f32')
    await evaluate(() => {
      const ids = Tensor.from(context.device, Int32Array.of(1, 2))
      let tracked = true
      forwardBackward(
        context.device,
        [],
        (pass) => {
          tracked = pass.tape!.tracks(embedding(pass, ids, matrix))
          return []
        },
        [],
      )
      assert.equal(tracked, false)
      return {}
    })
    matrix.weight.dispose()
  })

  it('fails the queue, not the process, for a token outside the table', async () => {
    for (const bad of [vocabulary, -1, 2 ** 31 - 1, -(2 ** 31)]) {
      const device = context.open()
      const weight = Weight.create(device, { rows: vocabulary, columns })
      const matrix: Matrix = { name: 'table', weight, master: null }
      await assert.rejects(
        evaluate(() => ({
          y: embedding(forwardPass(device), Tensor.from(device, Int32Array.of(3, bad)), matrix),
        })),
        (error: Error) => error instanceof DeviceError && error.message.includes(String(bad)),
      )
      await assert.rejects(device.synchronize(), DeviceError)
      await device.close()
    }
  })
})
