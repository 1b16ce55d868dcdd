import assert from 'node:assert/strict'
import { runRecipe } from '../../lib/laws/recipe.js'
import { readRun } from '../../lib/laws/run-record.js'
import { scoreSet } from '../../lib/laws/scoring.js'
import { parseStudyConfig, type StudyConfig } from '../../lib/laws/study-config.js'
import { prepareData } from '../../lib/laws/study-data.js'
import { Model } from '../../lib/model.js'
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { temporaryFolder } from '../temporary-folder.js'
import { writeSmallStudy } from './small-study.js'

describe('the laws as recipes', function () {
  this.timeout(600_000)
  const at = temporaryFolder()
  let config: StudyConfig

  before(() => {
    config = parseStudyConfig({ ...writeSmallStudy(at('.')), slice: true })
  })

  it('merge specialists and align them: one adapter that does what the merged, aligned model did', async () => {
    const output = at('align')
    const { adapter, rows, facts } = await runRecipe('align', { ...config, output })
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
      Math.abs(again.logLikelihood - before.logLikelihood) < 1e-3 * Math.abs(before.logLikelihood),
      `${again.logLikelihood} for ${before.logLikelihood}`,
    )
  })

  it('train experts that share A, and say what they specialise in', async () => {
    const { adapter, rows, facts } = await runRecipe('specialize', {
      ...config,
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
