import assert from 'node:assert/strict'
import { it } from 'mocha'
import { ArgumentError, DisposedError, ShapeError } from '../lib/errors.js'
import { scope } from '../lib/scope.js'
import { Tensor } from '../lib/tensor.js'
import { Weight } from '../lib/weight.js'
import { assertClose, roundingTolerance } from './compare.js'
import { forEachDevice } from './devices.js'
import { Random } from './random.js'

forEachDevice('weight', (context) => {
  it('reads back as it was written', async () => {
    const { device } = context
    const random = new Random(3)
    for (const storage of ['f32', 'bf16'] as const) {
      using weight = Weight.create(device, { rows: 70, columns: 33, storage })
      using zeros = weight.read()
      assert.deepEqual(new Set(await zeros.read()), new Set([0]))
      const values = random
        .normal(70 * 33)
        .map((value) => (storage === 'bf16' ? Math.round(value * 8) / 8 : value))
      scope(() => {
        const source = Tensor.from(device, values, [70, 33])
        weight.update(source.slice(0, 0, 41)).update(source.slice(0, 41, 70), 41)
      })
      using all = weight.read()
      assert.deepEqual(await all.read(), values)
      using some = weight.read(40, 3)
      assert.deepEqual(await some.read(), values.slice(40 * 33, 43 * 33))
      scope(() => {
        assert.throws(
          () => weight.read(69, 2),
          (error) => error instanceof ShapeError || error instanceof ArgumentError,
        )
        assert.throws(() => weight.update(Tensor.zeros(device, [1, 32])), ShapeError)
      })
      weight.dispose()
      assert.throws(() => weight.native, DisposedError)
    }
  })

  it('takes rows of every dtype, and gives them as f32 or bf16', async () => {
    const { device } = context
    // What every dtype holds exactly, and what bf16 rounds.
    const exact = Float32Array.of(1, -2.5, 0.125, 240, -0, 3)
    const fine = Float32Array.of(1 + 2 ** -9, 2, 3, 4, 5, 6)
    for (const storage of ['f32', 'bf16'] as const) {
      using weight = Weight.create(device, { rows: 8, columns: 3, storage })
      scope(() => {
        ;(['f32', 'bf16', 'f16'] as const).forEach((dtype, i) =>
          weight.update(Tensor.from(device, exact, [2, 3], dtype), 2 * i),
        )
        weight.update(Tensor.from(device, fine, [2, 3]), 6)
      })
      using whole = weight.read()
      using rounded = weight.read(0, 8, 'bf16')
      const [wide, narrow] = [await whole.readFloats(), await rounded.readFloats()]
      for (const begin of [0, 6, 12])
        for (const read of [wide, narrow])
          assert.deepEqual(read.slice(begin, begin + 6), exact, `${storage}, element ${begin}`)
      assert.deepEqual([wide[18], narrow[18]], [storage === 'f32' ? fine[0] : 1, 1])
    }
  })

  it('gives the norms of its rows', async () => {
    const { device } = context
    const values = new Random(4).normal(5 * 301).map((value) => Math.round(value * 8) / 8)
    const expected = Float64Array.from({ length: 5 }, (_, row) =>
      Math.hypot(...values.subarray(row * 301, (row + 1) * 301)),
    )
    for (const storage of ['f32', 'bf16'] as const) {
      using weight = Weight.create(device, { rows: 5, columns: 301, storage })
      using norms = Tensor.empty(device, [5])
      scope(() => {
        weight.update(Tensor.from(device, values, [5, 301]))
      })
      device.run('weight_row_norms', { weight: weight.native, y: norms.native })
      // Summed in float64, rounded once.
      assertClose(await norms.readFloats(), expected, roundingTolerance(1), storage)
    }
  })
})
