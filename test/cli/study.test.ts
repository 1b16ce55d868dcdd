import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { stringify } from 'yaml'
import { Random } from '../random.js'
import { summaryMarkdown } from '../../lib/laws/report/index.js'
import type { StudyResults } from '../../lib/laws/study-results.js'
import { writeSmallStudy } from '../laws/small-study.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora, start } from './polylora.js'

describe('polylora study', function () {
  this.timeout(1_200_000)
  const at = temporaryFolder()
  const args = (output: string, ...more: string[]) => [
    'study',
    'study.yaml',
    '--output',
    output,
    ...more,
  ]

  before(() => {
    const config = { ...writeSmallStudy(at('.')), laws: ['balance'] }
    writeFileSync(at('study.yaml'), stringify(config))
  })

  it('plans, runs, prints a verdict and writes a report that needs nothing else', async () => {
    const { code, stdout, stderr } = await polylora(args('whole'), at('.'))
    assert.equal(code, 0, stderr)
    assert.match(stderr, /^16 runs of 1 laws, [\d,]+ tokens: about \d.*$/m)
    assert.match(stderr, /^run 16\/16/m)
    assert.match(stdout, /^balance: (holds|does not hold|undecided)/)
    assert.match(stdout, /written to whole\/report\.html, summary\.md and results\.json\n$/)
    const html = readFileSync(at('whole/report.html'), 'utf8')
    assert.ok(html.split('<svg').length > 5, 'charts')
    assert.ok(
      !/<(?:script|link|img)|https?:\/\/(?!www\.w3\.org)/.test(html),
      'nothing from elsewhere',
    )
    assert.match(html, /Balance-then-Diversity/)
    const results = JSON.parse(readFileSync(at('whole/results.json'), 'utf8')) as StudyResults
    assert.equal(results.status, 'finished')
    assert.equal(Object.keys(results.runs).length, 16)
    assert.equal(readFileSync(at('whole/summary.md'), 'utf8'), summaryMarkdown(results))
  })

  it('ends in the same results.json when it is killed at ten random instants, without repeating a run', async () => {
    const random = new Random(5)
    const finished = () =>
      existsSync(at('killed/runs'))
        ? readdirSync(at('killed/runs')).filter((name) => /^\w+\.json$/.test(name))
        : []
    let [killed, repeated] = [0, 0]
    for (let kill = 0; kill < 10; kill++) {
      const before = finished().map((name) => [
        name,
        readFileSync(at(`killed/runs/${name}`), 'utf8'),
      ])
      const study = start(args('killed'), at('.'))
      let words = 1 + random.integer(4)
      study.child.stderr!.on('data', () => {
        if (--words === 0) setTimeout(() => study.child.kill('SIGKILL'), random.integer(400))
      })
      const { signal } = await study.finished
      if (signal === 'SIGKILL') killed++
      for (const [name, text] of before)
        if (readFileSync(at(`killed/runs/${name}`), 'utf8') !== text) repeated++
    }
    assert.ok(killed >= 5, `only ${killed} kills hit the study`)
    // Their time would differ.
    assert.equal(repeated, 0, 'a finished run was made again')
    const { code, stderr } = await polylora(args('killed'), at('.'))
    assert.equal(code, 0, stderr)
    const [whole, after] = ['whole', 'killed'].map((name) =>
      readFileSync(at(`${name}/results.json`), 'utf8'),
    )
    // The whole of it would be a long message.
    const place = [...whole].findIndex((letter, i) => letter !== after[i])
    const near = (text: string) => text.slice(Math.max(0, place - 200), place + 100)
    assert.equal(near(after), near(whole))
    assert.equal(after.length, whole.length)
  })

  it('refuses another plan in the same folder, and what cannot be studied, before any run', async () => {
    const cases: [string[], RegExp][] = [
      [
        args('whole', '--set', 'delta=3'),
        /^polylora: whole holds a study of another plan: delta was 0\.02 and is now 0\.03; restore it/m,
      ],
      [
        args('corpus'),
        /^polylora: output: corpus is not empty and holds no study; choose another folder$/m,
      ],
      [args('none', '--set', 'metric=bleu'), /^polylora: study\.yaml: metric: .*received "bleu"$/m],
      [
        args('none', '--set', 'data.disciplines.sums.test=missing.jsonl'),
        /^polylora: .*missing\.jsonl/m,
      ],
    ]
    const long = { prompt: 'Say it all.', completion: ' word'.repeat(400) }
    writeFileSync(at('long.jsonl'), `${JSON.stringify(long)}\n`)
    cases.push([
      args('none', '--set', 'data.general.test=long.jsonl'),
      /^polylora: none\/data\/general\.jsonl: line 1: the completion has \d+ tokens, the model takes 160$/m,
    ])
    for (const [given, expected] of cases) {
      const { code, stderr } = await polylora(given, at('.'))
      assert.equal(code, 2, stderr)
      assert.match(stderr, expected)
    }
    assert.ok(!existsSync(at('none/runs')))
  })
})
