import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { SampleOrder, mix, permute } from '../../lib/data/order.js'

/** The first `count` choices, and where the order stands after each. */
function take(order: SampleOrder, count: number): { group: number; index: number }[] {
  return Array.from({ length: count }, () => order.next())
}

describe('order of samples', () => {
  it('keeps every group within one sample of its share', () => {
    for (let trial = 0; trial < 40; ++trial) {
      const numGroups = 1 + (mix(trial, 1) % 9)
      const groups = Array.from({ length: numGroups }, (_, group) => ({
        size: 1 + (mix(trial, 100 + group) % 97),
        weight: [1, 0.37, 4, 1, 1 / 3, 25][mix(trial, 200 + group) % 6],
      }))
      const total = groups.reduce((sum, { size, weight }) => sum + size * weight, 0)
      const order = new SampleOrder(groups, { shuffle: true, seed: trial })
      const counts = groups.map(() => 0)
      for (let t = 1; t <= 1500; ++t) {
        counts[order.next().group]++
        groups.forEach(({ size, weight }, group) => {
          const off = Math.abs(counts[group] - (t * size * weight) / total)
          assert.ok(
            off < 1,
            `trial ${String(trial)}: group ${String(group)} is off by ${String(off)} at ${String(t)}`,
          )
        })
      }
    }
  })

  it('gives every sample once an epoch, in a new order each', () => {
    const sizes = [50, 7, 1, 23]
    const order = new SampleOrder(
      sizes.map((size) => ({ size, weight: 1 })),
      { shuffle: true, seed: 5 },
    )
    const epochs = Array.from({ length: 4 }, () => take(order, 81))
    for (const epoch of epochs)
      for (const [group, size] of sizes.entries()) {
        const seen = epoch.filter((one) => one.group === group).map(({ index }) => index)
        assert.deepEqual(
          [...seen].sort((a, b) => a - b),
          Array.from({ length: size }, (_, i) => i),
        )
      }
    const first = epochs.map((epoch) =>
      epoch.filter(({ group }) => group === 0).map(({ index }) => index),
    )
    assert.equal(new Set(first.map(String)).size, 4)
    for (const epoch of first)
      assert.notDeepEqual(
        epoch,
        [...epoch].sort((a, b) => a - b),
      )
  })

  it('keeps the order of the files without shuffling', () => {
    const groups = [2, 0, 3].map((size) => ({ size, weight: 1 }))
    const order = new SampleOrder(groups, { shuffle: false, seed: 5 })
    const shown = take(order, 7).map(({ group, index }) => `${String(group)}.${String(index)}`)
    assert.deepEqual(shown, ['0.0', '0.1', '2.0', '2.1', '2.2', '0.0', '0.1'])
    const weighted = new SampleOrder(
      [
        { size: 4, weight: 1 },
        { size: 1, weight: 4 },
      ],
      { shuffle: false, seed: 5 },
    )
    const taken = take(weighted, 8)
    assert.deepEqual(
      taken.filter(({ group }) => group === 0).map(({ index }) => index),
      [0, 1, 2, 3],
    )
    assert.equal(taken.filter(({ group }) => group === 1).length, 4)
  })

  it('goes on from any place as if it had not stopped', () => {
    const groups = [31, 5, 12].map((size, i) => ({ size, weight: i + 0.5 }))
    for (const shuffle of [true, false]) {
      const options = { shuffle, seed: 2 ** 40 + 3 }
      const whole = take(new SampleOrder(groups, options), 200)
      for (const stop of [0, 1, 48, 137]) {
        const before = new SampleOrder(groups, options)
        take(before, stop)
        const state = JSON.parse(JSON.stringify(before.state)) as typeof before.state
        assert.equal(state.position, stop)
        const after = new SampleOrder(groups, options)
        after.restore(state)
        assert.deepEqual(take(after, 200 - stop), whole.slice(stop))
      }
    }
  })

  it('depends on the seed, all 53 bits of it', () => {
    const groups = [{ size: 40, weight: 1 }]
    const seeds = [0, 1, 2 ** 32, 2 ** 32 + 1, 2 ** 52]
    const orders = seeds.map((seed) =>
      String(take(new SampleOrder(groups, { shuffle: true, seed }), 40).map(({ index }) => index)),
    )
    assert.equal(new Set(orders).size, seeds.length)
  })

  it('permutes every size without loss', () => {
    for (const size of [1, 2, 3, 4, 5, 16, 17, 255, 1000, 4097]) {
      const seen = new Set(Array.from({ length: size }, (_, i) => permute(i, size, mix(size, 9))))
      assert.equal(seen.size, size)
      assert.ok([...seen].every((value) => value >= 0 && value < size))
    }
    const large = 4_000_000_007
    const values = Array.from({ length: 2000 }, (_, i) => permute(i, large, 77))
    assert.equal(new Set(values).size, 2000)
    assert.ok(values.every((value) => value >= 0 && value < large))
    const mean = values.reduce((a, b) => a + b, 0) / values.length / large
    assert.ok(Math.abs(mean - 0.5) < 0.03, 'spread over all of it; the standard error is 0.0065')
  })

  it('draws permutations evenly', () => {
    // All 24 orders of 4 over 6,000 keys: chi-squared with 23 degrees of freedom, 49.7 at 0.1%.
    const counts = new Map<string, number>()
    for (let key = 0; key < 6000; ++key) {
      const order = String([0, 1, 2, 3].map((i) => permute(i, 4, mix(key, 3))))
      counts.set(order, (counts.get(order) ?? 0) + 1)
    }
    assert.equal(counts.size, 24)
    const chi = [...counts.values()].reduce((sum, count) => sum + (count - 250) ** 2 / 250, 0)
    assert.ok(chi < 49.7, `chi-squared is ${String(chi)}`)
    // Where the first of 11 goes: 10 degrees of freedom, 29.6 at 0.1%.
    const places = new Array<number>(11).fill(0)
    for (let key = 0; key < 5500; ++key) places[permute(0, 11, mix(key, 4))]++
    const spread = places.reduce((sum, count) => sum + (count - 500) ** 2 / 500, 0)
    assert.ok(spread < 29.6, `chi-squared is ${String(spread)}`)
  })
})
