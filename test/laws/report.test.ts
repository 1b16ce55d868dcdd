import assert from 'node:assert/strict'
import {
  type Cell,
  curves,
  intervals,
  matrix,
  type Row,
  shares,
} from '../../lib/laws/report/charts.js'
import { escaped, list, page, table } from '../../lib/laws/report/html.js'
import { reportPage, summaryMarkdown } from '../../lib/laws/report/index.js'
import { transferOf } from '../../lib/laws/transfer.js'
import { sampleReport } from './sample-report.js'

describe('the charts of a report', () => {
  const count = (svg: string, tag: string) => svg.split(`<${tag}`).length - 1
  const row = (name: string, values: Partial<Row> = {}): Row => ({
    name,
    points: [1, 2, 3],
    estimate: 2,
    lower: 1.5,
    upper: 2.5,
    ...values,
  })

  it('show every seed, every estimate and every line by name', () => {
    const rows = [
      row('one'),
      row('two', { lower: null, upper: null }),
      row('three', { points: [], estimate: null }),
    ]
    const svg = intervals('Effects', 'points', rows, [{ name: 'chance', value: 0 }])
    assert.equal(count(svg, 'circle'), 6 + 2)
    for (const text of ['one', 'two', 'three', 'chance', 'points'])
      assert.ok(svg.includes(`>${text}`), text)
    assert.match(svg, /aria-label="Effects"/)
  })

  it('have a legend where colours mean something', () => {
    const lines = [
      { name: 'capped', losses: [3, 2, 1] },
      { name: 'equal', losses: [3, 2.5, 2] },
    ]
    const curve = curves('Curves', lines)
    for (const { name } of lines) assert.ok(curve.includes(`</i>${name}</span>`))
    const styles = (count: number) => {
      const many = Array.from({ length: count }, (_, i) => ({ name: `${i}`, losses: [2, 1] }))
      return new Set(curves('Many', many).match(/(?<=<i style=")[^"]+/g)).size
    }
    assert.equal(styles(24), 24, 'no two lines look alike')
    const bars = shares('Mixture', [{ name: 'capped', parts: { chemistry: 30, geography: 10 } }])
    assert.equal(count(bars, 'rect') >= 2, true)
    assert.ok(bars.includes('geography'))
  })

  it('write the numbers of a matrix', () => {
    const cells: Cell[] = [
      { row: 'without expert 1', column: 'chemistry', value: 0.125 },
      { row: 'without expert 2', column: 'chemistry', value: -0.5 },
      { row: 'without expert 2', column: 'biology', value: -0.0001 },
    ]
    const svg = matrix('Ablation', cells, 3)
    assert.ok(svg.includes('>0.000<'), 'nothing is below 0 that rounds to it')
    cells.pop()
    for (const { value } of cells) assert.ok(svg.includes(value.toFixed(3)), String(value))
  })

  it('tell what is below 0 from what is above by colour', () => {
    const fills = (values: number[]) => {
      const cells = values.map((value, i) => ({ row: 'one', column: String(i), value }))
      return new Set(matrix('Matrix', cells).match(/(?<=<rect[^>]*fill=")#\w+/g)).size
    }
    assert.deepEqual([fills([1, 2]), fills([-1, 2])], [1, 2])
  })

  it('take any names, and none at all', () => {
    const name = '<script>alert("x")</script> & co'
    const svg = intervals(name, 'points', [row(name)], [{ name, value: 0 }])
    assert.ok(!svg.includes('<script'), svg)
    for (const empty of [
      intervals('none', 'points', [], []),
      curves('none', []),
      shares('none', []),
      matrix('none', []),
    ])
      assert.match(empty, /<svg/)
  })
})

describe('the page of a report', () => {
  it('escapes what anyone wrote, and is whole', () => {
    assert.equal(escaped('<b> & "c"'), '&#60;b&#62; &#38; &#34;c&#34;')
    const html = page('<Title>', table(['<a>'], [['<b>', 12345]]) + list(['<c>']))
    assert.ok(!/<(?:a|b|c|Title)>/.test(html))
    assert.match(html, /class="number">12,345</)
    assert.match(html, /prefers-color-scheme: dark/)
    assert.match(html, /^<!doctype html>[^]*<\/html>\n$/)
  })
})

describe('the report of a study', function () {
  this.timeout(120_000)
  let sample: Awaited<ReturnType<typeof sampleReport>>
  let html: string

  before(async () => {
    sample = await sampleReport()
    html = reportPage(sample.inputs)
  })

  it('has all that study.md lists, of every law', () => {
    const { inputs } = sample
    const sections = html.split('<h2>')
    for (const { title } of inputs.plan.laws) {
      const section = sections.find((one) => one.startsWith(title))!
      for (const text of [
        'class="verdict"',
        'Learning curves',
        'Realised mixture',
        'worst discipline',
        'Tokens of its search',
        'Failed',
        'Diverged',
      ])
        assert.ok(section.includes(text), `${title}: ${text}`)
    }
    for (const text of [
      'Transfer and forgetting',
      'Over co-disciplines',
      'What experts specialise in',
      'Module by module',
      'What was cut',
      'neither confirms nor refutes',
    ])
      assert.ok(html.includes(text), text)
    assert.ok(!/<sciences>/.test(html) && html.includes('&#60;sciences&#62;'))
    assert.ok(!/NaN|undefined|Infinity/.test(html.replace(/<style>[^]*?<\/style>/g, '')))
  })

  it('charges an arm with what was tried to choose its design', () => {
    // Three learning rates, each with the 200,000 tokens that the made-up trials have.
    const row = html.match(/<tr><td>default, rank 64<\/td>.*<\/tr>/g)!.at(-1)!
    assert.match(row, /<td class="number">600,000<\/td>/)
  })

  it('is summed up as tables of Markdown, with every contrast, precondition and gate', async () => {
    const { inputs, results } = sample
    const text = summaryMarkdown(results)
    assert.equal(summaryMarkdown(structuredClone(results)), text)
    const rows = text.split('\n').filter((line) => line.startsWith('| '))
    const columns = (line: string) => line.split(/(?<!\\)\|/).length
    for (const [i, law] of inputs.plan.laws.entries()) {
      const { verdict } = inputs.laws[i]
      assert.ok(rows.some((row) => row.startsWith(`| ${law.title} | **${verdict}** |`)))
      for (const { name } of [...law.contrasts, ...law.preconditions, ...law.gates]) {
        const row = rows.find((one) => one.includes(`| ${name} |`))!
        assert.equal(columns(row), 8, row)
      }
    }
    const { estimate } = inputs.laws[0].contrasts[0]
    assert.ok(text.includes(`| ${(100 * estimate!.estimate).toFixed(2)} |`))
    assert.ok(text.includes(results.planHash))
    assert.ok(text.includes('a\\_b.jsonl'), 'names are no Markdown')
    const { results: slice } = await sampleReport(true)
    assert.match(
      summaryMarkdown(slice),
      /\| \*\*undecided\*\* \| – \| – \| a slice gives no verdict \|/,
    )
  })

  it('has the transfer between disciplines: trained on one, tested on each', () => {
    const { plan, arms, data, base } = sample.inputs
    const [, align] = plan.laws
    const runs = arms.get('align')!
    const { disciplines, transfer, beside } = transferOf(align, runs, data, base)!
    assert.deepEqual(
      disciplines,
      data.disciplines.map(({ name }) => name),
    )
    const right = (digits: string, chances: readonly number[]) =>
      chances.reduce((sum, chance, i) => sum + (Number(digits[i]) - chance) / (1 - chance), 0)
    const set = data.sets.get('test chemistry')!
    const of = (digits: string) => right(digits, set.chances) / set.chances.length
    const after = runs.get('specialist mathematics')!.map(({ sets }) => of(sets[set.name].right))
    const expected = after.reduce((a, b) => a + b, 0) / after.length - of(base.sets[set.name].right)
    assert.ok(Math.abs(transfer[0][1] - expected) < 1e-12)
    assert.deepEqual(Object.keys(beside), ['cross', 'instructions', 'general'])
    const some = new Map([...runs, ['specialist chemistry', []]])
    assert.equal(transferOf(align, some, data, base), null)
    assert.equal(transferOf(plan.laws[0], arms.get('balance')!, data, base), null)
  })
})
