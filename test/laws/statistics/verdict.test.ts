import assert from 'node:assert/strict'
import {
  contrastVerdict,
  type Estimate,
  holm,
  lawVerdict,
} from '../../../lib/laws/statistics/index.js'

describe('verdicts', () => {
  it('of a contrast follow its interval and delta', () => {
    const of = (estimate: number, lower: number | null, upper: number | null) =>
      contrastVerdict({ estimate, lower, upper } as Estimate, 0.02)
    assert.equal(of(0.05, 0.01, 0.09), 'holds')
    assert.equal(of(0.02, 1e-9, 0.04), 'holds')
    assert.equal(of(0.019, 0.001, 0.037), 'undecided')
    assert.equal(of(0.05, 0, 0.1), 'undecided')
    assert.equal(of(0, -0.019, 0.019), 'does not hold')
    assert.equal(of(0.019, 0.0185, 0.0195), 'does not hold')
    assert.equal(of(0, -0.02, 0.02), 'undecided')
    assert.equal(of(0.5, null, null), 'undecided')
  })

  it('of a law need all contrasts, and what it presupposes', () => {
    assert.equal(lawVerdict(['holds', 'holds'], true), 'holds')
    assert.equal(lawVerdict(['holds', 'undecided'], true), 'undecided')
    assert.equal(lawVerdict(['undecided', 'does not hold'], true), 'does not hold')
    assert.equal(lawVerdict(['holds', 'does not hold'], false), 'undecided')
    assert.equal(lawVerdict([], true), 'undecided')
  })

  it('carry p adjusted after Holm', () => {
    assert.deepEqual(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert.deepEqual(holm([0.5, 0.9]), [1, 1])
    assert.deepEqual(holm([0.01, null]), [0.02, null])
    assert.deepEqual(holm([]), [])
  })
})
