import assert from 'node:assert/strict'
import { upperQuantile, upperTail } from '../../../lib/laws/statistics/index.js'

// mpmath 1.3.0 with 40 digits, betainc(ν/2, 1/2, 0, ν/(ν + t²))/2 and its root; scipy 1.17.1 agrees to 3e-14.
const tails: readonly (readonly [degrees: number, t: number, tail: number])[] = [
  [1, 0.001, 0.4996816902199194],
  [1, 1, 0.25],
  [1, 40, 0.007956089912025814],
  [2, 0.7, 0.2781965123164327],
  [2, 40, 0.0003122073360923703],
  [3, 6, 0.004636357446142334],
  [4, 0.001, 0.499625000078125],
  [4, 0.7, 0.2612500827967251],
  [4, 2.5, 0.03338327240599407],
  [4, 40, 1.1670081613006343e-6],
  [7, 1, 0.17530833141010377],
  [9, 6, 0.00010124966103382033],
  [9, 40, 9.491499224669913e-12],
  [19, 2.5, 0.010870205584198723],
  [99, 40, 3.1925425801436136e-63],
  [1000, 0.1, 0.46018218451180204],
  [1000, 6, 1.3776845866887345e-9],
  [1000, 40, 5.2394260775866807e-210],
]
const quantiles: readonly (readonly [degrees: number, tail: number, t: number])[] = [
  [1, 0.4, 0.32491969623290623],
  [1, 0.05, 6.313751514675043],
  [1, 0.0001, 3183.098757118151],
  [2, 0.05, 2.9199855803537256],
  [3, 0.025, 3.1824463052837095],
  [4, 0.4, 0.27072229470759734],
  [4, 0.05, 2.1318467863266504],
  [4, 0.0001, 13.033671720896455],
  [7, 0.05, 1.8945786050900073],
  [9, 0.05, 1.8331129326562372],
  [9, 0.005, 3.2498355415921263],
  [19, 0.1, 1.3277282090267983],
  [99, 0.025, 1.9842169515864174],
  [1000, 0.0001, 3.732851604575368],
]

describe("Student's t", () => {
  const close = (received: number, expected: number, tolerance: number, label: string) => {
    assert.ok(
      Math.abs(received - expected) <= tolerance * expected,
      `${label}: ${received} for ${expected}`,
    )
  }

  it('has the tails and quantiles of the reference, to some units of the last place', () => {
    // An exponential costs as many units of the last place as its argument has.
    const tolerance = (degrees: number, tail: number) =>
      degrees > 100 ? 2e-13 : 1e-14 + Math.abs(Math.log(tail)) * Number.EPSILON
    for (const [degrees, t, tail] of tails)
      close(upperTail(t, degrees), tail, tolerance(degrees, tail), `P(T > ${t}), ${degrees}`)
    for (const [degrees, tail, t] of quantiles)
      close(
        upperQuantile(tail, degrees),
        t,
        1e-14 * (degrees > 100 ? 10 : 1),
        `${tail}, ${degrees}`,
      )
  })

  it('is symmetric, and ends at 0 and 1', () => {
    assert.equal(upperTail(0, 4), 0.5)
    assert.equal(upperTail(Infinity, 4), 0)
    assert.equal(upperTail(-Infinity, 4), 1)
    assert.equal(upperTail(-1.5, 4) + upperTail(1.5, 4), 1)
    assert.ok(Number.isNaN(upperTail(NaN, 4)))
  })

  it('refuses what is no number of degrees or no tail', () => {
    for (const degrees of [0, 1.5, -1, NaN, 1e7])
      assert.throws(() => upperTail(1, degrees), { code: 'ERR_POLYLORA_ARGUMENT' })
    for (const tail of [0, 0.6, NaN])
      assert.throws(() => upperQuantile(tail, 4), { code: 'ERR_POLYLORA_ARGUMENT' })
  })
})
