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
    assert.match(curve, /<figure/)
    for (const { name } of lines) assert.ok(curve.includes(name))
    const bars = shares('Mixture', [{ name: 'capped', parts: { chemistry: 30, geography: 10 } }])
    assert.equal(count(bars, 'rect') >= 2, true)
    assert.ok(bars.includes('geography'))
  })

  it('write the numbers of a matrix', () => {
    const cells: Cell[] = [
      { row: 'without expert 1', column: 'chemistry', value: 0.125 },
      { row: 'without expert 2', column: 'chemistry', value: -0.5 },
    ]
    const svg = matrix('Ablation', cells, 3)
    for (const { value } of cells) assert.ok(svg.includes(value.toFixed(3)), String(value))
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
