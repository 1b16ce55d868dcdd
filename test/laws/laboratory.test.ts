import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Device } from '../../lib/device.js'
import { mergeOf } from '../../lib/laws/arms/align.js'
import { Laboratory } from '../../lib/laws/laboratory.js'
import { base, type ChoiceProcedure, type TrainProcedure } from '../../lib/laws/procedure.js'
import type { RunRecord } from '../../lib/laws/run-record.js'
import { parseStudyConfig, type StudyConfig } from '../../lib/laws/study-config.js'
import { prepareData, type StudyData } from '../../lib/laws/study-data.js'
import { Model } from '../../lib/model.js'
import { temporaryFolder } from '../temporary-folder.js'
import { writeSmallStudy } from './small-study.js'

describe('the laboratory', function () {
  this.timeout(600_000)
  const at = temporaryFolder()
  let config: StudyConfig
  let data: StudyData
  let device: Device

  before(async () => {
    config = parseStudyConfig(writeSmallStudy(at('.')))
    device = Device.open('cpu')
    await using model = await Model.load(config.model, { device })
    data = await prepareData(config, model, join(config.output, 'data'), {})
  })
  after(() => device.close())

  const names = ['sums', 'letters', 'words']
  const train = (changes: Partial<TrainProcedure> = {}): TrainProcedure => ({
    kind: 'train',
    from: base,
    method: { kind: 'lora', rank: 2, alpha: 8, rsLora: true, targets: 'all-linear' },
    learningRate: 5e-3,
    data: { disciplines: names, shares: 'equal' },
    tokens: 600,
    ...changes,
  })
  const isNew: boolean[] = []
  const open = () =>
    new Laboratory({
      config,
      data,
      device,
      folder: config.output,
      onRun: (_, fresh) => isNew.push(fresh),
    })
  const results = ({ seconds: _, ...rest }: RunRecord) => rest

  it('trains on the mixture that was asked for, and remembers a finished run', async () => {
    const record = await open().run(train(), 1, ['test sums', 'test words'])
    assert.equal(record.status, 'finished')
    assert.deepEqual(Object.keys(record.sets), ['test sums', 'test words'])
    assert.equal(record.sets['test sums'].right.length, 8)
    assert.equal(record.steps, 3)
    // Each of three batches lacks less than a sample, which has some 25 tokens.
    assert.ok(Math.abs(record.tokens - 600) < 90, `${record.tokens} tokens`)
    const counts = names.map((name) => record.mixture[name])
    const total = counts.reduce((a, b) => a + b, 0)
    for (const count of counts) assert.ok(Math.abs(count / total - 1 / 3) < 0.06, String(counts))
    isNew.length = 0
    assert.deepEqual(await open().run(train(), 1, ['test sums']), record)
    assert.deepEqual(isNew, [false])
    // Asked for more, it is made again, and is the same in all that it had.
    const more = await open().run(train(), 1, ['test letters'])
    assert.deepEqual(more.sets['test sums'], record.sets['test sums'])
    assert.deepEqual(more.losses, record.losses)
  })

  it('mixes by caps, by a choice of repeats, and as another run did', async () => {
    const laboratory = open()
    const mixed = async (data: Partial<TrainProcedure['data']>) => {
      const procedure = train({
        data: { disciplines: names, shares: 'capped', mostEpochs: 4, ...data },
        tokens: 2400,
      })
      const record = await laboratory.run(procedure, 1, ['test sums'])
      assert.equal(record.status, 'finished', record.reason)
      const total = Object.values(record.mixture).reduce((a, b) => a + b, 0)
      return { procedure, record, shares: names.map((name) => record.mixture[name] / total) }
    }
    const capped = await mixed({})
    const diverse = await mixed({ shares: 'diverse' })
    const fresh = await mixed({ shares: { of: capped.procedure }, fresh: true })
    // Too few words to tell their diversity: they come once, and what is left goes to the others.
    assert.ok(capped.shares[2] < 0.2, String(capped.shares))
    for (const { shares, record } of [diverse, fresh]) {
      shares.forEach((share, i) => {
        assert.ok(Math.abs(share - capped.shares[i]) < 0.03, `${shares} for ${capped.shares}`)
      })
      assert.notDeepEqual(record.losses, capped.record.losses)
    }
    const { design } = fresh.record
    assert.equal(design.kind === 'train' && design.data.shares, 'realised')
    // What it takes its shares from is found again, in the records too, when only its own file is lost.
    rmSync(join(config.output, 'runs', `${fresh.record.id}.json`))
    const again = open()
    assert.deepEqual(
      results(await again.run(fresh.procedure, 1, ['test sums'])),
      results(fresh.record),
    )
    assert.ok(again.records.some(({ id }) => id === capped.record.id))
  })

  it('counts a run as failed that takes its shares from one that failed, or wants more than its caps', async () => {
    const greedy = train({
      data: { disciplines: names, shares: 'capped', mostEpochs: 1 },
      tokens: 10_000,
    })
    const after = train({ data: { disciplines: names, shares: { of: greedy }, fresh: true } })
    const laboratory = open()
    const { status, reason } = await laboratory.run(greedy, 1, ['test sums'])
    assert.equal(status, 'failed')
    assert.match(reason!, /draws up to 10000 tokens, and the caps of sums 99, letters 70, words 12/)
    assert.match((await laboratory.run(after, 1, ['test sums'])).reason!, /shares it takes failed/)
  })

  it('chooses by validation, with the search seed alone, and takes over a design but for its rank', async () => {
    const rates = [1e-9, 2e-2]
    const choice: ChoiceProcedure = {
      kind: 'choice',
      candidates: rates.map((learningRate) => train({ learningRate })),
      rungs: [{ tokens: 1200, keep: 1 }],
      seed: 77,
    }
    const laboratory = open()
    const chosen = await laboratory.chosen(choice)
    assert.equal(chosen.kind === 'train' && chosen.learningRate, 2e-2)
    const found = train({
      learningRate: { by: choice, what: 'design' },
      method: { kind: 'lora', rank: 5 },
    })
    const { design } = await laboratory.run(found, 1, ['test sums'])
    assert.deepEqual(design.kind === 'train' && [design.learningRate, design.method], [
      2e-2,
      { ...train().method, rank: 5 },
    ])
    const half = train({ learningRate: { by: choice, what: 'learning rate', factor: 0.5 } })
    const other = await laboratory.run(half, 1, ['test sums'])
    assert.equal(other.design.kind === 'train' && other.design.learningRate, 1e-2)
    const trials = laboratory.records.filter(({ seed }) => seed === 77)
    assert.equal(trials.length, 2, 'two trials, whoever asks')
  })

  it('goes on from merged adapters, which are trained once and kept', async () => {
    const parts = names.map((name) =>
      train({ data: { disciplines: [name], shares: 'equal' }, tokens: 200 }),
    )
    const merge = (operator: 'task_arithmetic' | 'ties') => mergeOf(parts, 0.5, operator)
    const align = train({
      from: merge('task_arithmetic'),
      data: { disciplines: 'instructions', shares: 'equal' },
      tokens: 200,
    })
    const laboratory = open()
    for (const one of [align, merge('ties')]) laboratory.announce(one)
    isNew.length = 0
    for (const part of parts) await laboratory.run(part, 2, ['test sums'])
    const aligned = await laboratory.run(align, 2, ['instructions', 'test sums'])
    const ties = await laboratory.run(merge('ties'), 2, ['test sums'])
    assert.deepEqual(isNew, [true, true, true, true, true])
    assert.equal(aligned.sets.instructions.right.length, 4)
    assert.deepEqual(Object.keys(aligned.mixture), ['instructions'])
    assert.deepEqual(ties.design, { kind: 'merge', operator: 'ties', weights: [0.5, 0.5, 0.5] })
    assert.ok(!existsSync(join(config.output, 'merged')), 'the merged model is gone')
    // The same bits when everything but the record of one run is lost.
    rmSync(join(config.output, 'adapters'), { recursive: true })
    rmSync(join(config.output, 'runs', `${aligned.id}.json`))
    assert.deepEqual(
      results(await open().run(align, 2, ['instructions', 'test sums'])),
      results(aligned),
    )
  })

  it('draws the same part of the items for the same seed', async () => {
    const part = (seed: number) =>
      open().run(train({ data: { disciplines: names, shares: 'equal', subset: 0.5 } }), seed, [
        'test sums',
      ])
    const [one, other] = [await part(5), await part(6)]
    assert.notDeepEqual(one.losses, other.losses)
    rmSync(join(config.output, 'runs', `${one.id}.json`))
    assert.deepEqual(results(await part(5)), results(one))
    assert.ok(!existsSync(join(config.output, 'subset')))
  })

  it('counts what diverges, and measures it all the same', async () => {
    const record = await open().run(train({ learningRate: 1e12, tokens: 1600 }), 1, ['test sums'])
    assert.equal(record.status, 'diverged')
    assert.deepEqual(JSON.parse(JSON.stringify(record)), record, 'what is read again is the same')
    assert.ok(record.reason !== undefined)
    assert.equal(record.sets['test sums'].right.length, 8)
  })

  it('counts what fails, and goes on', async () => {
    const tooLarge = train({ method: { kind: 'lora', rank: 4, targets: ['no_such_layer'] } })
    const record = await open().run(tooLarge, 1, ['test sums'])
    assert.equal(record.status, 'failed')
    assert.match(record.reason!, /no_such_layer/)
    assert.deepEqual(record.sets, {})
    const choice: ChoiceProcedure = {
      kind: 'choice',
      candidates: [tooLarge, train()],
      rungs: [{ tokens: 200, keep: 1 }],
      seed: 78,
    }
    const laboratory = open()
    assert.deepEqual(await laboratory.chosen(choice), train())
    assert.equal(laboratory.records.filter(({ status }) => status === 'failed').length, 1)
  })

  it('says what experts specialise in, and leaves the adapter as it was', async () => {
    const method = { kind: 'hydra-lora', rank: 2, experts: 2, alpha: 8 } as const
    const { experts, sets } = await open().run(train({ method }), 1, ['test sums', 'test words'])
    assert.equal(experts!.layers.length, 14)
    for (const { load, entropy, cosine } of experts!.layers) {
      assert.ok(Math.abs(load[0] + load[1] - 1) < 1e-5, String(load))
      assert.ok(entropy > 0 && entropy <= 1 && Math.abs(cosine) <= 1)
    }
    assert.equal(experts!.ablation.length, 2)
    assert.deepEqual(Object.keys(experts!.ablation[0]), names)
    assert.ok(
      experts!.ablation.some((changes) => Object.values(changes).some((change) => change !== 0)),
    )
    assert.ok(experts!.information.p > 0 && experts!.information.p <= 1)
    assert.equal(sets['test sums'].right.length, 8)
  })

  it('refuses nothing that a killed process may leave', async () => {
    writeFileSync(join(config.output, 'runs', '.0123456789abcdef.json.partial'), '{"id": "0123')
    const { status } = await open().run(train(), 1, ['test sums'])
    assert.equal(status, 'finished')
    const names = readdirSync(join(config.output, 'runs')).filter((name) => name.endsWith('.json'))
    for (const name of names) JSON.parse(readFileSync(join(config.output, 'runs', name), 'utf8'))
  })
})
