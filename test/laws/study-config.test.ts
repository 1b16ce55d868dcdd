import assert from 'node:assert/strict'
import { isPolyloraError } from '../../lib/errors.js'
import { parseRecipeConfig, parseStudyConfig } from '../../lib/laws/study-config.js'

const files = { train: 'a.jsonl', validation: 'b.jsonl', test: 'c.jsonl' }
const good = {
  model: 'model',
  output: 'study',
  data: {
    disciplines: { chemistry: files, biology: files },
    cross: { test: 'x.jsonl' },
    instructions: { train: 'i.jsonl', test: 'j.jsonl' },
  },
}

describe('study.yaml', () => {
  it('has defaults for all but model, output and data', () => {
    const config = parseStudyConfig(good)
    assert.deepEqual(config.laws, ['balance', 'align', 'optimize', 'specialize', 'variability'])
    assert.deepEqual(
      [config.seeds, config.variabilityRuns, config.delta, config.tokens],
      [5, 10, 2, 200_000],
    )
  })

  it('says in one sentence what cannot be studied', () => {
    const { data } = good
    const cases: [object, RegExp][] = [
      [{ metric: 'bleu' }, /metric: .*accuracy.*received "bleu"/],
      [{ laws: ['gravity'] }, /laws\.0: .*balance.*received "gravity"/],
      [{ seeds: 1 }, /seeds: a verdict needs at least 2 seeds, received 1; slice: true/],
      [{ variabilityRuns: 1 }, /variabilityRuns: a verdict needs at least 2, received 1/],
      [
        { data: { ...data, disciplines: { chemistry: files } } },
        /data\.disciplines: .*at least two disciplines, received 1/,
      ],
      [
        {
          data: {
            ...data,
            disciplines: { chemistry: files, biology: { train: 'a', validation: 'b' } },
          },
        },
        /data\.disciplines\.biology: there is no test split; name its file, or let data\.split/,
      ],
      [
        { data: { ...data, disciplines: { chemistry: files, biology: 'all.jsonl' } } },
        /data\.disciplines\.biology: there is no validation split/,
      ],
      [
        { data: { disciplines: data.disciplines, cross: data.cross } },
        /data\.instructions: law 2 \(align\) needs instructions/,
      ],
      [
        { data: { disciplines: data.disciplines, instructions: data.instructions } },
        /data\.cross: law 2 \(align\) needs a test of questions over several disciplines/,
      ],
      [{ deltas: 2 }, /deltas is not a known key/],
      [{ delta: -1 }, /delta: .*received -1/],
    ]
    for (const [change, expected] of cases)
      assert.throws(
        () => parseStudyConfig({ ...good, ...change }, 'study.yaml'),
        (error) => {
          assert.ok(isPolyloraError(error))
          assert.match(error.message, /^study\.yaml: [^\n]+$/)
          assert.match(error.message, expected)
          return true
        },
      )
  })

  it('says in one sentence what cannot be aligned', () => {
    const cases: [object, RegExp][] = [
      [{ align: { kind: 'magic' } }, /align\.kind: /],
      [{ align: { kind: 'chat-vector' } }, /align\.base: .*received missing/],
      [{ align: { kind: 'interpolation', lambda: 1.5 } }, /align\.lambda: .*received 1\.5/],
      [
        { align: { kind: 'interpolation' } },
        /align\.lambda: without it data\.instructions\.validation is needed to choose it on/,
      ],
      [
        { align: { kind: 'chat-vector', base: 'model', lambda: 1 } },
        /align\.base: a chat vector needs the model before instruction tuning, received the tuned one/,
      ],
    ]
    for (const [change, message] of cases)
      assert.throws(() => parseRecipeConfig('align', { ...good, ...change }, 'align.yaml'), {
        code: 'ERR_POLYLORA_CONFIG',
        message,
      })
    const { disciplines, instructions } = good.data
    const data = { disciplines, instructions }
    const { laws, slice } = parseRecipeConfig('align', { ...good, data, laws: ['balance'] })
    assert.deepEqual(
      [laws, slice],
      [['align'], true],
      'a recipe needs no questions over several disciplines',
    )
    assert.throws(
      () => parseRecipeConfig('align', { ...good, data: { disciplines } }),
      /data\.instructions: law 2 \(align\) needs instructions/,
    )
  })

  it('takes one seed for a slice, a whole corpus with a split, and no instructions without law 2', () => {
    assert.equal(parseStudyConfig({ ...good, seeds: 1, slice: true }).seeds, 1)
    const disciplines = { chemistry: 'c.jsonl', biology: 'b.jsonl' }
    const whole = { ...good, laws: ['balance'], data: { disciplines, split: {} } }
    assert.deepEqual(parseStudyConfig(whole).data.split, { validation: 0.1, test: 0.2 })
  })
})
