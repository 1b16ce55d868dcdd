import assert from 'node:assert/strict'
import { Adapter } from '../../lib/adapters/adapter.js'
import { Device } from '../../lib/device.js'
import { fitPlan, secondsOf } from '../../lib/laws/budget.js'
import { matchedMethods } from '../../lib/laws/arms/specialize.js'
import {
  countParameters,
  jobsOf,
  makePlan,
  planHash,
  type PlanInputs,
  type StudyPlan,
  possibleSize,
  workloadOf,
} from '../../lib/laws/plan.js'
import { type Method, runId } from '../../lib/laws/procedure.js'
import { parseStudyConfig, type StudyConfigInput } from '../../lib/laws/study-config.js'
import type { ItemSet, StudyData } from '../../lib/laws/study-data.js'
import type { CorpusSurvey } from '../../lib/laws/survey.js'
import { type DecoderConfig, readConfig } from '../../lib/models/index.js'
import { declareAdapter, type DeclaredMethod, methodSchema } from '../../lib/train/method.js'
import { goldenModel } from '../decoder-logits.js'

const sizes: Record<string, number> = { mathematics: 50_000, chemistry: 20_000, geography: 1_000 }
const items = 300

const set = (name: string): ItemSet => ({
  name,
  path: `${name}.jsonl`,
  clusters: Array.from({ length: items }, (_, i) => String(i)),
  chances: Array.from({ length: items }, () => 0),
  isChecked: name === 'instructions',
})

const setNames = [
  ...Object.keys(sizes).flatMap((name) => [`test ${name}`, `validation ${name}`]),
  'cross',
  'instructions',
  'general',
]
const data: StudyData = {
  disciplines: Object.entries(sizes).map(([name, trainedTokens]) => ({
    name,
    path: `${name}.jsonl`,
    items: trainedTokens / 5,
    tokens: 4 * trainedTokens,
    trainedTokens,
    reserve: { path: `${name}.reserve.jsonl`, trainedTokens: 50_000 },
  })),
  alignment: 'instructions.jsonl',
  sets: new Map(setNames.map((name) => [name, set(name)])),
  fingerprint: 'data',
  notes: [],
}

describe('the plan of a study', function () {
  this.timeout(600_000)
  let model: DecoderConfig

  before(async () => {
    model = await readConfig(goldenModel('qwen2-text'))
  })

  function inputs(changes: Partial<StudyConfigInput> = {}): PlanInputs {
    const files = { train: 'a', validation: 'b', test: 'c', reserve: 'd' }
    const config = parseStudyConfig({
      model: 'model',
      output: 'study',
      data: {
        disciplines: Object.fromEntries(Object.keys(sizes).map((name) => [name, files])),
        cross: { test: 'c' },
        instructions: { train: 'a', test: 'c' },
        general: { test: 'c' },
      },
      ...changes,
    })
    return { config, data, model, modelFingerprint: 'model', survey: null }
  }

  const speed = { tokens: 8000, mixtureTokens: 5000, items: 400 }
  const whole = (one: PlanInputs) => makePlan(one, possibleSize(one, items), [])

  it('has contrasts of arms that are there, whose weights sum to 0', () => {
    const { laws } = whole(inputs())
    assert.equal(laws.length, 5)
    for (const law of laws) {
      const names = law.arms.map(({ name }) => name)
      assert.equal(new Set(names).size, names.length, law.name)
      for (const { weights, name } of [...law.contrasts, ...law.preconditions, ...law.gates]) {
        for (const arm of Object.keys(weights)) assert.ok(names.includes(arm), `${name}: ${arm}`)
        assert.equal(
          Object.values(weights).reduce((a, b) => a + b, 0),
          0,
          name,
        )
      }
      for (const { name, extra } of law.arms)
        if (extra)
          assert.ok(
            law.contrasts.every(({ weights }) => !(name in weights)),
            name,
          )
    }
  })

  it('says what study.md asks of each law', () => {
    const [balance, align, optimize, specialize, variability] = whole(inputs()).laws
    assert.deepEqual(
      balance.arms.map(({ name, seeds = 'each' }) => [name, seeds]),
      [
        ['left-out', 'each'],
        ['proportional', 'each'],
        ['equal', 'each'],
        ['capped', 'each'],
        ['diverse', 'each'],
        ['fresh', 'each'],
        ['dose-1', 'one'],
        ['dose-16', 'one'],
      ],
    )
    assert.equal(balance.missing, undefined)
    assert.deepEqual(
      balance.contrasts.map(({ weights, on }) => [weights, on]),
      [
        [{ 'left-out': 1, proportional: -1 }, ['mathematics']],
        [{ diverse: 1, proportional: -1 }, Object.keys(sizes)],
        [{ diverse: 1, capped: -1 }, Object.keys(sizes)],
      ],
    )
    assert.deepEqual(
      balance.preconditions.map(({ weights, atLeast }) => [weights, atLeast]),
      [[{ fresh: 1, capped: -1 }, 0.02]],
    )
    assert.ok(align.contrasts.every(({ on }) => on === 'cross'))
    assert.deepEqual(
      align.preconditions.map(({ weights, on, atLeast }) => [weights, on, atLeast]),
      [[{ base: 1, merge: -1 }, 'instructions', 0.1]],
    )
    assert.deepEqual(
      align.gates.map(({ on, above }) => [on, above]),
      [
        ['instructions', -0.05],
        ['general', -0.05],
      ],
    )
    assert.deepEqual(optimize.contrasts[1].weights, {
      'found, rank 64': 1,
      'found, rank 4': -1,
      'default, rank 64': -1,
      'default, rank 4': 1,
    })
    assert.deepEqual(
      specialize.contrasts.map(({ weights }) => Object.keys(weights)),
      [
        ['asymmetric', 'lora'],
        ['asymmetric', 'symmetric'],
        ['asymmetric', 'uniform gate'],
      ],
    )
    assert.equal(variability.variability!.runs, 10)
    const { singles } = variability.variability!
    assert.deepEqual(Object.keys(singles), Object.keys(sizes))
    const among = variability.arms.find(({ without }) => without === 'chemistry')!
    assert.deepEqual([among.seeds, among.extra], ['one', true])
    const cut = makePlan(inputs(), { ...possibleSize(inputs(), items), extras: false }, [])
    assert.ok(!JSON.stringify(cut).includes('"without":'), 'what is cut is gone from the plan')
    assert.ok(among.procedure.kind === 'train')
    assert.deepEqual(among.procedure.data.disciplines, ['mathematics', 'geography'])
    // Each of the others has as many tokens as beside all.
    const tokensOf = (arm: string) => {
      const { procedure } = variability.arms.find(({ name }) => name === arm)!
      return procedure.kind === 'train' ? procedure.tokens : NaN
    }
    assert.equal(
      among.procedure.tokens,
      tokensOf(singles.mathematics) + tokensOf(singles.geography),
    )
  })

  it('says what is missing where no discipline is low-resource, or none has a reserve', () => {
    const equal = data.disciplines.map((one) => ({ ...one, trainedTokens: 5000 }))
    const bare = data.disciplines.map((one) => ({ ...one, reserve: null }))
    const missing = (disciplines: StudyData['disciplines']) =>
      whole({ ...inputs(), data: { ...data, disciplines } }).laws[0].missing
    assert.equal(missing(equal), 'no discipline is low-resource')
    assert.match(missing(bare)!, /^there is no reserve/)
  })

  it('runs arms that laws share once, and searches with a seed that no arm has', () => {
    const plan = whole(inputs())
    const jobs = jobsOf(plan, data)
    const idsOf = (law: string, arm: string) =>
      jobs
        .filter((one) => one.law === law && one.arm === arm)
        .map((one) => runId(one.procedure, one.seed))
    assert.equal(idsOf('balance', 'equal').length, 5)
    assert.deepEqual(idsOf('balance', 'equal'), idsOf('align', 'joint'))
    assert.deepEqual(idsOf('balance', 'equal'), idsOf('optimize', 'default, rank 16'))
    assert.ok(!jobs.some(({ seed }) => seed === plan.searchSeed))
    const alone = (law: string) =>
      workloadOf({ ...plan, laws: plan.laws.filter(({ name }) => name === law) }, data).runs
    const sum = plan.laws.reduce((total, { name }) => total + alone(name), 0)
    assert.ok(workloadOf(plan, data).runs < sum)
  })

  it('measures specialists on everything, and what is paired with one discipline on that alone', () => {
    const setsOf = (law: string, arm: string) =>
      jobsOf(whole(inputs()), data).find((one) => one.law === law && one.arm === arm)!.sets
    const tests = Object.keys(sizes).map((name) => `test ${name}`)
    const everything = [...tests, 'cross', 'instructions', 'general']
    assert.deepEqual(setsOf('align', 'specialist geography'), everything)
    assert.deepEqual(setsOf('align', 'merge'), everything)
    assert.deepEqual(setsOf('balance', 'left-out'), tests)
    assert.deepEqual(setsOf('variability', 'multi'), tests)
    assert.deepEqual(setsOf('variability', 'single geography'), ['test geography'])
  })

  it('is hashed: the same hash for the same plan, another for any change', () => {
    const hash = (changes: Partial<StudyConfigInput>) => planHash(whole(inputs(changes)))
    assert.equal(hash({}), hash({}))
    assert.match(hash({}), /^[0-9a-f]{64}$/)
    const changes: Partial<StudyConfigInput>[] = [
      { delta: 3 },
      { seeds: 4 },
      { rank: 8 },
      { laws: ['align'] },
    ]
    for (const change of changes) assert.notEqual(hash(change), hash({}), JSON.stringify(change))
  })

  it('is cut to its minutes: items, then arms that are shown only, then tokens, seeds last', () => {
    const fit = (minutes?: number) => fitPlan(inputs({ minutes }), speed)
    const full = fit()
    assert.deepEqual(full.plan.cuts, [])
    let before = full
    for (const minutes of [90, 60, 40, 20, 10, 5]) {
      const cut = fit(minutes)
      const { size } = cut.plan
      assert.ok(cut.seconds <= 60 * minutes, `${minutes} minutes: ${cut.seconds} s`)
      assert.equal(cut.seconds, secondsOf(cut.workload, speed))
      assert.ok(size.tokens <= before.plan.size.tokens && size.seeds <= before.plan.size.seeds)
      if (size.seeds < 5)
        assert.ok(!size.extras && size.tokens <= 0.3 * 200_000, JSON.stringify(size))
      const measuring = cut.workload.items / speed.items
      assert.ok(
        measuring <= 0.26 * cut.seconds || size.items === 30,
        `${measuring} of ${cut.seconds}`,
      )
      assert.equal(cut.plan.cuts.length === 0, full.seconds <= 60 * minutes)
      before = cut
    }
  })

  it('gives a run no more tokens than the caps of the first law allow, and leaves out a dose that gives less', () => {
    // Unknown diversity: one pass over geography; as diverse as most: all passes over the others.
    const survey = (size: number): CorpusSurvey => ({
      stepTokens: 2000,
      disciplines: [
        { name: 'mathematics', size: 4 * size, meanLength: 20, diversity: 40 },
        { name: 'chemistry', size: 2 * size, meanLength: 20, diversity: 40 },
        { name: 'geography', size, meanLength: 10, diversity: null },
      ],
    })
    const sized = (size: number) =>
      fitPlan({ ...inputs({ batchTokens: 1000 }), survey: survey(size) }, speed).plan
    const armsOf = (plan: StudyPlan) => plan.laws[0].arms.map(({ name }) => name)
    const [ample, scarce] = [sized(10_000), sized(200)]
    assert.deepEqual([ample.size.tokens, ample.cuts], [200_000, []])
    assert.ok(armsOf(ample).includes('dose-1'))
    // 4 · 20 · (800 + 400) + 10 · 200 tokens are 49 steps of at most 2,000.
    assert.equal(scarce.size.tokens, 49_000)
    assert.match(scarce.cuts[0], /^tokens of a run: 49000 in place of 200000, all that law 1/)
    assert.ok(!armsOf(scarce).includes('dose-1') && armsOf(scarce).includes('dose-16'))
    assert.match(scarce.laws[0].notes.at(-1)!, /^There is no dose of 1 pass/)
    assert.throws(() => sized(1), {
      code: 'ERR_POLYLORA_CONFIG',
      message:
        /^law 1 \(balance\): all that 4 passes over these disciplines allow is less than a step of 2000/,
    })
  })

  it('matches adapters of the fourth law as study.md works it out', () => {
    // One layer of 192 by 192, as in the example there.
    const count = ({
      kind,
      rank,
      shares,
    }: {
      kind: string
      rank: number
      shares?: string
      gate?: string
    }) => {
      const router = 4 * 192
      if (kind === 'lora') return rank * 2 * 192
      if (kind === 'hydra-lora') return rank * 192 + 4 * rank * 192 + router
      return shares === 'b' ? 5 * rank * 192 + router : 4 * rank * 2 * 192 + router
    }
    const matched = matchedMethods(count)
    assert.equal(matched.asymmetric.method.rank, 8)
    assert.equal(matched.symmetric.method.rank, 5)
    assert.equal(matched.lora.method.rank, 22)
    for (const { parameters } of [matched.asymmetric, matched.symmetric, matched.lora])
      assert.equal(parameters, 8448)
  })

  it('counts the parameters that an adapter has', async () => {
    const device = Device.open('cpu')
    try {
      const common = { rank: 3, targets: 'all-linear' as const }
      const methods: Method[] = [
        { kind: 'lora', ...common },
        { kind: 'hydra-lora', experts: 4, ...common },
        { kind: 'hydra-lora', experts: 4, gate: 'uniform', ...common },
        { kind: 'lora-moe', experts: 3, ...common },
        { kind: 'lora-moe', experts: 3, shares: 'b', ...common },
      ]
      for (const method of methods) {
        const adapter = Adapter.create(
          device,
          model,
          declareAdapter(methodSchema.parse(method) as DeclaredMethod, 0, []),
        )
        assert.equal(countParameters(model, method), adapter.numParameters, JSON.stringify(method))
        adapter.dispose()
      }
    } finally {
      await device.close()
    }
  })
})
