import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { apportion, waterFill } from '../../../lib/data/balance/water-fill.js'
import { mix } from '../../../lib/data/order.js'

const uniform = (seed: number, i: number) => mix(seed, i) / 2 ** 32

describe('water-filling', () => {
  it('spends the budget, passes no cap, and keeps the weights below the caps', () => {
    for (let trial = 0; trial < 500; trial++) {
      const count = 1 + (mix(trial, 0) % 8)
      const of = (kind: number, from: number, to: number) =>
        Array.from({ length: count }, (_, i) => from + (to - from) * uniform(trial, kind * 100 + i))
      const weights = of(1, 0, 1).map((weight) => (weight < 0.1 ? 0 : weight))
      const caps = of(2, 0, 1000).map((cap) => (cap < 100 ? 0 : Math.floor(cap)))
      const prices = of(3, 0.5, 30)
      const most = weights.reduce((sum, w, i) => sum + (w > 0 ? prices[i] * caps[i] : 0), 0)
      const budget = most * 1.3 * uniform(trial, 7)
      const amounts = waterFill(weights, caps, budget, prices)
      const spent = amounts.reduce((sum, amount, i) => sum + prices[i] * amount, 0)
      assert.ok(Math.abs(spent - Math.min(budget, most)) <= 1e-9 * (most + 1))
      const level = Math.max(
        ...amounts.map((amount, i) => (weights[i] > 0 ? amount / weights[i] : 0)),
      )
      amounts.forEach((amount, i) => {
        assert.ok(amount >= 0 && amount <= caps[i])
        if (weights[i] === 0) assert.equal(amount, 0)
        else if (amount < caps[i]) assert.ok(Math.abs(amount / weights[i] - level) <= 1e-9 * level)
      })
    }
  })

  it('is UniMax where weights and prices are equal', () => {
    // Corpora of 5, 20 and 100 at two epochs.
    assert.deepEqual(waterFill([1, 1, 1], [10, 40, 200], 90), [10, 40, 40])
    assert.deepEqual(waterFill([1, 1, 1], [10, 40, 200], 300), [10, 40, 200])
  })

  it('makes whole numbers within one of the amounts, of the right sum, within the caps', () => {
    for (let trial = 0; trial < 500; trial++) {
      const count = 1 + (mix(trial, 0) % 9)
      const caps = Array.from({ length: count }, (_, i) => mix(trial, 10 + i) % 50)
      const all = caps.reduce((sum, cap) => sum + cap, 0)
      const total = mix(trial, 1) % (all + 1)
      const weights = Array.from({ length: count }, (_, i) => 0.05 + uniform(trial, 30 + i))
      const amounts = waterFill(weights, caps, total)
      const whole = apportion(amounts, caps, total)
      assert.equal(
        whole.reduce((sum, one) => sum + one, 0),
        total,
      )
      whole.forEach((one, i) => {
        assert.ok(Number.isInteger(one) && one >= 0 && one <= caps[i])
        assert.ok(Math.abs(one - amounts[i]) < 1 + 1e-6)
      })
    }
  })
})
