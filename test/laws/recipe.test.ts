import assert from 'node:assert/strict'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import { defaultMethod } from '../../lib/laws/arms/design.js'
import type { RecipeRow } from '../../lib/laws/recipe-context.js'
import { mergeRecipe, parseRecipe } from '../../lib/merge/index.js'
import { runRecipe } from '../../lib/laws/recipe.js'
import { readRun, type RunRecord } from '../../lib/laws/run-record.js'
import { scoreSet } from '../../lib/laws/scoring.js'
import { parseRecipeConfig, type StudyConfig } from '../../lib/laws/study-config.js'
import { prepareData } from '../../lib/laws/study-data.js'
import { Model } from '../../lib/model.js'
import { plainTensors } from '../golden-files.js'
import { product } from '../merge/adapter-folders.js'
import { temporaryFolder } from '../temporary-folder.js'
import { writeSmallStudy } from './small-study.js'

describe('the laws as recipes', function () {
  this.timeout(600_000)
  const at = temporaryFolder()
  let small: ReturnType<typeof writeSmallStudy>
  let config: StudyConfig

  before(() => {
    small = writeSmallStudy(at('.'))
    config = parseRecipeConfig('align', small)
  })

  it('merge specialists and align them: one adapter that does what the merged, aligned model did', async () => {
    const output = at('align')
    const { kind, folder: adapter, rows, facts } = await runRecipe('align', { ...config, output })
    assert.equal(kind, 'adapter')
    assert.deepEqual(
      rows.map(({ name }) => name.replace(/ [\d.]+$/, '')),
      ['the model as it is', ...new Array<string>(5).fill('merged, weight'), 'merged and aligned'],
    )
    assert.match(
      facts[0],
      /^instructions followed: [\d.]+ points before, [\d.]+ merged, [\d.]+ aligned$/,
    )
    assert.match(facts[1], /^gate (NOT )?passed/)
    const ids = readdirSync(join(output, 'runs')).filter((name) => name.endsWith('.json'))
    const runs = await Promise.all(ids.map((name) => readRun(output, name.replace('.json', ''))))
    const aligned = runs.find(
      (run) => run !== null && 'instructions' in run.mixture && 'instructions' in run.sets,
    )!
    await using model = await Model.load(config.model)
    const data = await prepareData(config, model, at('again'), {})
    await model.attachFrom(adapter)
    const again = await scoreSet(model, data.sets.get('validation sums')!, config)
    const before = aligned.sets['validation sums']
    // The same products in another order: sums of some dozens of float32 log-probabilities.
    assert.ok(
      Math.abs(again.logLikelihood! - before.logLikelihood!) < 1e-3 * -before.logLikelihood!,
      `${again.logLikelihood} for ${before.logLikelihood}`,
    )
  })

  /** The weight of the merge that was best on validation. */
  const mergeWeight = (rows: readonly RecipeRow[]) => {
    const merges = rows.filter(({ name }) => name.startsWith('merged, weight'))
    const best = merges.reduce((one, other) => (other.score > one.score ? other : one))
    return Number(best.name.split(' ').at(-1))
  }
  /** Each adapter's updates in float64, by module, from its files alone. */
  const updatesOf = (folder: string) => {
    const { r, lora_alpha, use_rslora } = JSON.parse(
      readFileSync(join(folder, 'adapter_config.json'), 'utf8'),
    ) as { r: number; lora_alpha: number; use_rslora: boolean }
    const tensors = plainTensors(join(folder, 'adapter_model.safetensors'))
    const names = [...tensors.keys()].filter((name) => name.endsWith('.lora_A.weight'))
    return new Map(
      names.map((name) => {
        const a = tensors.get(name)!
        const b = tensors.get(name.replace('lora_A', 'lora_B'))!
        const scale = lora_alpha / (use_rslora ? Math.sqrt(r) : r)
        const module = name.replace('base_model.model.', '').replace('.lora_A.weight', '')
        return [module, product(b.values, a.values, b.shape[0], r, a.shape[1], scale)] as const
      }),
    )
  }
  const adaptersOf = (output: string) =>
    readdirSync(join(output, 'adapters')).map((name) => join(output, 'adapters', name))
  /** Whether it was trained on instructions, by its run. */
  const isForInstructions = (output: string, folder: string) => {
    const path = join(output, 'runs', `${folder.split('/').at(-1)}.json`)
    return readFileSync(path, 'utf8').includes('"mixture":{"instructions"')
  }

  it('add a chat vector to the merged model, as the formula has it in float64', async () => {
    const scaled = async (output: string, weight: number) => {
      const recipe = parseRecipe({
        merge_method: 'linear',
        models: [{ model: config.model, parameters: { weight } }],
        parameters: { normalize: false },
      })
      await mergeRecipe({ recipe, output: at(output) })
      return at(output)
    }
    const [instruct, base] = [await scaled('instruct', 1.05), await scaled('base', 0.9)]
    const output = at('chat vector')
    for (const lambda of [0.6, undefined]) {
      const { kind, folder, rows, facts } = await runRecipe('align', {
        ...config,
        output,
        align: { kind: 'chat-vector', base, instruct, lambda },
      })
      assert.equal(kind, 'model')
      const tried = rows.filter(({ name }) => name.endsWith('of the chat vector'))
      assert.equal(tried.length, lambda === undefined ? 4 : 1)
      const chosen =
        lambda === undefined ? /chosen on validation: with ([\d.]+) of/.exec(facts[0])![1] : lambda
      const weight = mergeWeight(rows)
      const updates = adaptersOf(output).map(updatesOf)
      assert.equal(updates.length, 3)
      const [theta, tuned, before, result] = [config.model, instruct, base, folder].map((model) =>
        plainTensors(join(model, 'model.safetensors')),
      )
      let [moved, far] = [0, 0]
      for (const [name, { values }] of theta) {
        const module = name.replace('.weight', '')
        const merged = result.get(name)!.values
        for (let i = 0; i < values.length; i++) {
          const update = updates.reduce((sum, one) => sum + (one.get(module)?.[i] ?? 0), 0)
          const vector = tuned.get(name)!.values[i] - before.get(name)!.values[i]
          const expected = values[i] + weight * update + Number(chosen) * vector
          // Once to float32 between the two merges, once to bf16, which has 8 bits.
          const slack = 2 ** -8 * Math.abs(expected) + 2 ** -23
          far = Math.max(far, Math.abs(merged[i] - expected) / slack)
          moved = Math.max(moved, Math.abs(weight * update) / slack)
        }
      }
      assert.ok(far <= 1.01, `${far} times the rounding`)
      assert.ok(moved > 20, `the adapters are worth ${moved} times the rounding`)
    }
  })

  it('interpolate between disciplines and alignment, in one adapter, as the formula has it in float64', async () => {
    const output = at('interpolation')
    const { kind, folder, rows, facts } = await runRecipe('align', {
      ...config,
      output,
      align: { kind: 'interpolation', lambda: undefined },
    })
    assert.equal(kind, 'adapter')
    const share = Number(/chosen on validation: with ([\d.]+) of the alignment/.exec(facts[0])![1])
    assert.ok([0.1, 0.25, 0.5, 0.75].includes(share))
    const weight = mergeWeight(rows)
    const parts = adaptersOf(output).map((part) => ({
      updates: updatesOf(part),
      weight: isForInstructions(output, part) ? share : (1 - share) * weight,
    }))
    assert.deepEqual(parts.filter((one) => one.weight === share).length, 1)
    assert.equal(parts.length, 4)
    for (const [module, values] of updatesOf(folder)) {
      const expected = values.map((_, i) =>
        parts.reduce((sum, part) => sum + part.weight * part.updates.get(module)![i], 0),
      )
      const largest = Math.max(...expected.map(Math.abs))
      values.forEach((value, i) => {
        // Factors that are scaled are float32.
        assert.ok(Math.abs(value - expected[i]) <= 1e-6 * largest, `${module}: ${value}`)
      })
    }
  })

  it('go on with what they made, and refuse what was made from something else', async () => {
    const output = at('interpolation')
    const files = () =>
      readdirSync(join(output, 'runs')).map((name) =>
        readFileSync(join(output, 'runs', name), 'utf8'),
      )
    const before = files()
    const align = { kind: 'interpolation', lambda: undefined } as const
    await runRecipe('align', { ...config, output, align })
    assert.deepEqual(files(), before, 'no run was made again')
    const cases: [() => Promise<unknown>, RegExp][] = [
      [
        () => runRecipe('align', { ...config, output, align, batchTokens: 100 }),
        /holds what was made from another model, corpus or configuration; choose another output/,
      ],
      [
        () => runRecipe('optimize', { ...parseRecipeConfig('optimize', small), output }),
        /output: .* holds "align", not "optimize"; choose another folder/,
      ],
      [
        () => runRecipe('align', { ...config, output: at('corpus') }),
        /output: .*corpus is not empty and holds no study; choose another folder/,
      ],
    ]
    for (const [refused, message] of cases)
      await assert.rejects(refused(), { code: 'ERR_POLYLORA_CONFIG', message })
  })

  it('search a design by successive halving, with what it costs, and go on after a stop', async () => {
    const optimized = parseRecipeConfig('optimize', {
      ...small,
      tokens: 1600,
      learningRates: [5e-3],
    })
    const output = at('optimize')
    const { kind, folder, rows, facts } = await runRecipe('optimize', { ...optimized, output })
    assert.equal(kind, 'adapter')
    assert.equal(rows.length, 13)
    const recordsOf = (output: string) =>
      readdirSync(join(output, 'runs'))
        .filter((name) => name.endsWith('.json'))
        .map((name) => JSON.parse(readFileSync(join(output, 'runs', name), 'utf8')) as RunRecord)
    const records = recordsOf(output)
    const trials = records.flatMap((record) => {
      const { design, seed, sets } = record
      if (design.kind !== 'train' || seed !== optimized.seed + 1_000_000) return []
      if (design.method.rank !== 4) return []
      const validation = ['sums', 'letters', 'words'].map((name) => sets[`validation ${name}`])
      const right = validation.map(
        ({ right }) => [...right].filter((one) => one === '1').length / right.length,
      )
      const score = right.reduce((sum, one) => sum + one, 0) / 3
      const logLikelihood =
        validation.reduce((sum, one) => sum + one.logLikelihood! / one.tokens, 0) / 3
      const { tokens, learningRate, method } = design
      return [
        {
          budget: tokens,
          spent: record.tokens,
          score,
          logLikelihood,
          design: { learningRate, method },
        },
      ]
    })
    const atBudget = (budget: number) => trials.filter((one) => one.budget === budget)
    const best = (rung: typeof trials, keep: number) =>
      rung
        .toSorted((a, b) => b.score - a.score || b.logLikelihood - a.logLikelihood)
        .slice(0, keep)
        .map(({ design }) => JSON.stringify(design))
        .sort()
    const [eighth, quarter] = [atBudget(200), atBudget(400)]
    // Default designs are tried with as many tokens for their learning rates: the search's own, which may not have got so
    // far, and others, which are none of its candidates.
    const candidates = eighth.map(({ design }) => JSON.stringify(design))
    const searched = atBudget(800).filter(({ design }) =>
      candidates.includes(JSON.stringify(design)),
    )
    const normal = defaultMethod(4)
    const half = searched.filter(
      ({ design }) =>
        !isDeepStrictEqual(design.method, normal) ||
        best(quarter, 2).includes(JSON.stringify(design)),
    )
    const rungs = [eighth, quarter, half]
    assert.deepEqual(
      rungs.map(({ length }) => length),
      [12, 6, 2],
    )
    assert.ok(eighth.some(({ design }) => isDeepStrictEqual(design.method, normal)))
    // A batch of 200 tokens lacks less than a sample.
    for (const { budget, spent } of rungs.flat())
      assert.ok(Math.abs(spent - budget) < 0.15 * budget, `${spent} for ${budget}`)
    const designsOf = (rung: (typeof rungs)[number]) =>
      rung.map(({ design }) => JSON.stringify(design)).sort()
    assert.deepEqual(designsOf(rungs[1]), best(rungs[0], 6))
    assert.deepEqual(designsOf(rungs[2]), best(rungs[1], 2))
    const [found] = best(rungs[2], 1)
    const { learningRate, method } = JSON.parse(found) as {
      learningRate: number
      method: object
    }
    const said = JSON.parse(facts[0].replace('found: ', '')) as object
    assert.deepEqual(said, { learningRate, ...method })
    const cost = [...eighth, ...quarter, ...searched].reduce((sum, { spent }) => sum + spent, 0)
    assert.match(facts[2], new RegExp(`^the search cost ${cost} tokens, the learning rates`))
    const scores = rows.slice(1).map(({ score }) => score)
    const first = rows.slice(1)[scores.indexOf(Math.max(...scores))]
    assert.equal(facts[1], `best on validation: ${first.name}`)

    // The same where runs and the result were lost: what is made again has the same bits.
    const bytes = (folder: string) => {
      const names = readdirSync(folder).filter((name) => name.endsWith('.safetensors'))
      assert.equal(names.length, 1)
      return readFileSync(join(folder, names[0]))
    }
    const withoutTime = (all: readonly RunRecord[]) => all.map(({ seconds: _, ...rest }) => rest)
    const before = bytes(folder)
    records.forEach(({ id }, i) => {
      if (i % 3 === 0) rmSync(join(output, 'runs', `${id}.json`))
    })
    rmSync(folder, { recursive: true })
    rmSync(join(output, 'adapters'), { recursive: true })
    const resumed = await runRecipe('optimize', { ...optimized, output })
    assert.deepEqual([resumed.rows, resumed.facts], [rows, facts])
    assert.deepEqual(withoutTime(recordsOf(output)), withoutTime(records))
    assert.ok(bytes(folder).equals(before))
  })

  it('train experts that share A, and say what they specialise in', async () => {
    const {
      folder: adapter,
      rows,
      facts,
    } = await runRecipe('specialize', {
      ...parseRecipeConfig('specialize', small),
      output: at('specialize'),
    })
    assert.equal(rows.length, 3)
    const [, lora, experts] = rows
    assert.ok(lora.parameters >= experts.parameters && lora.parameters <= 1.1 * experts.parameters)
    assert.ok(facts.some((fact) => /share 0\.\d+ of their information/.test(fact)))
    assert.equal(facts.filter((fact) => fact.startsWith('without expert')).length, 4)
    await using model = await Model.load(config.model)
    assert.equal((await model.attachFrom(adapter)).declaration.kind, 'hydra-lora')
  })
})
