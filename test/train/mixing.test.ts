import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { parseTrainConfig, type TrainConfigInput } from '../../lib/train/options.js'
import { runTraining } from '../../lib/train/run.js'
import { planMemory } from '../../lib/train/memory-plan.js'
import { parseBalanceRecipe, planBalance } from '../../lib/laws/balance.js'
import { temporaryFolder } from '../temporary-folder.js'

const model = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))

type Mixing = NonNullable<Extract<TrainConfigInput['data'], { train: unknown }>['mixing']>

interface MixingJson {
  readonly disciplines: Record<
    string,
    { share: number; draws: number; unique: number; tokens: number; maxEpochs: number | null }
  >
  readonly learned: { weights: Record<string, number>; tokens: Record<string, number> } | null
  readonly realised: { samples: number; disciplines: Record<string, Record<string, number>> } | null
}

describe('runs that mix disciplines', function () {
  this.timeout(180_000)
  const path = temporaryFolder()

  before(() => {
    const write = (name: string, count: number, of: (i: number) => [string, string]) => {
      const lines = Array.from({ length: count }, (_, i) => {
        const [prompt, completion] = of(i)
        return `${JSON.stringify({ prompt, completion })}\n`
      })
      writeFileSync(path(`${name}.jsonl`), lines.join(''))
    }
    write('sums', 150, (i) => [`${i} + ${i + 2} =`, ` ${2 * i + 2}`])
    write('names', 70, (i) => [`Name ${'abcdefg'[i % 7]}${i}`, ` It is ${'xyz'[i % 3]}${i}.`])
    // Four of five are there three times.
    write('rare', 30, (i) => [`Rare thing ${i % 10}?`, ` thing${i % 10}`])
  })

  const config = (
    output: string,
    mixing: Mixing | undefined,
    changes: object = {},
  ): TrainConfigInput => ({
    model,
    output: path(output),
    method: { kind: 'lora', rank: 2, dropout: 0.1 },
    data: {
      train: ['sums', 'names', 'rare'].map((name) => ({
        discipline: name,
        path: path(`${name}.jsonl`),
      })),
      mixing,
    },
    optimizer: { learningRate: 5e-3 },
    batch: { size: 4 },
    steps: 24,
    checkpoint: { every: 5 },
    seed: 3,
    ...changes,
  })
  const run = (input: TrainConfigInput, options: Parameters<typeof runTraining>[1] = {}) =>
    runTraining(parseTrainConfig(input), options)

  const mixingOf = (output: string) =>
    JSON.parse(readFileSync(path(`${output}/mixing.json`), 'utf8')) as MixingJson
  const adapterOf = (output: string) =>
    readFileSync(path(`${output}/adapter/adapter_model.safetensors`))
  const metricsOf = (output: string) =>
    readFileSync(path(`${output}/metrics.jsonl`), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => {
        const { tokensPerSecond, ...rest } = JSON.parse(line) as Record<string, unknown>
        assert.ok(Number(tokensPerSecond) > 0)
        return rest as { step: number; epochs: Record<string, number> }
      })

  const kinds: [string, Mixing][] = [
    ['proportional', { kind: 'proportional' }],
    ['shares', { kind: 'shares', shares: { sums: 1, names: 2, rare: 1 } }],
    ['unimax', { kind: 'unimax', maxEpochs: 3 }],
    ['diverse', { kind: 'diverse' }],
    ['diverse by n-grams', { kind: 'diverse', embedding: 'n-grams', temperature: 2 }],
    ['doremi', { kind: 'doremi', steps: 3, caps: 'equal' }],
    ['sequence', { kind: 'sequence', order: ['rare', 'names', 'sums'] }],
  ]
  for (const [name, mixing] of kinds)
    it(`${name}: ends with the same bits and figures when it is stopped and resumed`, async () => {
      const steps = 24
      await run(config(`whole ${name}`, mixing))
      const stop = new AbortController()
      const input = config(`stopped ${name}`, mixing)
      const stopped = run(input, {
        signal: stop.signal,
        onStep: ({ step }) => {
          if (step === 8) stop.abort()
        },
      })
      await assert.rejects(stopped, { code: 'ERR_POLYLORA_ABORTED' })
      assert.equal(mixingOf(`stopped ${name}`).realised?.samples, 32)
      await run(input, { resume: true })
      assert.deepEqual(mixingOf(`stopped ${name}`), mixingOf(`whole ${name}`))
      assert.deepEqual(metricsOf(`stopped ${name}`), metricsOf(`whole ${name}`))
      assert.ok(
        adapterOf(`stopped ${name}`).equals(adapterOf(`whole ${name}`)),
        'the adapters differ',
      )

      const { disciplines, realised, learned } = mixingOf(`whole ${name}`)
      assert.equal(realised!.samples, 4 * steps)
      assert.equal(disciplines.rare.unique, 10)
      const last = metricsOf(`whole ${name}`).at(-1)!
      for (const [one, { share, draws, unique, maxEpochs }] of Object.entries(disciplines)) {
        const { samples, epochs } = realised!.disciplines[one]
        assert.equal(last.epochs[one], epochs)
        assert.equal(epochs, samples / unique)
        assert.ok(Math.abs(samples - 4 * steps * share) < 1 || mixing.kind === 'sequence')
        assert.ok(Math.abs(samples - draws) < 1)
        if (maxEpochs !== null) assert.ok(epochs <= maxEpochs)
      }
      if (mixing.kind === 'shares') {
        // Of trained tokens: a name's answer is longer than a sum's.
        const tokens = (one: string) =>
          (disciplines[one].share * disciplines[one].tokens) / disciplines[one].unique
        assert.ok(Math.abs(tokens('names') / tokens('sums') - 2) < 1e-9)
        assert.ok(Math.abs(tokens('rare') / tokens('sums') - 1) < 1e-9)
      }
      if (mixing.kind === 'doremi') {
        const weights = Object.values(learned!.weights)
        assert.ok(Math.abs(weights.reduce((sum, one) => sum + one, 0) - 1) < 1e-9)
        assert.ok(weights.every((one) => one > 0))
        assert.ok(new Set(weights).size > 1, 'the proxy moved them')
        assert.ok(learned!.tokens.reference > 0 && learned!.tokens.proxy > 0)
      } else assert.equal(learned, null)
    })

  it('keeps caps with batches by tokens and counts the sample that waits', async () => {
    await run(config('tokens', { kind: 'diverse' }, { batch: { maxTokens: 60 }, steps: 12 }))
    const { disciplines, realised } = mixingOf('tokens')
    for (const [name, { maxEpochs }] of Object.entries(disciplines))
      assert.ok(realised!.disciplines[name].epochs <= maxEpochs!)
    assert.deepEqual(
      metricsOf('tokens').at(-1)!.epochs,
      Object.fromEntries(
        Object.entries(realised!.disciplines).map(([name, { epochs }]) => [name, epochs]),
      ),
    )
  })

  it('goes on longer where the plan does not hang on the length, and says so where it does', async () => {
    await run(config('longer', { kind: 'equal' }, { steps: 4 }))
    const { steps } = await run(config('longer', { kind: 'equal' }, { steps: 6 }), { resume: true })
    assert.equal(steps, 6)
    await run(config('bound', { kind: 'unimax' }, { steps: 4 }))
    await assert.rejects(
      run(config('bound', { kind: 'unimax' }, { steps: 6 }), { resume: true }),
      /plannedDraws\.samples was 16 when the run was started and is now 24/,
    )
  })

  it('weighs samples by difficulty, the same after a stop', async () => {
    const input = (output: string) =>
      config(output, undefined, { difficulty: 'progressive', steps: 9 })
    await run(input('weighed'))
    const stop = new AbortController()
    const stopped = run(input('weighed twice'), {
      signal: stop.signal,
      onStep: ({ step }) => {
        if (step === 4) stop.abort()
      },
    })
    await assert.rejects(stopped, { code: 'ERR_POLYLORA_ABORTED' })
    await run(input('weighed twice'), { resume: true })
    assert.ok(adapterOf('weighed').equals(adapterOf('weighed twice')))
    await run(config('unweighed', undefined, { steps: 9 }))
    assert.ok(!adapterOf('weighed').equals(adapterOf('unweighed')))
  })

  describe('wrong configurations get one sentence before anything is written', () => {
    const source = (name: string, weight: number) => ({ path: `${name}.jsonl`, weight })
    const cases: [string, object, RegExp][] = [
      [
        'an unknown kind',
        { data: { train: [source('sums', 1)], mixing: { kind: 'best' } } },
        /data\.mixing\.kind/,
      ],
      [
        'weights',
        { data: { train: [source('sums', 2)], mixing: { kind: 'equal' } } },
        /data\.mixing: mixing decides the shares, so no source may have a weight/,
      ],
      [
        'no shuffling',
        { data: { train: [source('sums', 1)], shuffle: false, mixing: { kind: 'equal' } } },
        /data\.shuffle: data\.mixing shuffles/,
      ],
      [
        'order and transfer',
        { data: { train: [source('sums', 1)], mixing: { kind: 'sequence' } } },
        /data\.mixing: either order or transfer must be given/,
      ],
      [
        'too few epochs',
        { data: { train: [source('sums', 1)], mixing: { kind: 'diverse', maxEpochs: 0.5 } } },
        /data\.mixing\.maxEpochs/,
      ],
    ]
    for (const [name, changes, message] of cases)
      it(name, () => {
        const input = config('wrong', undefined, changes)
        assert.throws(() => parseTrainConfig(input), message)
        assert.ok(!existsSync(path('wrong')))
      })

    it('more draws than the caps allow, an order that lacks a discipline, a transfer file that is none', async () => {
      await assert.rejects(
        run(config('wrong 1', { kind: 'unimax', maxEpochs: 1 }, { steps: 100 })),
        /draws 400 samples, and the caps of sums 150, names 70, rare 10 samples allow 230/,
      )
      await assert.rejects(
        run(config('wrong 2', { kind: 'sequence', order: ['sums', 'names'] })),
        /data\.mixing\.order must name each discipline once \(sums, names, rare\), not sums, names/,
      )
      const shares = { sums: 1, names: 1 }
      await assert.rejects(
        run(config('wrong 5', { kind: 'shares', shares })),
        /data\.mixing: there is no weight for "rare", only for sums, names/,
      )
      await assert.rejects(
        run(config('wrong 6', { kind: 'shares', shares: { ...shares, rare: 1, none: 1 } })),
        /data\.mixing\.shares: there is no discipline "none", only sums, names, rare/,
      )
      assert.ok(!existsSync(path('wrong 1/run.json')), 'the folder holds no run')
      writeFileSync(
        path('transfer.json'),
        JSON.stringify({ disciplines: ['sums'], transfer: [[1, 2]] }),
      )
      await assert.rejects(
        run(config('wrong 3', { kind: 'sequence', transfer: path('transfer.json') })),
        /transfer\.json must hold/,
      )
      await assert.rejects(
        run(config('wrong 4', { kind: 'doremi' }, { method: { kind: 'full', initialize: true } })),
        /doremi trains its proxy as an adapter/,
      )
    })
  })

  it('orders disciplines by measured transfer', async () => {
    // Sums harm names, names harm rare; the other way round nothing is lost.
    const transfer = [
      [0, -0.2, 0],
      [0, 0, -0.1],
      [0, 0, 0],
    ]
    writeFileSync(
      path('measured.json'),
      JSON.stringify({ disciplines: ['sums', 'names', 'rare'], transfer }),
    )
    await run(
      config(
        'ordered',
        { kind: 'sequence', transfer: path('measured.json') },
        { epochs: 1, steps: undefined },
      ),
    )
    const losses = metricsOf('ordered') as unknown as { lossByDiscipline: Record<string, number> }[]
    const seen = losses.flatMap(({ lossByDiscipline }) => Object.keys(lossByDiscipline))
    assert.deepEqual([...new Set(seen)], ['sums', 'names', 'rare'])
  })

  it('plans its memory for the fullest batch there can be', async () => {
    const { largestBatch } = await planMemory(parseTrainConfig(config('memory', { kind: 'equal' })))
    const plain = await planMemory(parseTrainConfig(config('memory', undefined)))
    assert.ok(largestBatch.tokens >= plain.largestBatch.tokens)
  })

  it('shows the plan of a recipe without training', async () => {
    const { data } = config('shown', undefined)
    for (const embedding of ['model', 'n-grams'] as const) {
      const recipe = parseBalanceRecipe({
        ...config('shown', undefined),
        data: { ...data, mixing: { kind: 'diverse', embedding } },
      })
      const { rows } = await planBalance(recipe)
      assert.ok(!existsSync(path('shown')), 'nothing is written')
      assert.deepEqual(
        rows.map(({ discipline, records, exactDuplicates, unique }) => [
          discipline,
          records,
          exactDuplicates,
          unique,
        ]),
        [
          ['sums', 150, 0, 150],
          ['names', 70, 0, 70],
          ['rare', 30, 20, 10],
        ],
      )
      const sum = (of: 'shareBefore' | 'shareAfter') =>
        rows.reduce((total, row) => total + row[of], 0)
      assert.ok(Math.abs(sum('shareBefore') - 1) < 1e-12 && Math.abs(sum('shareAfter') - 1) < 1e-12)
      assert.equal(
        rows.reduce((total, { draws }) => total + draws, 0),
        96,
      )
      assert.equal(rows[2].maxEpochs, 1, 'ten samples are too few to tell their diversity')
      assert.equal(parseBalanceRecipe(config('shown', undefined)).data.mixing.kind, 'diverse')
    }
  })
})
