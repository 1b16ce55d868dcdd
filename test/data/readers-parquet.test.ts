import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readFileSync, readdirSync, readlinkSync, writeFileSync } from 'node:fs'
import { brotliCompressSync, gzipSync } from 'node:zlib'
import { AbortedError, DataError } from '../../lib/errors.js'
import { readRecords } from '../../lib/data/readers/index.js'
import { readerLimits } from '../../lib/data/readers/limits.js'
import type { FileBytes } from '../../lib/data/readers/parquet/file-bytes.js'
import { readRowsOfFile } from '../../lib/data/readers/parquet/rows.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'
import {
  codecs,
  columnChunk,
  dataPage,
  dictionaryPage,
  encodings,
  footer,
  i32,
  list,
  parquetFile,
  plainTexts,
  rowGroup,
  schemaElement,
  structBytes,
  textFile,
  varint,
} from './parquet-bytes.js'
import { badLines, readAll, readBack, records } from './read-all.js'

const golden = new URL('./parquet/', import.meta.url)
const goldenFiles = readdirSync(golden).filter((name) => name.endsWith('.parquet'))
const goldenRows = JSON.parse(readFileSync(new URL('rows.json', golden), 'utf8')) as unknown[]

/** A file in memory, for the reader's inner side: no worker, no limit on time. */
function inMemory(bytes: Uint8Array): FileBytes {
  return {
    size: bytes.length,
    read(start: number, length: number): Uint8Array {
      if (!(Number.isSafeInteger(start) && start >= 0 && length >= 0))
        throw new Error('not a position')
      if (start + length > bytes.length) throw new Error('not in the file')
      return new Uint8Array(bytes.subarray(start, start + length))
    },
  } as FileBytes
}

describe('readers: Parquet', function () {
  this.timeout(60_000)
  const path = temporaryFolder()

  for (const name of goldenFiles)
    it(`reads every row and type of ${name}`, () => {
      const rows = [
        ...readRowsOfFile(inMemory(readFileSync(new URL(name, golden))), readerLimits()),
      ]
      assert.deepEqual(
        rows.map(({ result }) => result),
        goldenRows.map((record, i) => ({ record, line: i + 1 })),
      )
    })

  it('reads them in its worker', async () => {
    for (const name of ['snappy-pages.parquet', 'encodings-pages.parquet'])
      assert.deepEqual(
        await readAll(new URL(name, golden).pathname),
        goldenRows.map((record, i) => ({ record, line: i + 1 })),
      )
  })

  it('passes the whole file to onBytes', async () => {
    const file = new URL('snappy.parquet', golden).pathname
    const hash = createHash('sha256')
    await readAll(file, { onBytes: (chunk) => hash.update(chunk) })
    assert.equal(hash.digest('hex'), createHash('sha256').update(readFileSync(file)).digest('hex'))
  })

  it('reads a file without rows', async () => {
    const schema = [schemaElement('schema', { children: 1 }), schemaElement('text')]
    assert.deepEqual(
      await readBack(path('none.parquet'), parquetFile(Buffer.alloc(0), footer(schema, []))),
      [],
    )
  })

  it('streams many rows in order, in bounded pieces', async () => {
    const texts = Array.from({ length: 5_003 }, (_, i) => `${String(i)} ${'x'.repeat(i % 301)}`)
    const pages: Buffer[] = []
    for (let i = 0; i < texts.length; i += 700) {
      const slice = texts.slice(i, i + 700)
      pages.push(dataPage(plainTexts(...slice), { values: slice.length }))
    }
    const results = await readBack(path('many.parquet'), textFile(pages, { rows: texts.length }))
    assert.deepEqual(
      results,
      texts.map((text, i) => ({ record: { text }, line: i + 1 })),
    )
  })

  it('names a row whose text is not UTF-8, or too long, and goes on', async () => {
    const invalid = Buffer.from([0x61, 0xc3, 0x28])
    const values = plainTexts('one', invalid, 'three', 'x'.repeat(501), '')
    const file = textFile([dataPage(values, { values: 5 })], { rows: 5 })
    const results = await readBack(path('rows.parquet'), file, { limits: { lineBytes: 500 } })
    assert.deepEqual(records(results), [{ text: 'one' }, { text: 'three' }, { text: '' }])
    const bad = badLines(results)
    assert.deepEqual(
      bad.map(([line]) => line),
      [2, 4],
    )
    assert.match(bad[0][1], /column "text" is not valid UTF-8/)
    assert.match(bad[1][1], /column "text" .* limits\.lineBytes/)
  })

  it('gives plain data for columns with the names of object members', async () => {
    const names = ['__proto__', 'constructor']
    const page = dataPage(plainTexts('x'), { values: 1 })
    const file = parquetFile(
      Buffer.concat([page, page]),
      footer(
        [schemaElement('schema', { children: 2 }), ...names.map((name) => schemaElement(name))],
        [
          rowGroup(
            names.map((name, i) =>
              columnChunk({ path: [name], start: 4 + i * page.length, size: page.length }),
            ),
            1,
          ),
        ],
      ),
    )
    const [record] = records(await readBack(path('names.parquet'), file)) as object[]
    assert.equal(Object.getPrototypeOf(record), Object.prototype)
    assert.deepEqual(Object.entries(record), [
      ['__proto__', 'x'],
      ['constructor', 'x'],
    ])
  })

  const page = dataPage(plainTexts('x'), { values: 1 })
  const schema = [schemaElement('schema', { children: 1 }), schemaElement('text')]
  const withFooter = (...groups: Buffer[]): Buffer => parquetFile(page, footer(schema, groups))
  const indices = (...runs: Buffer[]): Buffer => Buffer.concat([Buffer.from([1]), ...runs])
  const dictionary = dictionaryPage(plainTexts('a', 'b'), 2)
  const dictionaryFile = (values: number, ...runs: Buffer[]): Buffer =>
    textFile([dictionary, dataPage(indices(...runs), { values, encoding: encodings.dictionary })], {
      rows: values,
    })
  const compressed = (codec: number, bytes: Uint8Array, size: number): Buffer =>
    textFile([dataPage(bytes, { values: 1, size })], { codec })
  const zeros = Buffer.alloc(50_000_000)
  // Differences of nothing: `count` times the first value.
  const deltas = (count: number, first: number): Buffer =>
    Buffer.concat([
      ...[128, 4, count, first * 2].map(varint),
      ...Array.from({ length: Math.ceil(count / 128) }, () => Buffer.alloc(5)),
    ])
  // A frame of blocks that repeat a byte 131,072 times each.
  const zstdBomb = Buffer.concat([
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 0x58]),
    ...Array.from({ length: 20_000 }, () => Buffer.from([0x02, 0x00, 0x10, 0x20])),
    Buffer.from([0x03, 0x00, 0x10, 0x20]),
  ])

  const hostile: Record<string, { bytes: Buffer; reason: RegExp }> = {
    nothing: { bytes: Buffer.alloc(0), reason: /too short/ },
    'another kind of file': {
      bytes: Buffer.from('{"a":1}\n{"a":2}\n'),
      reason: /does not begin with PAR1/,
    },
    'an end that is missing': { bytes: textFile([page]).subarray(0, -9), reason: /cut short/ },
    'a footer longer than the file': {
      bytes: parquetFile(page, footer(schema, []), 2 ** 24),
      reason: /more than the file has/,
    },
    'a footer beyond its limit': {
      bytes: parquetFile(page, footer(schema, []), 2 ** 31),
      reason: /limits\.footerBytes/,
    },
    'a footer of zeros': { bytes: parquetFile(page, Buffer.alloc(50)), reason: /undefined/ },
    'a list of 2^31 elements': {
      bytes: parquetFile(page, structBytes(i32(1, 2), list(2, 'struct', schema, 2 ** 31))),
      reason: /cut short/,
    },
    'lists of millions within one another': {
      bytes: parquetFile(
        Buffer.alloc(0),
        Buffer.concat([Buffer.from([0x29]), Buffer.alloc(100_000, 0xf9), Buffer.alloc(2 ** 22)]),
      ),
      reason: /too many values|cut short|nested too deep|too long/,
    },
    'structs nested by the thousand': {
      bytes: parquetFile(page, Buffer.alloc(100_000, 0x1c)),
      reason: /nested too deep/,
    },
    'a schema that claims more children': {
      bytes: parquetFile(page, footer([schemaElement('schema', { children: 2 ** 30 })], [])),
      reason: /schema is cut short/,
    },
    'a schema too deep': {
      bytes: parquetFile(
        page,
        footer(
          [
            ...Array.from({ length: 5_000 }, () => schemaElement('a', { children: 1 })),
            schemaElement('text'),
          ],
          [],
        ),
      ),
      reason: /limits\.recordDepth/,
    },
    'two columns of one name': {
      bytes: parquetFile(
        page,
        footer([schemaElement('s', { children: 2 }), schema[1], schema[1]], []),
      ),
      reason: /two columns are named "text"/,
    },
    'more rows than values': { bytes: textFile([page], { rows: 2 ** 40 }), reason: /rows fewer/ },
    'a number of rows below 0': { bytes: textFile([page], { rows: -1 }), reason: /number of rows/ },
    'a column beyond the file': {
      bytes: withFooter(rowGroup([columnChunk({ size: 2 ** 40 })], 1)),
      reason: /ends at byte/,
    },
    'a column before the file': {
      bytes: withFooter(rowGroup([columnChunk({ start: -5n, size: 20 })], 1)),
      reason: /not a whole number from 0/,
    },
    'a column that is not there': {
      bytes: withFooter(rowGroup([columnChunk({ path: ['other'], size: 20 })], 1)),
      reason: /not found: other/,
    },
    'a column too few': {
      bytes: withFooter(rowGroup([], 1)),
      reason: /0 columns where the schema has 1/,
    },
    'an unknown codec': { bytes: textFile([page], { codec: 77 }), reason: /codec/ },
    'a page that claims a gigabyte': {
      bytes: compressed(codecs.snappy, Buffer.from([1, 0, 97]), 2 ** 30),
      reason: /column "text", page at byte 4: .* limits\.pageBytes/,
    },
    'a page that claims more than its column': {
      bytes: textFile([dataPage(plainTexts('x'), { values: 1, stored: 60_000_000 })]),
      reason: /where its column has 5 left/,
    },
    'a page of a size below 0': {
      bytes: textFile([dataPage(plainTexts('x'), { values: 1, size: -7 })]),
      reason: /size below 0/,
    },
    'a page that claims 2^31 - 1 values': {
      bytes: textFile([dataPage(plainTexts('x'), { values: 2 ** 31 - 1 })]),
      reason: /limits\.pageValues/,
    },
    'a page with fewer values than it claims': {
      bytes: textFile([dataPage(plainTexts('x'), { values: 3 })], { rows: 3 }),
      reason: /damaged/,
    },
    'a value longer than its page': {
      bytes: textFile([dataPage(Buffer.from([255, 255, 255, 127, 97]), { values: 1 })]),
      reason: /damaged/,
    },
    'a page header that is a list of 2^31': {
      bytes: textFile([structBytes(list(1, 'i32', [], 2 ** 31))]),
      reason: /cut short/,
    },
    'a page of an unknown type': {
      bytes: textFile([structBytes(i32(1, 9), i32(2, 0), i32(3, 0))]),
      reason: /header of its type/,
    },
    'a run of 2^30 dictionary entries': {
      bytes: dictionaryFile(10, varint(2 ** 31), Buffer.from([1])),
      reason: /a run of 1073741824 values where 10 are left/,
    },
    'a packed run of 2^33 values': {
      bytes: dictionaryFile(10, varint(2 ** 31 + 1)),
      reason: /a run of \d+ values where 10 are left/,
    },
    'a dictionary entry that is not there': {
      bytes: dictionaryFile(3, Buffer.from([6, 7])),
      reason: /entry 7 of a dictionary of 2/,
    },
    'a dictionary that is not there': {
      bytes: textFile([
        dataPage(indices(Buffer.from([2, 0])), { values: 1, encoding: encodings.dictionary }),
      ]),
      reason: /dictionary that the column does not have/,
    },
    'a run of 2^30 levels': {
      bytes: textFile(
        [
          dataPage(Buffer.concat([Buffer.from([6, 0, 0, 0]), varint(2 ** 31), Buffer.from([1])]), {
            values: 5,
          }),
        ],
        { rows: 5, optional: true },
      ),
      reason: /a run of 1073741824 values where 5 are left/,
    },
    'levels longer than their page': {
      bytes: textFile([dataPage(Buffer.from([255, 255, 255, 127, 2, 1]), { values: 1 })], {
        optional: true,
      }),
      reason: /levels of a page do not fit/,
    },
    'prefixes of a megabyte, a hundred thousand times': {
      bytes: textFile(
        [
          dataPage(
            Buffer.concat([
              deltas(100_000, 1_000_000),
              deltas(100_000, 0),
              Buffer.alloc(1_000_000),
            ]),
            { values: 100_000, encoding: encodings.deltaByteArray },
          ),
        ],
        { rows: 100_000 },
      ),
      reason: /limits\.pageBytes/,
    },
    'differences in blocks that go backwards': {
      bytes: textFile(
        [
          dataPage(
            Buffer.concat([...[2 ** 32 - 8, 2 ** 32 - 8, 100, 0].map(varint), Buffer.alloc(50)]),
            { values: 100, encoding: encodings.deltaLengthByteArray },
          ),
        ],
        { rows: 100 },
      ),
      reason: /blocks of an impossible size/,
    },
    'a gzip bomb in a page': {
      bytes: compressed(codecs.gzip, gzipSync(zeros), 1000),
      reason: /larger than 1000 bytes/,
    },
    'a brotli bomb in a page': {
      bytes: compressed(codecs.brotli, brotliCompressSync(zeros), 1000),
      reason: /larger than 1000 bytes/,
    },
    'a zstd bomb in a page': { bytes: compressed(codecs.zstd, zstdBomb, 1000), reason: /./ },
    'a truncated snappy page': {
      bytes: compressed(codecs.snappy, Buffer.from([200, 1, 0xf0]), 200),
      reason: /column "text", page/,
    },
  }

  for (const [name, { bytes, reason }] of Object.entries(hostile))
    it(`refuses ${name}`, () => {
      // Without the worker and its limits: nothing here may need them.
      const before = process.memoryUsage().rss
      const begin = performance.now()
      assert.throws(() => {
        for (const row of readRowsOfFile(inMemory(bytes), readerLimits()))
          assert.equal(row.result.line, 1)
      }, reason)
      assert(performance.now() - begin < 10_000)
      assert(process.memoryUsage().rss - before < 400 * 2 ** 20)
    })

  it('names file, row and reason', async () => {
    const file = path('hostile.parquet')
    for (const name of ['nothing', 'a footer of zeros', 'a page that claims a gigabyte']) {
      const { bytes, reason } = hostile[name]
      await assert.rejects(readBack(file, bytes), (error) => {
        assert(error instanceof DataError, String(error))
        assert.match(error.message, reason)
        assert.equal(error.details.file, file)
        assert.equal(error.details.line, 1)
        return true
      })
    }
  })

  it('ends a decoder that does not end', async () => {
    // A decimal of two million bytes: as a number it would take hours.
    const pages = [dataPage(plainTexts(Buffer.alloc(2_000_000, 7)), { values: 1 })]
    const file = textFile(pages, { converted: 5 })
    await assert.rejects(
      readBack(path('slow.parquet'), file, { limits: { batchMilliseconds: 500 } }),
      (error) => error instanceof DataError && /took longer than the 500 ms/.test(error.message),
    )
  })

  it('holds what is decompressed in all to limits.fileBytes', async () => {
    // The same page again and again: row groups may overlap.
    const group = rowGroup([columnChunk({ size: page.length })], 1)
    const file = withFooter(...Array.from({ length: 100 }, () => group))
    const limits = { fileBytes: 400 }
    await assert.rejects(readBack(path('again.parquet'), file, { limits }), /limits\.fileBytes/)
    assert.equal((await readAll(path('again.parquet'))).length, 100)
  })

  it('gives the rows before the damage, then the error with its row', async () => {
    const good = dataPage(plainTexts('a', 'b', 'c'), { values: 3 })
    const bad = dataPage(Buffer.from([9, 0, 0, 0]), { values: 1 })
    const file = path('damaged.parquet')
    writeFileSync(file, textFile([good, bad], { rows: 4 }))
    const lines: number[] = []
    await assert.rejects(
      async () => {
        for await (const { line } of readRecords(file)) lines.push(line)
      },
      (error) => error instanceof DataError && error.details.line === 4,
    )
    assert.deepEqual(lines, [1, 2, 3])
  })

  it('ends in rows or an error, whatever bytes of a file are changed or missing', () => {
    const random = new Random(77)
    const limits = readerLimits()
    let numErrors = 0
    // A few that are not zstd, whose decoder may go on for ever: that is what the worker is for.
    const names = goldenFiles.filter((name) => !/zstd|^encodings\.parquet/.test(name))
    for (let trial = 0; trial < 400; ++trial) {
      const bytes = new Uint8Array(readFileSync(new URL(names[trial % names.length], golden)))
      const view = new DataView(bytes.buffer)
      const footerStart = bytes.length - 8 - view.getUint32(bytes.length - 8, true)
      for (let change = 0; change <= random.integer(3); ++change) {
        const at =
          random.integer(2) === 0
            ? random.integer(bytes.length)
            : footerStart + random.integer(bytes.length - footerStart)
        bytes[at] ^= 1 << random.integer(8)
      }
      const length = trial % 7 === 0 ? random.integer(bytes.length) : bytes.length
      try {
        for (const { result } of readRowsOfFile(inMemory(bytes.subarray(0, length)), limits))
          structuredClone(result)
      } catch (error) {
        assert(error instanceof Error)
        ++numErrors
      }
    }
    assert(numErrors > 100)
  })

  it('stops when the signal is aborted, and leaves no file open', async () => {
    const file = path('abort.parquet')
    const values = Array.from({ length: 20_000 }, (_, i) => `value ${String(i)}`)
    writeFileSync(
      file,
      textFile([dataPage(plainTexts(...values), { values: 20_000 })], { rows: 20_000 }),
    )
    const controller = new AbortController()
    let last = 0
    await assert.rejects(async () => {
      for await (const { line } of readRecords(file, { signal: controller.signal })) {
        last = line
        if (line === 3) controller.abort()
      }
    }, AbortedError)
    assert.equal(last, 3)
    for await (const { line } of readRecords(file)) if (line === 5) break
    const open = readdirSync('/proc/self/fd').flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/self/fd/${fd}`)]
      } catch {
        return []
      }
    })
    assert(!open.includes(file))
  })

  it('says what is wrong with a path', async () => {
    // The reader of a format is loaded late, and tests by require: here its errors are of a twin of the class.
    await assert.rejects(readAll(path('missing.parquet')), { code: 'ERR_POLYLORA_DATA' })
    await assert.rejects(readAll(path('whole.parquet.gz')), /compressed within/)
  })
})
