import assert from 'node:assert/strict'
import type { Law, LawName } from '../../lib/laws/arms/law.js'
import type { StudyPlan } from '../../lib/laws/plan.js'
import { base } from '../../lib/laws/procedure.js'
import { judge, scoreOf } from '../../lib/laws/results.js'
import type { RunRecord } from '../../lib/laws/run-record.js'
import { Philox } from '../../lib/philox.js'
import type { StudyData } from '../../lib/laws/study-data.js'

const items = 100
const names = ['chemistry', 'biology']

const data: StudyData = {
  disciplines: [],
  alignment: null,
  sets: new Map(
    names.map((name) => [
      `test ${name}`,
      {
        name: `test ${name}`,
        path: '',
        clusters: Array.from({ length: items }, (_, i) => String(i)),
        chances: Array.from({ length: items }, (_, i) => (i % 2 === 0 ? 0 : 0.25)),
        isChecked: false,
      },
    ]),
  ),
  fingerprint: '',
  notes: [],
}

/** A run that gets this part of the items right: the same ones with every seed, but for a few. */
function run(share: number, seed: number, changes: Partial<RunRecord> = {}): RunRecord {
  const order = new Philox(1)
  const noise = new Philox(seed, 1)
  const sets = Object.fromEntries(
    names.map((name) => {
      const right = Array.from({ length: items }, () => {
        const flips = noise.uniform() < 0.02
        return Number(order.uniform() < share !== flips)
      })
      return [
        `test ${name}`,
        {
          right: right.join(''),
          logLikelihood: -items * (1 + 0.01 * noise.normal()),
          tokens: items,
        },
      ]
    }),
  )
  return {
    id: '',
    design: { kind: 'base' },
    seed,
    status: 'finished',
    parameters: 0,
    steps: 0,
    tokens: 0,
    losses: [],
    mixture: {},
    sets,
    seconds: 0,
    ...changes,
  }
}

const seeds = [1, 2, 3, 4, 5]
const arm = (name: string) => ({ name, title: name, procedure: base })
const contrast = (one: string, other: string) => ({
  name: `${one} minus ${other}`,
  title: '',
  weights: { [one]: 1, [other]: -1 },
  on: names,
})
const law = (changes: Partial<Law> = {}): Law => ({
  name: 'balance',
  title: 'A law',
  claim: '',
  arms: [arm('new'), arm('old')],
  contrasts: [contrast('new', 'old')],
  preconditions: [],
  gates: [],
  notes: [],
  ...changes,
})
const plan = (one: Law, changes: Partial<StudyPlan> = {}) =>
  ({
    laws: [one],
    delta: 0.02,
    bootstrapSeed: 1,
    isSlice: false,
    seeds,
    variabilitySeeds: seeds,
    ...changes,
  }) as StudyPlan

function judged(one: Law, shares: Record<string, number>, changes: Partial<StudyPlan> = {}) {
  const arms = new Map(
    Object.entries(shares).map(([name, share]) => [name, seeds.map((seed) => run(share, seed))]),
  )
  return judge(plan(one, changes), data, new Map<LawName, typeof arms>([[one.name, arms]]))[0]
}

describe('what runs say of a law', function () {
  this.timeout(600_000)

  it('scores are corrected for chance, item by item', () => {
    // Half of the items have a chance of a quarter: all right is 1, all wrong is (0 - 1/3) / 2.
    const of = (digit: string) => {
      const scores = { right: digit.repeat(items), logLikelihood: -1, tokens: 1 }
      return scoreOf(run(0, 1, { sets: { 'test chemistry': scores } }), ['chemistry'], data)
    }
    assert.equal(of('1'), 1)
    assert.ok(Math.abs(of('0')! + 1 / 6) < 1e-12)
    assert.equal(scoreOf(run(0, 1), 'cross', data), null)
  })

  it('holds, does not hold, or is undecided, as its contrasts do', () => {
    assert.equal(judged(law(), { new: 0.7, old: 0.5 }).verdict, 'holds')
    assert.equal(judged(law(), { new: 0.3, old: 0.5 }).verdict, 'does not hold')
    const close = judged(law(), { new: 0.515, old: 0.5 })
    assert.equal(close.verdict, 'undecided')
    assert.ok(close.p! > 0 && close.p! < 1)
    assert.equal(close.adjustedP, close.p)
    assert.deepEqual(Object.keys(close.contrasts[0].byDiscipline), names)
    const [{ estimate, byDiscipline }] = close.contrasts
    const means = names.map((name) => byDiscipline[name].estimate)
    assert.ok(Math.abs((means[0] + means[1]) / 2 - estimate!.estimate) < 1e-12)
  })

  it('is undecided where its precondition is not met, and says so', () => {
    const precondition = { ...contrast('fresh', 'old'), atLeast: 0.02 }
    const needy = law({
      arms: [arm('new'), arm('old'), arm('fresh')],
      preconditions: [precondition],
    })
    const met = judged(needy, { new: 0.7, old: 0.5, fresh: 0.8 })
    assert.deepEqual([met.verdict, met.preconditions[0].met], ['holds', true])
    const unmet = judged(needy, { new: 0.7, old: 0.5, fresh: 0.4 })
    assert.equal(unmet.verdict, 'undecided')
    assert.match(
      unmet.reason!,
      /precondition is not met: fresh minus old is -\d+\.\d points, and must be at least 2$/,
    )
    assert.equal(
      judged(law({ missing: 'no reserve' }), { new: 0.7, old: 0.5 }).reason,
      'no reserve',
    )
  })

  it('passes a gate by the lower bound alone', () => {
    const gated = law({ gates: [{ ...contrast('new', 'old'), above: -0.05 }] })
    assert.equal(judged(gated, { new: 0.5, old: 0.5 }).gates[0].passed, true)
    assert.equal(judged(gated, { new: 0.4, old: 0.5 }).gates[0].passed, false)
  })

  it('counts failed and diverged runs, and is undecided without a failed one', () => {
    const good = seeds.map((seed) => run(0.7, seed))
    const bad = seeds.map((seed) => run(0.5, seed))
    const diverged = [...bad.slice(1), run(0.5, 1, { status: 'diverged' })]
    const failed = [...bad.slice(1), run(0.5, 1, { status: 'failed', sets: {} })]
    const verdictOf = (old: RunRecord[]) =>
      judge(
        plan(law()),
        data,
        new Map([
          [
            'balance',
            new Map([
              ['new', good],
              ['old', old],
            ]),
          ],
        ]),
      )[0]
    assert.deepEqual([verdictOf(diverged).verdict, verdictOf(diverged).diverged], ['holds', 1])
    const without = verdictOf(failed)
    assert.deepEqual([without.verdict, without.failed, without.p], ['undecided', 1, null])
    assert.equal(without.reason, 'a run is missing or failed')
  })

  it('compares every seed with the one run of the untouched model', () => {
    const result = judge(
      plan(law()),
      data,
      new Map([
        [
          'balance',
          new Map([
            ['new', seeds.map((seed) => run(0.7, seed))],
            ['old', [run(0.5, 9)]],
          ]),
        ],
      ]),
    )[0]
    assert.equal(result.contrasts[0].estimate!.seeds.length, seeds.length)
    assert.equal(result.verdict, 'holds')
  })

  it('gives no verdict from a slice', () => {
    const result = judged(law(), { new: 0.9, old: 0.1 }, { isSlice: true })
    assert.deepEqual(
      [result.verdict, result.reason, result.p],
      ['undecided', 'a slice gives no verdict', null],
    )
  })

  it('gives no verdict from one seed, which is what a plan may be cut to', () => {
    const { verdict, reason } = judged(law(), { new: 0.9, old: 0.1 }, { seeds: [1] })
    assert.deepEqual([verdict, reason], ['undecided', 'one seed an arm gives no verdict'])
  })

  it('judges variability by the spread of log-likelihoods', () => {
    const spread = law({
      name: 'variability',
      arms: [
        ...['multi', 'a', 'b'].map(arm),
        { ...arm('biology alone'), without: 'chemistry' },
        { ...arm('chemistry alone'), without: 'biology' },
      ],
      contrasts: [],
      variability: {
        runs: 10,
        multi: 'multi',
        singles: { chemistry: 'a', biology: 'b' },
      },
    })
    const ten = Array.from({ length: 10 }, (_, i) => i)
    const runs = (deviation: number, stream: number) => {
      const random = new Philox(3, stream)
      return ten.map((seed) => {
        const one = run(0.5, seed)
        const sets = Object.fromEntries(
          Object.entries(one.sets).map(([name, scores]) => [
            name,
            { ...scores, logLikelihood: scores.tokens * (deviation * random.normal() - 1) },
          ]),
        )
        return { ...one, sets }
      })
    }
    const arms = new Map([
      ['multi', runs(0.4, 1)],
      ['a', runs(0.1, 2)],
      ['b', runs(0.1, 3)],
    ])
    const { verdict, variability } = judge(plan(spread), data, new Map([['variability', arms]]))[0]
    assert.equal(verdict, 'holds')
    assert.ok(variability!.ratio > 2 && variability!.ratio < 8)
    // A discipline's companions: all others with the first seed, or none of them.
    const alone = [run(0.5, 0)]
    const complete = new Map([...arms, ['biology alone', alone], ['chemistry alone', alone]])
    const [{ companions }] = judge(plan(spread), data, new Map([['variability', complete]]))
    const perToken = ({ sets }: RunRecord) =>
      sets['test chemistry'].logLikelihood! / sets['test chemistry'].tokens
    const [first] = arms.get('multi')!
    const apart = Math.abs(perToken(first) - perToken(alone[0]))
    assert.ok(Math.abs(companions!.chemistry.byCompanions - apart / 2) < 1e-12)
    assert.ok(companions!.chemistry.bySeed > 0.1)
    const [{ companions: cut }] = judge(plan(spread), data, new Map([['variability', arms]]))
    assert.equal(cut, undefined, 'extra arms may have been cut')
    const [short] = judge(
      plan(spread),
      data,
      new Map([['variability', new Map([...arms, ['b', []]])]]),
    )
    assert.deepEqual([short.verdict, short.reason], ['undecided', 'a run is missing or failed'])
  })
})
