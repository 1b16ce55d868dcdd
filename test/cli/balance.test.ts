import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { describe, it } from 'mocha'
import { balancePicture } from '../../lib/laws/balance-picture.js'
import { goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora } from './polylora.js'

describe('polylora balance', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  before(() => {
    const write = (name: string, count: number, of: (i: number) => [string, string]) => {
      const lines = Array.from({ length: count }, (_, i) => {
        const [prompt, completion] = of(i)
        return `${JSON.stringify({ prompt, completion })}\n`
      })
      writeFileSync(at(`${name}.jsonl`), lines.join(''))
    }
    write('sums', 120, (i) => [`${i} + ${i + 2} =`, ` ${2 * i + 2}`])
    write('things', 75, (i) => [`Thing ${i % 70}?`, ` thing${i % 70}`])
    writeFileSync(
      at('run.yaml'),
      JSON.stringify({
        model: goldenModel('qwen2-text'),
        output: at('run'),
        method: { kind: 'lora', rank: 2 },
        data: {
          train: [
            { discipline: 'sums', path: at('sums.jsonl') },
            { discipline: 'things', path: at('things.jsonl') },
          ],
        },
        batch: { size: 8 },
        steps: 12,
      }),
    )
  })

  it('shows a table and a picture of what it would do, and writes nothing else', async () => {
    const shown = await polylora(
      ['balance', 'run.yaml', '--plan', '--picture', 'plan.html'],
      at('.'),
    )
    assert.equal(shown.code, 0, shown.stderr)
    const rows = shown.stdout.split('\n')
    assert.equal(rows[0], 'mixing: diverse')
    assert.match(
      rows[1],
      /^discipline +records +exact dup\. +near dup\. +unique +tokens +share +planned/,
    )
    assert.match(rows[2], /^sums +120 +0 +0 +120 /)
    assert.match(rows[3], /^things +75 +5 +0 +70 /)
    const picture = readFileSync(at('plan.html'), 'utf8')
    assert.match(picture, /^<!doctype html>/)
    for (const text of [
      'sums',
      'things',
      'Share of trained tokens',
      'Effective number of clusters',
    ])
      assert.ok(picture.includes(text), text)
    assert.doesNotMatch(picture, /https?:\/\/(?!www\.w3\.org)/, 'it needs nothing from outside')
    assert.ok(!existsSync(at('run')))

    const again = await polylora(
      ['balance', 'run.yaml', '--plan', '--picture', 'plan.html'],
      at('.'),
    )
    assert.equal(again.code, 2)
    assert.match(again.stderr, /plan\.html is there already/)
  })

  it('trains the adapter without --plan', async () => {
    const trained = await polylora(['balance', 'run.yaml', '--steps', '3'], at('.'))
    assert.equal(trained.code, 0, trained.stderr)
    assert.match(trained.stdout, /trained 3 steps: .* written to .*run\/adapter/)
    const { realised } = JSON.parse(readFileSync(at('run/mixing.json'), 'utf8')) as {
      realised: { samples: number }
    }
    assert.equal(realised.samples, 24)
  })

  it('says in one line what is wrong', async () => {
    const cases: [string[], RegExp][] = [
      [['--picture', 'plan.svg'], /^polylora: --picture shows a plan, so it needs --plan\n$/],
      [
        ['--plan', '--picture', 'plan.png'],
        /^polylora: --picture must end in \.svg or \.html, not "plan\.png"\n$/,
      ],
      [
        ['--plan', '--steps', '5000'],
        /^polylora: data\.mixing: the run draws 40000 samples, and the caps of [^\n]*\n$/,
      ],
      [
        ['--plan', '--set', 'data.mixing={kind: most}'],
        /^polylora: run\.yaml: data\.mixing\.kind: [^\n]*\n$/,
      ],
    ]
    for (const [args, message] of cases) {
      const { code, stderr } = await polylora(['balance', 'run.yaml', ...args], at('.'))
      assert.equal(code, 2, stderr)
      assert.match(stderr, message)
    }
  })

  it('draws names that are markup as text', () => {
    const row = {
      discipline: '<b>&',
      records: 1,
      exactDuplicates: 0,
      nearDuplicates: 0,
      unique: 1,
      tokens: 1,
      shareBefore: 1,
      shareAfter: 1,
      draws: 1,
      epochs: 1,
      maxEpochs: null,
      maxRepeats: 1,
      vendi: null,
      clusters: null,
    }
    const svg = balancePicture({ kind: 'equal', rows: [row], learned: null }, 'svg')
    assert.ok(svg.includes('&lt;b&gt;&amp;') && !svg.includes('<b>'))
    assert.ok(svg.includes('not measured by this mixing'))
  })
})
