import assert from 'node:assert/strict'
import { gzipSync } from 'node:zlib'
import { DataError } from '../../lib/errors.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'
import { badLines, readBack, records } from './read-all.js'

describe('readers: CSV', () => {
  const path = temporaryFolder()

  it('reads quoted fields, over lines too, with the line a record begins on', async () => {
    const results = await readBack(
      path('quoted.csv'),
      'prompt,completion\n"one, two","he said ""three"""\n\n\n"first\n\nthird",4\n  x ,\n"",""\n',
    )
    assert.deepEqual(results, [
      { record: { prompt: 'one, two', completion: 'he said "three"' }, line: 2 },
      { record: { prompt: 'first\n\nthird', completion: '4' }, line: 5 },
      { record: { prompt: '  x ', completion: '' }, line: 8 },
      { record: { prompt: '', completion: '' }, line: 9 },
    ])
  })

  it('takes a byte order mark, CRLF, no end of the last line, tabs and compression', async () => {
    const csv = '\ufeffa,b\r\n1,"x\r\ny"\r\n\r\n2,é'
    const expected = [
      { record: { a: '1', b: 'x\ny' }, line: 2 },
      { record: { a: '2', b: 'é' }, line: 5 },
    ]
    assert.deepEqual(await readBack(path('windows.csv'), csv), expected)
    assert.deepEqual(await readBack(path('windows.csv.gz'), gzipSync(csv)), expected)
    const tsv = csv.replaceAll(',', '\t')
    assert.deepEqual(await readBack(path('windows.tsv'), tsv), expected)
  })

  it('reads nothing from an empty file or a header alone', async () => {
    for (const text of ['', '\n\n', '\ufeff', 'a,b', 'a,b\n\n\n'])
      assert.deepEqual(await readBack(path('empty.csv'), text), [])
  })

  it('names each bad record and goes on after it', async () => {
    const file = Buffer.concat([
      Buffer.from('a,b\n1,2\n1\n1,2,3\n3,"4"5\n\n6,7\n8,x"9"\n"10\n\n",11\n12,'),
      Buffer.from([0xe9]),
      Buffer.from('\n13,14\n"15,16\n17,18'),
    ])
    const results = await readBack(path('bad.csv'), file)
    assert.deepEqual(
      results.filter((result) => 'record' in result),
      [
        { record: { a: '1', b: '2' }, line: 2 },
        { record: { a: '6', b: '7' }, line: 7 },
        { record: { a: '10\n\n', b: '11' }, line: 9 },
        { record: { a: '13', b: '14' }, line: 13 },
      ],
    )
    const expected: [number, RegExp][] = [
      [3, /1 value, the header 2 columns/],
      [4, /3 values/],
      [5, /after its closing quote/],
      [8, /a quote stands within a field/],
      [12, /not valid UTF-8/],
      [14, /never closed/],
    ]
    const bad = badLines(results)
    assert.equal(bad.length, expected.length)
    expected.forEach(([line, reason], i) => {
      assert.equal(bad[i][0], line)
      assert.match(bad[i][1], reason)
    })
  })

  it('gives up a record that is too long, and goes on after it', async () => {
    const limits = { lineBytes: 500 }
    const long = 'x'.repeat(100_003)
    const text = [
      'a,b',
      '1,2',
      `3,${long}`,
      '4,5',
      `"6`,
      long,
      '7,8',
      // A quote that stays open takes lines until the limit.
      '"9,10',
      ...Array.from({ length: 100 }, (_, i) => `${String(100 + i)},x`),
    ].join('\n')
    const results = await readBack(path('long.csv'), text, { limits })
    assert.deepEqual(
      badLines(results).map(([line]) => line),
      [3, 5, 8],
    )
    const lines = results.flatMap((result) => ('record' in result ? [result.line] : []))
    assert.deepEqual(lines.slice(0, 3), [2, 4, 7])
    // 8 bytes a line: the limit is passed about 500 / 6 lines on, and all later ones are read.
    assert.deepEqual(
      lines.slice(3),
      Array.from({ length: 108 - lines[3] + 1 }, (_, i) => lines[3] + i),
    )
    assert(lines[3] > 8 + 500 / 7 && lines[3] < 8 + 500 / 5)
  })

  it('reads records alike wherever chunks and slices end', async () => {
    const expected: Record<string, string>[] = []
    let text = '"a","b"\n'
    for (const length of [1, 16_381, 16_382, 16_383, 2, 5_461, 10_922, 32_766, 3, 40_001]) {
      const record = { a: `${'語"\n'.repeat(length % 7)}x`, b: 'y"'.repeat(length >> 1) }
      expected.push(record)
      text += `"${record.a.replaceAll('"', '""')}","${record.b.replaceAll('"', '""')}"\n`
    }
    assert.deepEqual(records(await readBack(path('chunks.csv'), text)), expected)
  })

  it('gives back random tables, whatever their fields hold and however lines are laid out', async () => {
    const random = new Random(20_251)
    const pick = (n: number): number => random.integer(n)
    const pieces = ['', 'a', '"', ',', '\n', ' ', 'é', '\t', '""', '語', "'", '\n\n', ';']
    for (let trial = 0; trial < 60; ++trial) {
      const numColumns = 1 + pick(3)
      const end = trial % 2 === 0 ? '\n' : '\r\n'
      let text = ''
      let line = 1
      const expected: unknown[] = []
      for (let row = -1; row < 6; ++row) {
        const fields = Array.from(
          { length: numColumns },
          (_, column) =>
            Array.from({ length: pick(4) }, () => pieces[pick(pieces.length)]).join('') +
            (row < 0 ? String(column) : ''),
        )
        const quoted = fields.map((field) =>
          // A line of one empty field would be a blank line.
          /[",\n]/.test(field) || random.next() < 0.3 || numColumns === 1
            ? `"${field.replaceAll('"', '""')}"`
            : field,
        )
        const blank = pick(3) === 0 ? pick(3) : 0
        text += end.repeat(blank) + quoted.join(',').replaceAll('\n', end)
        if (row < 5 || random.next() < 0.5) text += end
        line += blank
        if (row < 0) expected.push(fields)
        else
          expected.push({
            record: Object.fromEntries(
              (expected[0] as string[]).map((name, i) => [name, fields[i]]),
            ),
            line,
          })
        line += fields.join('').split('\n').length
      }
      assert.deepEqual(await readBack(path('random.csv'), text), expected.slice(1), text)
    }
  })

  it('gives plain data for columns with the names of object members', async () => {
    const [record] = records(
      await readBack(path('names.csv'), '__proto__,constructor,\nx,y,z\n'),
    ) as Record<string, unknown>[]
    assert.equal(Object.getPrototypeOf(record), Object.prototype)
    assert.deepEqual(Object.entries(record), [
      ['__proto__', 'x'],
      ['constructor', 'y'],
      ['', 'z'],
    ])
  })

  it('refuses a header that cannot be used', async () => {
    const wide = Array.from({ length: 20_001 }, (_, i) => `c${String(i)}`).join(',')
    const cases: [string | Buffer, number, RegExp][] = [
      ['a,b,a\n1,2,3\n', 1, /two columns are named "a"/],
      ['\n\na"b,c\n1,2\n', 3, /a quote stands/],
      ['"a,b\n1,2\n', 1, /never closed/],
      [`${wide}\n`, 1, /20001 columns .* limits\.recordKeys/],
      [`${'x'.repeat(2 ** 21)}\n`, 1, /limits\.lineBytes/],
      [Buffer.from([0x61, 0xff, 0x0a, 0x31, 0x0a]), 1, /UTF-8/],
    ]
    const file = path('header.csv')
    for (const [content, line, reason] of cases)
      await assert.rejects(readBack(file, content), (error) => {
        assert(error instanceof DataError)
        assert.match(error.message, reason)
        assert.match(error.message, /the header cannot be used/)
        assert.deepEqual([error.details.file, error.details.line], [file, line])
        return true
      })
  })

  it('leaves the event loop free whatever the lines hold', async () => {
    const commas = `${','.repeat(2 ** 18)}\n`
    const quotes = 'x"\n'.repeat(1_000)
    for (const [name, body] of Object.entries({ commas, quotes })) {
      let turns = 0
      const timer = setInterval(() => ++turns)
      const results = await readBack(path(`${name}.csv`), `a,b\n${body}1,2\n`)
      clearInterval(timer)
      assert.deepEqual(records(results), [{ a: '1', b: '2' }], name)
      assert(turns > 3, `${name}: ${String(turns)} turns`)
    }
  })
})
