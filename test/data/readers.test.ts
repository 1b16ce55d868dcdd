import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { mkdirSync, writeFileSync } from 'node:fs'
import { createGzip, gzipSync } from 'node:zlib'
import { execFileSync } from 'node:child_process'
import { AbortedError, ArgumentError, DataError } from '../../lib/errors.js'
import { readRecords } from '../../lib/data/readers/index.js'
import { temporaryFolder } from '../temporary-folder.js'
import { badLines, readAll, readBack, records } from './read-all.js'

const failsAt =
  (file: string, line: number, reason: RegExp) =>
  (error: unknown): true => {
    assert(error instanceof DataError)
    assert.equal(error.details.file, file)
    assert.equal(error.details.line, line)
    assert.match(error.message, reason)
    return true
  }

describe('readers: JSON Lines', () => {
  const path = temporaryFolder()

  it('reads objects with their lines, in order, skipping blank lines', async () => {
    const results = await readBack(
      path('plain.jsonl'),
      '{"a":1}\n\n  \t\n{"b":["x",{"c":null}]}\n{"d":"é日😀"}\n',
    )
    assert.deepEqual(results, [
      { record: { a: 1 }, line: 1 },
      { record: { b: ['x', { c: null }] }, line: 4 },
      { record: { d: 'é日😀' }, line: 5 },
    ])
  })

  it('takes a byte order mark, CRLF, and a last line without an end', async () => {
    const results = await readBack(path('windows.ndjson'), '\ufeff{"a":1}\r\n\r\n{"b":2}')
    assert.deepEqual(results, [
      { record: { a: 1 }, line: 1 },
      { record: { b: 2 }, line: 3 },
    ])
  })

  it('reads nothing from an empty file, a byte order mark alone, or blank lines', async () => {
    assert.deepEqual(await readBack(path('empty.jsonl'), ''), [])
    assert.deepEqual(await readBack(path('mark.jsonl'), '\ufeff'), [])
    assert.deepEqual(await readBack(path('blank.jsonl'), '\n\r\n   \n'), [])
  })

  it('names each bad line and goes on', async () => {
    const file = Buffer.concat([
      Buffer.from('{"a":1}\n[1,2]\n17\n"text"\nnull\n{"a":\n{"a":"'),
      Buffer.from([0xc3, 0x28]),
      Buffer.from('"}\n{"a":""}\n'),
      Buffer.from([0xff]),
      Buffer.from('\n{"z":26}\n{"cut":"of'),
    ])
    const results = await readBack(path('bad.jsonl'), file)
    assert.deepEqual(records(results), [{ a: 1 }, { a: '' }, { z: 26 }])
    const bad = badLines(results)
    assert.deepEqual(
      bad.map(([line]) => line),
      [2, 3, 4, 5, 6, 7, 9, 11],
    )
    const reasons = [
      /an array/,
      /a number/,
      /a string/,
      /null/,
      /not valid JSON/,
      /not valid UTF-8/,
      /not valid UTF-8/,
      /not valid JSON.*last line.*cut short/,
    ]
    reasons.forEach((reason, i) => {
      assert.match(bad[i][1], reason)
    })
  })

  it('keeps control characters of a file out of its messages', async () => {
    const [[, reason]] = badLines(await readBack(path('escape.jsonl'), '\u001b[31m{}\n'))
    assert.doesNotMatch(reason, /\p{Cc}/u)
  })

  it('gives plain data for duplicate and __proto__ keys', async () => {
    const [first, second] = records(
      await readBack(
        path('keys.jsonl'),
        '{"a":1,"a":2}\n{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}\n',
      ),
    ) as Record<string, unknown>[]
    assert.deepEqual(first, { a: 2 })
    assert.equal(Object.getPrototypeOf(second), Object.prototype)
    assert.deepEqual(Object.keys(second), ['__proto__', 'constructor'])
    assert.equal(second.polluted, undefined)
    assert.equal(({} as Record<string, unknown>).polluted, undefined)
  })

  it('skips a line that is too long to its end, in bounded memory', async () => {
    const limits = { lineBytes: 1000 }
    const line = (length: number): string => `{"a":"${'x'.repeat(length - 8)}"}`
    const file = [line(1000), line(1001), `${line(1000)}\r`, line(300_001), '{"b":1}'].join('\n')
    const results = await readBack(path('long.jsonl'), file, { limits })
    assert.deepEqual(
      results.map((result) => [result.line, 'record' in result]),
      [
        [1, true],
        [2, false],
        [3, true],
        [4, false],
        [5, true],
      ],
    )
    assert.match(badLines(results)[0][1], /1000 bytes that limits\.lineBytes allows/)
    const unended = await readBack(path('unended.jsonl'), 'x'.repeat(200_003), { limits })
    assert.deepEqual(
      badLines(unended).map(([at]) => at),
      [1],
    )
  })

  it('splits lines alike wherever the chunks of the file end', async () => {
    const expected: unknown[] = []
    let text = ''
    // Lengths around the chunk of 32,768 bytes, in characters of three bytes.
    for (const length of [1, 10_919, 10_920, 7, 21_845, 2, 32_755, 3]) {
      const record = { text: '語'.repeat(length), length }
      expected.push(record)
      text += `${JSON.stringify(record)}\n`
    }
    assert.deepEqual(records(await readBack(path('chunks.jsonl'), text)), expected)
    assert.deepEqual(records(await readBack(path('chunks.jsonl.gz'), gzipSync(text))), expected)
  })

  it('refuses records that would hold up the event loop or overflow a stack', async () => {
    const deep = `{"a":${'['.repeat(200_000)}${']'.repeat(200_000)}}`
    const wide = `{"a":[${'0,'.repeat(70_000)}0]}`
    const keys = `{${Array.from({ length: 20_000 }, (_, i) => `"${String(i)}":0`).join(',')}}`
    const text = JSON.stringify({ text: '{[,:"'.repeat(100_000) })
    const results = await readBack(path('costly.jsonl'), [deep, wide, keys, text].join('\n'))
    const bad = badLines(results)
    assert.deepEqual(
      bad.map(([line]) => line),
      [1, 2, 3],
    )
    assert.match(bad[0][1], /recordDepth/)
    assert.match(bad[1][1], /recordValues/)
    assert.match(bad[2][1], /recordKeys/)
    assert.equal(records(results).length, 1)
  })

  it('passes the bytes of the file to onBytes', async () => {
    const file = gzipSync(`{"a":"${'0123456789'.repeat(30_001)}"}\n`, { level: 0 })
    const hash = createHash('sha256')
    await readBack(path('bytes.jsonl.gz'), file, { onBytes: (chunk) => hash.update(chunk) })
    assert.equal(hash.digest('hex'), createHash('sha256').update(file).digest('hex'))
  })
})

describe('readers: files', () => {
  const path = temporaryFolder()
  const line = '{"prompt":"one and one","completion":"two"}\n'

  it('reads gzip, several members too', async () => {
    const file = path('two.jsonl.gz')
    const results = await readBack(file, Buffer.concat([gzipSync(line), gzipSync(line.repeat(2))]))
    assert.deepEqual(
      results.map((result) => result.line),
      [1, 2, 3],
    )
  })

  it('throws where gzip is damaged, cut short or empty, after the lines before it', async () => {
    const lines = Array.from({ length: 20_000 }, (_, i) => `{"n":${String((i * 7919) % 100_003)}}`)
    const whole = gzipSync(lines.join('\n'))
    const flipped = Buffer.from(whole)
    flipped[whole.length - 5] ^= 1
    const cases: Record<string, Uint8Array> = {
      cut: whole.subarray(0, whole.length - 7),
      half: whole.subarray(0, whole.length >> 1),
      flipped,
      empty: new Uint8Array(0),
      text: Buffer.from(line),
    }
    for (const [name, bytes] of Object.entries(cases)) {
      const file = path(`${name}.jsonl.gz`)
      writeFileSync(file, bytes)
      let last = 0
      await assert.rejects(
        async () => {
          for await (const result of readRecords(file)) {
            assert.deepEqual(result, {
              record: JSON.parse(lines[last]) as unknown,
              line: last + 1,
            })
            last = result.line
          }
        },
        (error) => failsAt(file, last + 1, /gzip data is damaged or cut short/)(error),
        name,
      )
    }
  })

  it('stops at a gzip bomb', async () => {
    const file = path('bomb.jsonl.gz')
    const gzip = createGzip({ level: 9 })
    const parts: Buffer[] = []
    gzip.on('data', (part: Buffer) => parts.push(part))
    const ended = new Promise((resolve) => gzip.once('end', resolve))
    const zeros = Buffer.alloc(2 ** 24, 0x20)
    for (let i = 0; i < 4; ++i) gzip.write(zeros)
    gzip.end()
    await ended
    writeFileSync(file, Buffer.concat(parts))
    await assert.rejects(readAll(file), failsAt(file, 1, /limits\.compressionRatio/))
    await assert.rejects(
      readAll(file, { limits: { compressionRatio: 2000, fileBytes: 10 ** 7 } }),
      failsAt(file, 1, /10000000 bytes that limits\.fileBytes/),
    )
  })

  it('holds plain files to limits.fileBytes too', async () => {
    const file = path('large.jsonl')
    await assert.rejects(
      readBack(file, line.repeat(3), { limits: { fileBytes: 100 } }),
      failsAt(file, 1, /limits\.fileBytes/),
    )
  })

  it('reads zstd where Node.js can, and says what is missing where it cannot', async () => {
    const zlib = await import('node:zlib')
    const file = path('z.jsonl.zst')
    if ('zstdCompressSync' in zlib) {
      const compress = zlib.zstdCompressSync as (text: string) => Buffer
      assert.equal((await readBack(file, compress(line))).length, 1)
      await assert.rejects(
        readBack(file, compress(line).subarray(0, -3)),
        failsAt(file, 1, /zstd data is damaged or cut short/),
      )
    } else await assert.rejects(readBack(file, line), failsAt(file, 1, /cannot read zstd.*22\.15/))
  })

  it('says what a file is whose name tells otherwise', async () => {
    const cases: [Uint8Array, RegExp][] = [
      [gzipSync(line), /gzip data; its name must end in \.gz/],
      [Buffer.from(`\ufeff${line}`, 'utf16le'), /UTF-16/],
      [Buffer.from('PAR1....'), /Parquet/],
    ]
    const file = path('misnamed.jsonl')
    for (const [bytes, reason] of cases)
      await assert.rejects(readBack(file, bytes), failsAt(file, 1, reason))
  })

  it('refuses what is not a regular file, without waiting for it', async () => {
    mkdirSync(path('folder.jsonl'))
    execFileSync('mkfifo', [path('pipe.jsonl')])
    await assert.rejects(readAll(path('folder.jsonl')), /folder/)
    await assert.rejects(readAll(path('pipe.jsonl')), /not a regular file/)
    await assert.rejects(readAll(path('missing.jsonl')), DataError)
    await assert.rejects(readAll(path('words.docx')), /must end in \.jsonl/)
    await assert.rejects(readAll(path('gz')), /must end in/)
  })

  it('refuses wrong arguments', async () => {
    for (const wrong of ['', 'a\0b.jsonl', 7 as never])
      await assert.rejects(readAll(wrong), ArgumentError)
    for (const limits of [{ lineBytes: 0 }, { fileBytes: NaN }, { bytes: 1 } as never])
      await assert.rejects(readAll(path('x.jsonl'), { limits }), ArgumentError)
  })

  it('stops when the signal is aborted', async () => {
    for (const name of ['abort.jsonl', 'abort.jsonl.gz']) {
      const file = path(name)
      const text = line.repeat(50_000)
      writeFileSync(file, name.endsWith('.gz') ? gzipSync(text) : text)
      const controller = new AbortController()
      let seen = 0
      await assert.rejects(
        async () => {
          for await (const result of readRecords(file, { signal: controller.signal })) {
            seen = result.line
            if (seen === 3) controller.abort(new Error('enough'))
          }
        },
        (error) => error instanceof AbortedError && (error.cause as Error).message === 'enough',
      )
      assert.equal(seen, 3)
      await assert.rejects(readAll(file, { signal: AbortSignal.abort() }), AbortedError)
    }
  })

  it('closes the file when the reader is left early', async () => {
    const file = path('left.jsonl.gz')
    writeFileSync(file, gzipSync(line.repeat(100_000)))
    const { readdirSync, readlinkSync } = await import('node:fs')
    for await (const { line: at } of readRecords(file)) if (at === 5) break
    const open = readdirSync('/proc/self/fd').flatMap((fd) => {
      try {
        return [readlinkSync(`/proc/self/fd/${fd}`)]
      } catch {
        return []
      }
    })
    assert(!open.includes(file))
  })

  it('leaves the event loop free', async () => {
    const file = path('busy.jsonl.gz')
    writeFileSync(file, gzipSync(line.repeat(100_000), { level: 1 }))
    let sinceTurn = 0
    let longest = 0
    let turning = true
    const turn = (): void => {
      sinceTurn = 0
      if (turning) setImmediate(turn)
    }
    turn()
    for await (const result of readRecords(file)) {
      longest = Math.max(longest, ++sinceTurn)
      assert('record' in result)
    }
    turning = false
    // Counted in records, not in milliseconds, which depend on the machine: two chunks hold 1,500.
    assert(longest <= 3000, `${String(longest)} records in one turn of the event loop`)
  })
})
