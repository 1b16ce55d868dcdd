import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { eigen } from '../../../lib/adapters/factors.js'
import { cluster, clusterCount } from '../../../lib/data/balance/clusters.js'
import { chooseCovering } from '../../../lib/data/balance/facility-location.js'
import { chooseCopies } from '../../../lib/data/balance/selection.js'
import { products, Vectors } from '../../../lib/data/balance/vectors.js'
import { eigenvalues, vendiScore } from '../../../lib/data/balance/vendi.js'
import { mix } from '../../../lib/data/order.js'
import { Device } from '../../../lib/device.js'
import { factsOf } from '../../../lib/data/traits.js'

const uniform = (seed: number, i: number) => mix(seed, i) / 2 ** 32 - 0.5
const all = (size: number) => Int32Array.from({ length: size }, (_, i) => i)

/** Directions around so many centres, the k-th of them with sizes[k]. */
function around(sizes: readonly number[], { dimensions = 32, noise = 0.3, seed = 1 } = {}) {
  const vectors = new Vectors(
    sizes.reduce((sum, size) => sum + size, 0),
    dimensions,
  )
  const truth: number[] = []
  sizes.forEach((size, k) => {
    for (let i = 0; i < size; i++) {
      const item = truth.push(k) - 1
      const direction = Float64Array.from(
        { length: dimensions },
        (_, j) => uniform(mix(seed, k), j) + noise * uniform(mix(seed, 1000 + item), j),
      )
      vectors.set(item, direction)
    }
  })
  return { vectors, truth }
}

describe('eigenvalues of a symmetric matrix', () => {
  it('are those of Jacobi rotations', () => {
    for (const n of [1, 2, 3, 7, 20, 33]) {
      const rows = Array.from({ length: n }, (_, i) =>
        Array.from({ length: n }, (_, j) =>
          i % 5 === 4 || j % 5 === 4 ? 0 : uniform(n, i * n + j),
        ),
      )
      const gram = rows.map((row) =>
        rows.map((other) => row.reduce((sum, x, k) => sum + x * other[k], 0)),
      )
      const values = [...eigenvalues(Float64Array.from(gram.flat()), n)].sort((a, b) => a - b)
      const expected = eigen(gram).values.sort((a, b) => a - b)
      values.forEach((value, i) => {
        assert.ok(Math.abs(value - expected[i]) <= 1e-13 * n * Math.max(1, expected[n - 1]))
      })
    }
  })
})

describe('the Vendi score', () => {
  it('is the exponential of the entropy of the kernel over its size', () => {
    const { vectors } = around([9, 5, 1])
    const size = 15
    const kernel = Array.from({ length: size }, (_, i) =>
      Array.from({ length: size }, (_, j) => vectors.cosine(i, j) / size),
    )
    const entropy = eigen(kernel).values.reduce(
      (sum, x) => sum - (x > 1e-12 ? x * Math.log(x) : 0),
      0,
    )
    assert.ok(Math.abs(vendiScore(vectors, all(size)) - Math.exp(entropy)) < 1e-9)
  })

  it('is 1 for one item many times and for items without a direction, and counts what is orthogonal', () => {
    const vectors = new Vectors(8, 16)
    for (let i = 0; i < 6; i++)
      vectors.set(
        i,
        Float64Array.from({ length: 16 }, (_, k) => Number(k === i)),
      )
    assert.ok(Math.abs(vendiScore(vectors, [2, 2, 2, 2]) - 1) < 1e-12)
    assert.ok(Math.abs(vendiScore(vectors, [6, 7, 6]) - 1) < 1e-12)
    assert.ok(Math.abs(vendiScore(vectors, [0, 1, 2, 3, 4, 5]) - 6) < 1e-9)
  })
})

describe('clusters and coverage', () => {
  let device: Device
  before(() => {
    device = Device.open('cpu', { threads: 1 })
  })
  after(() => device.close())

  it('has exact products, whatever the device', async () => {
    const vectors = new Vectors(50, 128)
    for (let i = 0; i < 50; i++)
      vectors.set(
        i,
        Float64Array.from({ length: 128 }, (_, k) => (uniform(i, k) > 0 ? 1 : -1)),
      )
    const rows = vectors.gather(all(50))
    const y = await products(device, rows, rows, 128)
    for (let i = 0; i < 50; i++)
      for (let j = 0; j < 50; j++) {
        const a = vectors.row(i)
        const exact = vectors.row(j).reduce((sum, value, k) => sum + value * a[k], 0)
        assert.equal(y[i * 50 + j], exact)
      }
  })

  it('finds separate groups, the same with any number of threads', async () => {
    const sizes = [300, 40, 20, 120, 8]
    const { vectors, truth } = around(sizes)
    const items = all(truth.length)
    const found = await cluster(vectors, items, { device, seed: 4 })
    assert.equal(found.of.length, items.length)
    assert.ok(found.count <= clusterCount(items.length))
    // No cluster holds items of two groups.
    const groupOf = new Map<number, number>()
    found.of.forEach((one, i) => {
      assert.equal(groupOf.get(one) ?? truth[i], truth[i])
      groupOf.set(one, truth[i])
    })
    assert.equal(new Set(groupOf.values()).size, sizes.length)
    const many = Device.open('cpu', { threads: 3 })
    try {
      assert.deepEqual(await cluster(vectors, items, { device: many, seed: 4 }), found)
    } finally {
      await many.close()
    }
  })

  it('takes one item, and items that are all the same', async () => {
    const { vectors } = around([1])
    assert.deepEqual(await cluster(vectors, all(1), { device, seed: 0 }), {
      count: 1,
      of: Uint16Array.of(0),
    })
    const same = around([40], { noise: 0 })
    assert.equal((await cluster(same.vectors, all(40), { device, seed: 0 })).count, 1)
  })

  it('covers by the greedy choice: one of each group before a second of any', async () => {
    const { vectors, truth } = around([30, 20, 10, 25], { noise: 0.1 })
    const chosen = await chooseCovering(vectors, all(truth.length), 4, { device, seed: 2 })
    assert.equal(new Set(Array.from(chosen, (place) => truth[place])).size, 4)
    const most = await chooseCovering(vectors, all(truth.length), truth.length, { device, seed: 2 })
    assert.deepEqual(
      [...most].sort((a, b) => a - b),
      [...all(truth.length)],
    )
  })

  it('chooses from a cluster that is compared in parts', async () => {
    const sizes = [2600, 30]
    const { vectors, truth } = around(sizes)
    const clusters = { count: 2, of: Uint16Array.from(truth) }
    for (const draws of [1, 1300, 2629, 2630 + 2599]) {
      const options = { device, seed: 1, beta: 0, limit: 2 }
      const copies = await chooseCopies(vectors, all(2630), clusters, draws, options)
      const sums = [0, 0]
      copies.forEach((one, i) => (sums[truth[i]] += one))
      assert.equal(sums[0] + sums[1], draws)
      sizes.forEach((size, k) => assert.ok(Math.abs(sums[k] - (draws * size) / 2630) <= 1))
      assert.ok(copies.every((one) => one <= (draws < 2630 ? 1 : 2)))
    }
  })

  it('gives every item its place, no item too many, and small clusters more than their part', async () => {
    const { vectors, truth } = around([400, 30, 10])
    const items = all(truth.length)
    const clusters = { count: 3, of: Uint16Array.from(truth) }
    for (const draws of [0, 1, 7, 100, 439, 440, 441, 900, 1760])
      for (const beta of [0, 0.5, 1]) {
        const limit = 8
        const copies = await chooseCopies(vectors, items, clusters, draws, {
          device,
          seed: 1,
          beta,
          limit,
        })
        assert.equal(
          copies.reduce((sum, one) => sum + one, 0),
          draws,
        )
        const least = draws >= items.length ? 1 : 0
        const most = draws >= items.length ? limit : 1
        for (const one of copies) assert.ok(one >= least && one <= most)
        if (draws !== 100 && draws !== 900) continue
        const extra = [0, 0, 0]
        copies.forEach((one, i) => (extra[truth[i]] += one - least))
        const share = extra[2] / (draws - least * items.length)
        if (beta === 0) assert.ok(Math.abs(share - 10 / 440) < 0.02)
        else assert.ok(share > 1.5 * (10 / 440), `beta ${beta}: ${share}`)
      }
  })
})

describe('what tells two questions of one template apart', () => {
  const cases: [string, string, boolean][] = [
    ['What is the dose for 70 kg?', 'What is the dose for 80 kg?', false],
    ['What is the dose for 70 kg?', 'Please state the dose for 70 kg.', true],
    ['Convert 3 g to mg', 'Convert 3 mg to g', false],
    ['What is the capital of Kenya?', 'Name the capital of Kenya.', true],
    ['What is the capital of Kenya?', 'What is the capital of Chad?', false],
    ['Is 3 < 5?', 'Is 3 > 5?', false],
    ['Add -4 and 2.', 'Add 4 and 2.', false],
    ['The mass of H2O', 'The mass of CO2', false],
    ['How far is Nairobi from Lagos?', 'How far is Lagos from Nairobi?', false],
  ]
  for (const [a, b, same] of cases)
    it(`${a} | ${b}`, () => {
      assert.equal(factsOf(a).join(' ') === factsOf(b).join(' '), same)
    })
})
