import assert from 'node:assert/strict'
import { it } from 'mocha'
import { Tensor } from '../../lib/tensor.js'
import { assertSameBits } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { assertFailsDevice } from '../failing-device.js'
import { Random } from '../random.js'

/** Few different values, so that ties are common; NaN, zeros of both signs and infinities now and then. */
function awkward(random: Random, count: number): Float32Array {
  const rare = [NaN, Infinity, -Infinity, -0, 0.5]
  return Float32Array.from({ length: count }, () => rare[random.integer(12)] ?? random.integer(4))
}

const orLowest = (x: number) => (Number.isNaN(x) ? -Infinity : x)

/** Indices of a row, the largest first, the lower index first among equals. */
function descending(row: Float32Array): number[] {
  const larger = (a: number, b: number) => {
    const [x, y] = [orLowest(row[a]), orLowest(row[b])]
    return x === y ? a - b : x > y ? -1 : 1
  }
  return Array.from(row.keys()).sort(larger)
}

forEachDevice('top_k, its backward, and argmax', (context) => {
  for (const [rows, size, k] of [
    [7, 1, 1],
    [5, 8, 2],
    [3, 61, 16],
    [3, 61, 17],
    [2, 61, 61],
    [2, 3001, 5],
    [2, 4097, 3],
    [3, 2050, 700],
  ]) {
    it(`find ${k} of ${size}, the lowest index first among equals`, async () => {
      const random = new Random(size * 100 + k)
      const x = awkward(random, rows * size)
      if (size > 1) x.fill(NaN, 0, size - 1) // a row with next to nothing
      const dValues = random.normal(rows * k)
      const read = await evaluate(() => {
        const { device } = context
        const from = Tensor.empty(device, [rows, size + 2]).slice(1, 1, size + 1)
        from.copyFrom(Tensor.from(device, x, [rows, size]))
        const values = Tensor.empty(device, [rows, k])
        const indices = Tensor.empty(device, [rows, k], 'i32')
        const best = Tensor.empty(device, [rows], 'i32')
        const dx = Tensor.empty(device, [rows, size])
        device.run('top_k', { x: from.native, values: values.native, indices: indices.native })
        device.run('argmax', { x: from.native, indices: best.native })
        device.run('top_k_backward', {
          dValues: Tensor.from(device, dValues, [rows, k]).native,
          indices: indices.native,
          dx: dx.native,
        })
        return { values, indices, best, dx }
      })
      const expected = new Float32Array(rows * size)
      for (let t = 0; t < rows; ++t) {
        const row = x.subarray(t * size, (t + 1) * size)
        const order = descending(row)
        assert.deepEqual(Array.from(read.indices.subarray(t * k, (t + 1) * k)), order.slice(0, k))
        assert.equal(read.best[t], order[0])
        order.slice(0, k).forEach((at, j) => {
          assert.ok(Object.is(read.values[t * k + j], row[at]))
          expected[t * size + at] = dValues[t * k + j]
        })
      }
      assertSameBits(read.dx, expected)
    })
  }

  it('fail their device, not the process, for an index that does not exist', async () => {
    for (const bad of [-1, 5, 2147483647])
      await assertFailsDevice(
        context,
        (device) => {
          device.run('top_k_backward', {
            dValues: Tensor.zeros(device, [2, 2]).native,
            indices: Tensor.from(device, Int32Array.of(0, 1, 4, bad), [2, 2]).native,
            dx: Tensor.empty(device, [2, 5]).native,
          })
        },
        new RegExp(`top_k_backward: indices\\[3\\] is ${bad}, allowed are 0 to 4`),
      )
  })
})

forEachDevice('sort', (context) => {
  const sort = (keys: Int32Array, buckets: number | null) =>
    evaluate(() => {
      const { device } = context
      const order = Tensor.empty(device, [keys.length], 'i32')
      const counts = Tensor.full(device, [buckets ?? 1], 7, 'i32')
      device.run('sort', {
        keys: Tensor.from(device, keys).native,
        order: order.native,
        counts: buckets === null ? null : counts.native,
      })
      return { order, counts }
    })

  for (const [size, limit, counted] of [
    [0, 3, true],
    [1, 1, true],
    [1025, 8, true],
    [5003, 256, true],
    [3000, 257, true],
    [2049, 70_000, true],
    [9001, 2 ** 30, false],
  ] as const) {
    it(`is stable, ${size} keys below ${limit}`, async () => {
      const random = new Random(size)
      const keys = Int32Array.from({ length: size }, () =>
        random.integer(3) === 0 ? limit - 1 : random.integer(limit),
      )
      const { order, counts } = await sort(keys, counted ? limit : null)
      const expected = Array.from(keys.keys()).sort((a, b) => keys[a] - keys[b] || a - b)
      assert.deepEqual(Array.from(order), expected)
      if (!counted) return
      const many = new Float32Array(limit)
      for (const key of keys) many[key]++
      assert.deepEqual(counts, many)
    })
  }

  it('fails its device, not the process, for a key that is out of range', async () => {
    for (const [bad, buckets] of [
      [-1, 4],
      [4, 4],
      [-2147483648, null],
      [2 ** 30, null],
    ] as const)
      await assertFailsDevice(
        context,
        (device) => {
          device.run('sort', {
            keys: Tensor.from(device, Int32Array.of(1, bad, 3)).native,
            order: Tensor.empty(device, [3], 'i32').native,
            counts: buckets === null ? null : Tensor.empty(device, [buckets], 'i32').native,
          })
        },
        new RegExp(`sort: keys\\[1\\] is ${bad}, allowed are 0 to`),
      )
  })
})

forEachDevice('quantile', (context) => {
  it('is the element of its rank, of x or of |x|', async () => {
    for (const [i, size] of [1, 2, 7, 1000, 8193, 20_011].entries()) {
      const random = new Random(i)
      const x = i % 2 ? random.normal(size, 10 ** (i - 3)) : awkward(random, size)
      for (const absolute of [false, true]) {
        // Zeros of both signs are apart, and NaN comes last.
        const order = Array.from(x, (value) => (absolute ? Math.abs(value) : value)).sort(
          (a, b) => {
            if (Number.isNaN(a) || Number.isNaN(b))
              return Number(Number.isNaN(a)) - Number(Number.isNaN(b))
            return a - b || Number(Object.is(b, -0)) - Number(Object.is(a, -0))
          },
        )
        for (const q of [0, 0.123, 0.5, 1]) {
          const { y } = await evaluate(() => {
            const y = Tensor.empty(context.device, [1])
            context.device.run('quantile', {
              x: Tensor.from(context.device, x).native,
              q,
              absolute,
              y: y.native,
            })
            return { y }
          })
          const expected = order[Math.floor(q * (size - 1))]
          assert.ok(Object.is(y[0], expected), `${y[0]} instead of ${expected}, ${size}, ${q}`)
        }
      }
    }
  })
})
