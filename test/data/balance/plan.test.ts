import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import {
  type Embedder,
  EmbeddingMemory,
  NgramEmbedder,
} from '../../../lib/data/balance/embedding.js'
import { MixedOrder } from '../../../lib/data/balance/mixed-order.js'
import {
  drawableTokens,
  itemLimit,
  type MixingPlan,
  planMixing,
  type PlanOptions,
  surveyDiversity,
} from '../../../lib/data/balance/plan.js'
import { Pool } from '../../../lib/data/balance/pool.js'
import { realise } from '../../../lib/data/balance/realised.js'
import { mix } from '../../../lib/data/order.js'
import { Device } from '../../../lib/device.js'
import { questions, type SyntheticCorpus, syntheticCorpus } from './synthetic.js'

const full = process.env.POLYLORA_FULL === '1'

describe('mixing plans', function () {
  this.timeout(120_000)
  let device: Device
  let corpus: SyntheticCorpus
  before(async () => {
    device = Device.open('cpu', { threads: 1 })
    corpus = await syntheticCorpus({
      large: questions('large', 900, { skills: 20 }),
      rare: questions('rare', 120, { skills: 8, skew: 2 }),
      middle: questions('middle', 300, { skills: 12, seed: 2 }),
    })
  })
  after(() => device.close())

  const options = (changes: Partial<PlanOptions> = {}): PlanOptions => ({
    temperature: Infinity,
    caps: { maxEpochs: 4, by: 'diversity' },
    selection: { beta: 0.5 },
    sequence: null,
    budget: { samples: 1200 },
    seed: 5,
    embedding: { embedder: new NgramEmbedder(), device },
    ...changes,
  })

  /** The numbers of a plan without what is null by kind. */
  const facts = ({ disciplines }: MixingPlan) =>
    disciplines.map(({ name, share, draws, copies }) => ({
      name,
      share,
      draws,
      copies: [...copies],
    }))

  it('passes no cap and no limit, draws what it planned, and keeps every count within one of its quota', async () => {
    for (const [trial, selection] of [{ beta: 0.5 }, null, { beta: 1 }].entries()) {
      const samples = 700 + 377 * trial
      const plan = await planMixing(corpus, options({ selection, budget: { samples } }))
      let total = 0
      for (const { draws, copies, report } of plan.disciplines) {
        total += draws
        assert.ok(draws <= report.maxEpochs! * report.unique)
        const limit = itemLimit(report.maxEpochs!)
        assert.ok(copies.every((one) => one <= limit))
        assert.ok(report.maxRepeats <= limit)
      }
      assert.equal(total, samples)
      const order = new MixedOrder(Pool.all(corpus), plan, 5)
      const counts = plan.disciplines.map(() => 0)
      const items = plan.disciplines.map(({ copies }) => new Uint16Array(copies.length))
      for (let t = 1; t <= samples; t++) {
        const { discipline, item } = order.nextItem()
        counts[discipline]++
        items[discipline][item]++
        plan.disciplines.forEach(({ share }, i) => {
          assert.ok(Math.abs(counts[i] - t * share) < 1)
        })
      }
      plan.disciplines.forEach(({ draws, copies, report }, i) => {
        assert.equal(counts[i], draws)
        if (selection) assert.deepEqual(items[i], copies)
        assert.equal(Math.max(...items[i]), report.maxRepeats)
      })
      const { disciplines } = await realise(
        plan,
        new MixedOrder(Pool.all(corpus), plan, 5),
        samples,
      )
      plan.disciplines.forEach(({ name, report }, i) => {
        assert.equal(disciplines[name].maxRepeats, report.maxRepeats)
        assert.equal(disciplines[name].epochs, counts[i] / report.unique)
        const different = items[i].filter((one) => one > 0).length
        assert.equal(disciplines[name].coverage, different / report.unique)
      })
    }
  })

  it('evens out the clusters, and keeps the shares that random repeats have', async () => {
    const chosen = await planMixing(corpus, options())
    const random = await planMixing(corpus, options({ selection: null }))
    assert.deepEqual(
      chosen.disciplines.map(({ draws, share }) => [draws, share]),
      random.disciplines.map(({ draws, share }) => [draws, share]),
    )
    const rare = chosen.disciplines[1].report
    assert.ok(rare.epochs > 1.5, `the small discipline is repeated: ${rare.epochs}`)
    assert.ok(rare.clusters!.effectiveAfter > rare.clusters!.effectiveBefore)
    // Of the draws, those of all skills but the most frequent, which has about two thirds of the samples.
    const isRare = Array.from(questions('rare', 120, { skills: 8, skew: 2 }), ({ prompt }) =>
      prompt.includes(' rare0w0 ') ? 0 : 1,
    )
    const shareOf = ({ disciplines: [, { copies }] }: MixingPlan) =>
      copies.reduce((sum, one, item) => sum + one * isRare[item], 0) /
      copies.reduce((sum, one) => sum + one, 0)
    const [was, is] = [shareOf(random), shareOf(chosen)]
    assert.ok(is > 1.05 * was, `their share was ${was} and is ${is}`)
    const { effectiveBefore, effectiveAfter } = random.disciplines[1].report.clusters!
    assert.equal(effectiveAfter, effectiveBefore)
  })

  it('depends on the seed, not on threads', async () => {
    const plan = await planMixing(corpus, options())
    const threads = Device.open('cpu', { threads: 3 })
    try {
      const embedding = { embedder: new NgramEmbedder(), device: threads }
      assert.deepEqual(facts(await planMixing(corpus, options({ embedding }))), facts(plan))
    } finally {
      await threads.close()
    }
    assert.notDeepEqual(facts(await planMixing(corpus, options({ seed: 6 }))), facts(plan))
  })

  it('has caps that no seed changes, and that a survey knows beforehand', async () => {
    const embedder = new NgramEmbedder()
    const survey = await surveyDiversity(corpus, embedder, {})
    const capsOf = ({ disciplines }: MixingPlan) =>
      disciplines.map(({ report }) => report.maxEpochs!)
    const [one, other] = [
      await planMixing(corpus, options()),
      await planMixing(corpus, options({ seed: 6 })),
    ]
    assert.deepEqual(capsOf(one), capsOf(other))
    const most = drawableTokens(survey, 4)
    const full = await planMixing(corpus, options({ budget: { tokens: most }, selection: null }))
    full.disciplines.forEach(({ draws, report }) => {
      assert.equal(draws, Math.floor(report.maxEpochs! * report.unique + 1e-9))
    })
    await assert.rejects(
      planMixing(corpus, options({ budget: { tokens: 1.001 * most } })),
      /raise maxEpochs/,
    )
  })

  it('embeds nothing twice with a memory, and has the same vectors', async () => {
    const inner = new NgramEmbedder()
    let asked = 0
    const counting: Embedder = {
      dimensions: inner.dimensions,
      embed: (samples) => {
        asked += samples.length
        return inner.embed(samples)
      },
    }
    const memory = new EmbeddingMemory()
    const planned = () =>
      planMixing(corpus, options({ embedding: { embedder: memory.around(counting), device } }))
    const first = await planned()
    assert.ok(asked <= corpus.numSamples, String(asked))
    asked = 0
    assert.deepEqual(facts(await planned()), facts(first))
    assert.equal(asked, 0)
    assert.deepEqual(facts(await planMixing(corpus, options())), facts(first))
  })

  it('goes on from any place as if it had not stopped', async () => {
    const plan = await planMixing(corpus, options())
    const pools = Pool.all(corpus)
    const order = new MixedOrder(pools, plan, 5)
    const whole = Array.from({ length: 1500 }, () => order.next())
    for (const stop of [0, 1, 555, 1200, 1201]) {
      const before = new MixedOrder(pools, plan, 5)
      for (let i = 0; i < stop; i++) before.next()
      const after = new MixedOrder(pools, plan, 5)
      after.restore(JSON.parse(JSON.stringify(before.state)) as typeof before.state)
      assert.deepEqual(
        Array.from({ length: 1500 - stop }, () => after.next()),
        whole.slice(stop),
      )
    }
  })

  it('counts shares in trained tokens: proportional, equal, and between', async () => {
    const uneven = await syntheticCorpus({
      short: Array.from({ length: 400 }, (_, i) => ({ prompt: `a ${i}`, completion: 'x' })),
      long: Array.from({ length: 100 }, (_, i) => ({ prompt: `b ${i}`, completion: 'x y z w v' })),
    })
    const shares = async (temperature: number) => {
      const free = { temperature, caps: null, selection: null, embedding: null }
      const plan = await planMixing(uneven, options(free))
      return plan.disciplines.map(({ share }) => share)
    }
    const near = (a: number[], b: number[]) => {
      a.forEach((one, i) => {
        assert.ok(Math.abs(one - b[i]) < 1e-12, `${String(a)} is not ${String(b)}`)
      })
    }
    near(await shares(1), [0.8, 0.2])
    // Equal tokens: five samples of one token to one of five.
    near(await shares(Infinity), [5 / 6, 1 / 6])
    const root = [Math.sqrt(400), Math.sqrt(500) / 5]
    near(
      await shares(2),
      root.map((one) => one / (root[0] + root[1])),
    )
  })

  it('leaves repeats out, but keeps questions of one template that differ in a number', async () => {
    const text = 'The usual dose of the medicine for a patient of average height who weighs'
    const long = Array.from(
      { length: 80 },
      (_, i) => `w${'abcdefgh'.repeat(1 + (i % 7))}${'xyz'[i % 3]}`,
    )
    const repeats = await syntheticCorpus({
      doses: [
        ...Array.from({ length: 80 }, (_, i) => ({
          prompt: `${text} ${i} kg is`,
          completion: '5 mg',
        })),
        { prompt: `${text}  7 kg is`, completion: '5 mg' },
        { prompt: `${text} 7 kg is`, completion: '6 mg' },
        { prompt: long.join(' '), completion: 'yes' },
        { prompt: long.with(50, 'other').join(' '), completion: 'yes' },
        { prompt: long.with(50, 'other').join(' '), completion: 'no' },
      ],
      other: questions('other', 100),
    })
    const { disciplines } = await planMixing(repeats, options({ budget: { samples: 100 } }))
    const { report } = disciplines[0]
    assert.equal(report.records, 85)
    assert.equal(report.exactDuplicates, 1)
    assert.equal(report.nearDuplicates, 1)
    assert.equal(report.unique, 83)
  })

  it('finds near duplicates among thousands with the same facts', async () => {
    // No number and no name: all have the same facts. Every second one repeats the one before but for a word.
    const words = Array.from(
      { length: 400 },
      (_, i) => `w${String.fromCharCode(97 + (i % 26), 97 + (i % 17), 97 + (i % 11))}x`,
    )
    const sentence = (i: number) =>
      Array.from({ length: 60 }, (_, k) => words[mix(i, k) % words.length])
    const many = await syntheticCorpus({
      texts: Array.from({ length: 3000 }, (_, i) => {
        const own = sentence(i >> 1)
        if (i % 2 === 1) own[30] = 'changed'
        return { prompt: own.join(' '), completion: 'yes' }
      }),
    })
    const { disciplines } = await planMixing(many, options({ budget: { samples: 1000 } }))
    const { nearDuplicates } = disciplines[0].report
    assert.ok(nearDuplicates > 0.9 * 1500 && nearDuplicates <= 1500, String(nearDuplicates))
  })

  describe('of odd corpora', () => {
    it('has a discipline without samples, one with one, and one of duplicates only', async () => {
      const odd = await syntheticCorpus({
        empty: [],
        single: [{ prompt: 'What is 1?', completion: '1' }],
        same: Array.from({ length: 200 }, () => ({ prompt: 'What is 2?', completion: '2' })),
        usual: questions('usual', 300),
      })
      for (const selection of [{ beta: 0.5 }, null]) {
        const plan = await planMixing(odd, options({ selection, budget: { samples: 302 } }))
        assert.deepEqual(
          plan.disciplines.map(({ draws, report }) => [
            draws,
            report.unique,
            report.exactDuplicates,
          ]),
          [
            [0, 0, 0],
            [1, 1, 0],
            [1, 1, 199],
            [300, 300, 0],
          ],
        )
        const order = new MixedOrder(Pool.all(odd), plan, 1)
        for (let i = 0; i < 302; i++) assert.ok(order.next().group > 0)
      }
    })

    it('says what the caps allow where the run wants more', async () => {
      await assert.rejects(
        planMixing(corpus, options({ budget: { samples: 100_000 } })),
        /draws 100000 samples, and the caps of large \d+, rare \d+, middle \d+ samples allow \d+: raise maxEpochs/,
      )
      const lonely = await syntheticCorpus({ one: [{ prompt: 'What is 1?', completion: '1' }] })
      const plan = await planMixing(lonely, options({ budget: { samples: 1 } }))
      assert.deepEqual([...plan.disciplines[0].copies], [1])
    })
  })

  it('keeps to a budget in tokens', async () => {
    const plan = await planMixing(corpus, options({ budget: { tokens: 12_000 } }))
    const pools = Pool.all(corpus)
    const mean = pools.map((pool) => {
      let sum = 0
      for (let i = 0; i < pool.size; i++) sum += pool.length(i)
      return sum / pool.size
    })
    const spent = plan.disciplines.reduce((sum, { draws }, i) => sum + draws * mean[i], 0)
    assert.ok(Math.abs(spent - 12_000) < 2 * Math.max(...mean), String(spent))
  })

  it('takes one discipline after another in a sequence', async () => {
    const sequence = ['rare', 'large', 'middle']
    const free = { temperature: 1, caps: null, selection: null, embedding: null, sequence }
    const plan = await planMixing(corpus, options({ ...free, budget: { samples: 660 } }))
    const order = new MixedOrder(Pool.all(corpus), plan, 5)
    const seen = Array.from(
      { length: 660 },
      () => plan.disciplines[order.nextItem().discipline].name,
    )
    assert.deepEqual([...new Set(seen)], sequence)
    assert.ok(
      seen.every((name, i) => i === 0 || sequence.indexOf(name) >= sequence.indexOf(seen[i - 1])),
    )
    await assert.rejects(
      planMixing(corpus, options({ ...free, sequence: ['rare', 'large'] })),
      /order must name each discipline once \(large, rare, middle\), not rare, large/,
    )
  })

  const items = full ? 1_000_000 : 20_000
  const sliced = full
    ? ''
    : ' (a slice of 20,000: the million takes minutes, POLYLORA_FULL=1 runs it)'
  it(`plans a million items in under two minutes and bounded memory${sliced}`, async function () {
    this.timeout(3_600_000)
    const skills = { large: 60, middle: 30, small: 10 }
    const parts = { large: 0.7, middle: 0.25, small: 0.05 }
    const names = Object.keys(parts) as (keyof typeof parts)[]
    const many = await syntheticCorpus(
      Object.fromEntries(
        names.map((name) => [name, questions(name, items * parts[name], { skills: skills[name] })]),
      ),
    )
    globalThis.gc?.()
    const memory = process.memoryUsage.rss()
    const wide = Device.open('cpu')
    const cpu = process.cpuUsage()
    let most = 0
    try {
      const plan = await planMixing(
        many,
        options({
          budget: { samples: items / 2 },
          embedding: { embedder: new NgramEmbedder(), device: wide },
          onProgress: () => {
            most = Math.max(most, process.memoryUsage.rss())
          },
        }),
      )
      const order = new MixedOrder(Pool.all(many), plan, 5)
      const { samples } = await realise(plan, order, items / 2)
      assert.equal(samples, items / 2)
    } finally {
      await wide.close()
    }
    const { user, system } = process.cpuUsage(cpu)
    most = Math.max(most, process.memoryUsage.rss())
    // Processor time: the clock of a busy machine says nothing.
    const seconds = (user + system) / 1e6
    const bytes = most - memory
    this.test!.title += `: ${seconds.toFixed(1)} s of processor time, ${(bytes / 2 ** 20).toFixed(0)} MiB`
    assert.ok(seconds < 120, `${seconds} s of processor time`)
    assert.ok(bytes < 400 * 2 ** 20 + 400 * items, `${bytes} bytes`)
  })
})
