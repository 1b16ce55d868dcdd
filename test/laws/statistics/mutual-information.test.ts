import assert from 'node:assert/strict'
import { mutualInformation } from '../../../lib/laws/statistics/index.js'
import { Philox } from '../../../lib/philox.js'

describe('mutual information of disciplines and experts', () => {
  const labels = Array.from({ length: 60 }, (_, i) => ['a', 'b', 'c'][i % 3])

  it('is 1 where each expert is a discipline’s, and 0 where gates are equal', () => {
    const own = labels.map((_, i) => [0, 1, 2].map((e) => Number(e === i % 3)))
    const result = mutualInformation(labels, own, { permutations: 99 })
    assert.ok(Math.abs(result.value - 1) < 1e-12, String(result.value))
    assert.equal(result.p, 0.01)
    assert.ok(result.byChance < 0.1)
    const equal = mutualInformation(
      labels,
      labels.map(() => [0.5, 0.5]),
      { permutations: 99 },
    )
    assert.ok(equal.value < 1e-12)
    assert.equal(equal.p, 1)
  })

  it('equals the sum over the joint distribution', () => {
    // p(a, 0) = .4, p(a, 1) = .1, p(b, 0) = .2, p(b, 1) = .3
    const gates = [
      [0.8, 0.2],
      [0.4, 0.6],
    ]
    const joint = [0.4, 0.1, 0.2, 0.3]
    const [d, e] = [
      [0.5, 0.5],
      [0.6, 0.4],
    ]
    const h = (values: number[]) => -values.reduce((sum, v) => sum + v * Math.log(v), 0)
    const shared = joint.reduce((sum, v, i) => sum + v * Math.log(v / (d[i >> 1] * e[i % 2])), 0)
    const { value } = mutualInformation(['a', 'b'], gates, { permutations: 1 })
    assert.ok(Math.abs(value - shared / Math.sqrt(h(d) * h(e))) < 1e-14)
  })

  it('finds nothing in gates that know no discipline in at most 5% of simulations', () => {
    let found = 0
    for (let study = 0; study < 200; study++) {
      const random = new Philox(study)
      const gates = labels.map(() => {
        const mass = [random.uniform(), random.uniform(), random.uniform(), random.uniform()]
        return mass
      })
      if (mutualInformation(labels, gates, { permutations: 99, seed: study }).p <= 0.05) found++
    }
    // 5% of 200 and three standard deviations of it: 10 + 9.
    assert.ok(found <= 19, `${found} of 200`)
  })

  it('refuses labels that do not fit', () => {
    assert.throws(() => mutualInformation(['a'], []), { code: 'ERR_POLYLORA_ARGUMENT' })
  })
})
