import assert from 'node:assert/strict'
import { spawnSync } from 'node:child_process'
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs'
import { describe, it } from 'mocha'
import { ArgumentError, FormatError } from '../lib/errors.js'
import { SafetensorsFile } from '../lib/safetensors.js'
import { Random } from './random.js'
import { temporaryFolder } from './temporary-folder.js'

/** A file of a header, as text or as an object, and a buffer of so many bytes. */
function bytesOf(header: string | object | Buffer, bufferBytes = 0): Buffer {
  const text = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(BigInt(text.length))
  return Buffer.concat([size, text, Buffer.alloc(bufferBytes, 1)])
}

const entry = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})

describe('safetensors header', () => {
  const inFolder = temporaryFolder()

  const opens = async (bytes: Buffer) => {
    const path = inFolder('opened.safetensors')
    writeFileSync(path, bytes)
    const file = await SafetensorsFile.open(path)
    file.close()
    return file
  }

  const good: [string, Buffer][] = [
    ['no tensors', bytesOf('{}')],
    ['padding', bytesOf('{}      ')],
    ['a scalar', bytesOf({ a: entry('F32', [], 0, 4) }, 4)],
    [
      'empty tensors',
      bytesOf(
        {
          a: entry('F32', [0], 0, 0),
          b: entry('U8', [2, 0, 9], 0, 0),
          c: entry('U8', [1], 0, 1),
        },
        1,
      ),
    ],
    ['tensors in any order', bytesOf({ b: entry('U8', [2], 3, 5), a: entry('U8', [3], 0, 3) }, 5)],
    ['an unaligned tensor', bytesOf({ a: entry('U8', [1], 0, 1), b: entry('F32', [1], 1, 5) }, 5)],
    [
      'metadata',
      bytesOf({ __metadata__: { format: 'pt', '': '' }, a: entry('BOOL', [1], 0, 1) }, 1),
    ],
    [
      'sub-byte elements',
      bytesOf({ a: entry('F4', [3, 2], 0, 3), b: entry('F6_E2M3', [4], 3, 6) }, 6),
    ],
    [
      'space between tokens',
      bytesOf(
        '{ "a" :\n\t{ "dtype" : "U8" , "shape" : [ 1 ] , "data_offsets" : [ 0 , 1 ] } }\r\n',
        1,
      ),
    ],
  ]
  for (const [name, bytes] of good)
    it(`allows ${name}`, async () => {
      await opens(bytes)
    })

  it('keeps every name as it is, __proto__ and escapes too', async () => {
    const names = ['__proto__', 'constructor', 'ü 漢 😀', 'a"b\\c/d\b\f\n\r\t\u0001', '', 'a\0b']
    const header = `{${names
      .map((name, i) => `${JSON.stringify(name)}:${JSON.stringify(entry('U8', [1], i, i + 1))}`)
      .join(',')},"\\ud83d\\ude00":${JSON.stringify(entry('U8', [1], 6, 7))}}`
    const file = await opens(bytesOf(header, 7))
    assert.deepEqual([...file.entries.keys()], [...names, '😀'])
    const { begin, end, shape, dtype } = file.entry('ü 漢 😀')
    const start = 8 + Buffer.byteLength(header)
    assert.deepEqual([begin, end, shape, dtype], [start + 2, start + 3, [1], 'U8'])
  })

  const a = '"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}'
  const bad: [string, Buffer, RegExp][] = [
    ['an empty file', Buffer.alloc(0), /0 bytes, fewer than the 8/],
    ['a file of 7 bytes', Buffer.alloc(7), /7 bytes, fewer than the 8/],
    [
      'a header past the end',
      Buffer.concat([Buffer.from([100, 0, 0, 0, 0, 0, 0, 0]), Buffer.from('{}')]),
      /100 bytes, past the end/,
    ],
    [
      'a header that is too large',
      Buffer.concat([Buffer.from([1, 0xe1, 0xf5, 5, 0, 0, 0, 0]), Buffer.from('{}')]),
      /100000001 bytes; at most 100000000/,
    ],
    ['a header of 2^64 - 1 bytes', Buffer.alloc(20, 0xff), /18446744073709551615 bytes; at most/],
    ['no header', Buffer.alloc(8), /must begin with/],
    ['bad UTF-8', bytesOf(Buffer.from([0x7b, 0x22, 0xff, 0x22])), /not valid UTF-8 at byte 2/],
    [
      'overlong UTF-8',
      bytesOf(Buffer.from([0x7b, 0x22, 0xc0, 0xaf, 0x22])),
      /not valid UTF-8 at byte 2/,
    ],
    [
      'a surrogate in UTF-8',
      bytesOf(Buffer.from([0x7b, 0x22, 0xed, 0xa0, 0x80, 0x22])),
      /not valid UTF-8 at byte 2/,
    ],
    [
      'UTF-8 cut short',
      bytesOf(Buffer.from([0x7b, 0x22, 0xe2, 0x82])),
      /not valid UTF-8 at byte 2/,
    ],
    [
      'half a surrogate pair',
      bytesOf(`{"\\ud800":${JSON.stringify(entry('U8', [1], 0, 1))}}`, 1),
      /half a surrogate/,
    ],
    ['a lone low surrogate', bytesOf('{"\\udc00":{}}'), /half a surrogate/],
    ['space before the object', bytesOf(' {}'), /must begin with/],
    ['an array', bytesOf('[]'), /must begin with/],
    ['no end', bytesOf(`{${a}`, 1), /'}' was expected/],
    ['a trailing comma', bytesOf(`{${a},}`, 1), /'"' was expected/],
    ['something after the object', bytesOf(`{${a}} x`, 1), /nothing may follow/],
    ['a NUL after the object', bytesOf('{}\0'), /nothing may follow/],
    ['a string that does not end', bytesOf('{"a'), /does not end/],
    ['an escape that does not end', bytesOf('{"\\u00'), /does not end/],
    ['an unknown escape', bytesOf('{"\\x"'), /unknown escape/],
    ['a control character in a string', bytesOf('{"a\nb":1}'), /control character/],
    ['a name twice', bytesOf(`{${a},${a}}`, 1), /"a" is there twice/],
    [
      'a name twice, once escaped',
      bytesOf(`{${a},${a.replace('"a"', '"\\u0061"')}}`, 1),
      /"a" is there twice/,
    ],
    [
      'a key twice',
      bytesOf('{"a":{"dtype":"U8","dtype":"U8","shape":[1],"data_offsets":[0,1]}}', 1),
      /key dtype twice/,
    ],
    ['metadata twice', bytesOf('{"__metadata__":{},"__metadata__":{}}'), /twice/],
    ['a metadata key twice', bytesOf('{"__metadata__":{"a":"1","a":"2"}}'), /"a" twice/],
    ['metadata that is no string', bytesOf('{"__metadata__":{"a":1}}'), /'"' was expected/],
    ['metadata that is no object', bytesOf('{"__metadata__":null}'), /'{' was expected/],
    [
      'an unknown key',
      bytesOf('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1],"x":1}}', 1),
      /unknown key "x"/,
    ],
    ['no dtype', bytesOf('{"a":{"shape":[1],"data_offsets":[0,1]}}', 1), /"a" has no dtype/],
    ['no shape', bytesOf('{"a":{"dtype":"U8","data_offsets":[0,1]}}', 1), /"a" has no shape/],
    ['no offsets', bytesOf('{"a":{"dtype":"U8","shape":[1]}}', 1), /"a" has no data_offsets/],
    [
      'three offsets',
      bytesOf('{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1,1]}}', 1),
      /3 data_offsets; 2 are needed/,
    ],
    ['an unknown dtype', bytesOf({ a: entry('F128', [1], 0, 16) }, 16), /unknown dtype "F128"/],
    ['a dtype in lower case', bytesOf({ a: entry('f32', [1], 0, 4) }, 4), /unknown dtype "f32"/],
    [
      'a tensor that ends before it begins',
      bytesOf({ a: entry('U8', [1], 1, 0) }, 1),
      /ends before it begins/,
    ],
    [
      'too few bytes for the shape',
      bytesOf({ a: entry('F32', [2], 0, 4) }, 4),
      /has 4 bytes, but its shape and dtype need 8/,
    ],
    [
      'too many bytes for the shape',
      bytesOf({ a: entry('F32', [0], 0, 4) }, 4),
      /has 4 bytes, but its shape and dtype need 0/,
    ],
    ['half a byte', bytesOf({ a: entry('F4', [3], 0, 2) }, 2), /whole byte/],
    [
      'a size that overflows',
      bytesOf({ a: entry('F32', [2 ** 40, 2 ** 40], 0, 4) }, 4),
      /overflows/,
    ],
    [
      'a gap',
      bytesOf({ a: entry('U8', [1], 0, 1), b: entry('U8', [1], 2, 3) }, 3),
      /a gap after byte 1/,
    ],
    ['a gap at the start', bytesOf({ a: entry('U8', [1], 1, 2) }, 2), /a gap after byte 0/],
    [
      'an overlap',
      bytesOf({ a: entry('U8', [2], 0, 2), b: entry('U8', [2], 1, 3) }, 3),
      /an overlap before byte 2/,
    ],
    [
      'bytes left over',
      bytesOf({ a: entry('U8', [1], 0, 1) }, 2),
      /end at byte .*, but the file has/,
    ],
    [
      'bytes missing',
      bytesOf({ a: entry('U8', [2], 0, 2) }, 1),
      /end at byte .*, but the file has/,
    ],
    ['a negative size', bytesOf({ a: entry('U8', [-1], 0, 1) }, 1), /integer that is not negative/],
    ['a fraction', bytesOf({ a: entry('U8', [1.5], 0, 1) }, 1), /not a fraction/],
    [
      'an exponent',
      bytesOf('{"a":{"dtype":"U8","shape":[1e0],"data_offsets":[0,1]}}', 1),
      /not a fraction/,
    ],
    [
      'a leading zero',
      bytesOf('{"a":{"dtype":"U8","shape":[01],"data_offsets":[0,1]}}', 1),
      /integer that is not negative/,
    ],
    [
      'a number above 2^53',
      bytesOf('{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,1]}}', 1),
      /above 2\^53/,
    ],
    [
      'a number of many digits',
      bytesOf(`{"a":{"dtype":"U8","shape":[${'9'.repeat(100)}],"data_offsets":[0,1]}}`, 1),
      /above 2\^53/,
    ],
    ['a size as a string', bytesOf({ a: entry('U8', ['1'], 0, 1) }, 1), /integer/],
    ['a shape that is no array', bytesOf({ a: entry('U8', 1, 0, 1) }, 1), /'\[' was expected/],
    ['a deeply nested value', bytesOf(`{"a":${'['.repeat(100_000)}`), /'{' was expected/],
  ]
  for (const [name, bytes, message] of bad)
    it(`refuses ${name}`, async () => {
      await assert.rejects(opens(bytes), (error) => {
        assert.ok(error instanceof FormatError, String(error))
        assert.match(error.message, message)
        assert.ok(error.message.includes('opened.safetensors'))
        return true
      })
    })

  it('refuses any damage to a header, or reads a header that is whole', async () => {
    const random = new Random(4)
    const whole = bytesOf(
      {
        __metadata__: { format: 'pt' },
        a: entry('F32', [2, 2], 0, 16),
        'b.weight': entry('BF16', [3], 16, 22),
      },
      22,
    )
    let refused = 0
    for (let i = 0; i < 1500; ++i) {
      const bytes = Buffer.from(whole)
      for (let k = 0; k <= random.integer(3); ++k)
        bytes[random.integer(bytes.length - 22)] = random.integer(256)
      try {
        await opens(random.integer(4) ? bytes : bytes.subarray(0, random.integer(bytes.length)))
      } catch (error) {
        assert.ok(error instanceof FormatError, String(error))
        ++refused
      }
    }
    assert.ok(refused > 1000)
  }).timeout(60_000)

  it('says why a file cannot be opened', async () => {
    mkdirSync(inFolder('folder'))
    await assert.rejects(SafetensorsFile.open(inFolder('none')), (error) => {
      assert.ok(error instanceof FormatError)
      assert.match(error.message, /none could not be opened: No such file/)
      assert.deepEqual(error.details, { file: inFolder('none'), error: 'ENOENT' })
      return true
    })
    await assert.rejects(SafetensorsFile.open(inFolder('folder')), /not a regular file/)
    assert.equal(spawnSync('mkfifo', [inFolder('fifo')]).status, 0)
    await assert.rejects(SafetensorsFile.open(inFolder('fifo')), /not a regular file/)
    await assert.rejects(SafetensorsFile.open('a\0b'), ArgumentError)
    await assert.rejects(SafetensorsFile.open(''), ArgumentError)
    writeFileSync(inFolder('target'), bytesOf('{}'))
    symlinkSync(inFolder('target'), inFolder('link'))
    const linked = await SafetensorsFile.open(inFolder('link'))
    linked.close()
  })
})
