/** Parquet files made by hand, so that they can lie. */

const types = { i32: 5, i64: 6, binary: 8, list: 9, struct: 12 }

/** A field of a Thrift struct in the compact protocol. */
export interface Field {
  readonly id: number
  readonly type: number
  readonly bytes: Buffer
}

export function varint(value: number | bigint): Buffer {
  const bytes: number[] = []
  let left = BigInt(value)
  for (; left >= 128n; left >>= 7n) bytes.push(Number(left & 127n) | 128)
  bytes.push(Number(left))
  return Buffer.from(bytes)
}

function zigzag(value: number | bigint): Buffer {
  const big = BigInt(value)
  return varint(big >= 0n ? big << 1n : (-big << 1n) - 1n)
}

export const i32 = (id: number, value: number): Field => ({
  id,
  type: types.i32,
  bytes: zigzag(value),
})

export const i64 = (id: number, value: number | bigint): Field => ({
  id,
  type: types.i64,
  bytes: zigzag(value),
})

export const flag = (id: number, value: boolean): Field => ({
  id,
  type: value ? 1 : 2,
  bytes: Buffer.alloc(0),
})

export const struct = (id: number, ...fields: Field[]): Field => ({
  id,
  type: types.struct,
  bytes: structBytes(...fields),
})

function binary(text: string): Buffer {
  return Buffer.concat([varint(Buffer.byteLength(text)), Buffer.from(text)])
}

export const text = (id: number, value: string): Field => ({
  id,
  type: types.binary,
  bytes: binary(value),
})

/** A list of `items`, which may claim to be longer. */
export function list(
  id: number,
  elementType: keyof typeof types,
  items: Buffer[],
  size = items.length,
): Field {
  const head =
    size < 15
      ? Buffer.from([(size << 4) | types[elementType]])
      : Buffer.concat([Buffer.from([0xf0 | types[elementType]]), varint(size)])
  return { id, type: types.list, bytes: Buffer.concat([head, ...items]) }
}

export function structBytes(...fields: Field[]): Buffer {
  let last = 0
  const parts = fields.map(({ id, type, bytes }) => {
    const head = Buffer.from([((id - last) << 4) | type])
    last = id
    return Buffer.concat([head, bytes])
  })
  return Buffer.concat([...parts, Buffer.from([0])])
}

export const encodings = {
  plain: 0,
  rle: 3,
  deltaLengthByteArray: 6,
  deltaByteArray: 7,
  dictionary: 8,
  deltaBinaryPacked: 5,
}
export const codecs = { none: 0, snappy: 1, gzip: 2, brotli: 4, zstd: 6, lz4: 7 }

/** A data page of version 1: header and stored bytes, with the sizes it claims. */
export function dataPage(
  bytes: Uint8Array,
  options: { values: number; encoding?: number; size?: number; stored?: number },
): Buffer {
  const { values, encoding = encodings.plain, size = bytes.length, stored = bytes.length } = options
  const header = structBytes(
    i32(1, 0),
    i32(2, size),
    i32(3, stored),
    struct(5, i32(1, values), i32(2, encoding), i32(3, encodings.rle), i32(4, encodings.rle)),
  )
  return Buffer.concat([header, bytes])
}

export function dictionaryPage(bytes: Uint8Array, values: number): Buffer {
  const header = structBytes(
    i32(1, 2),
    i32(2, bytes.length),
    i32(3, bytes.length),
    struct(7, i32(1, values), i32(2, encodings.plain)),
  )
  return Buffer.concat([header, bytes])
}

/** Byte arrays in the plain encoding. */
export function plainTexts(...values: (string | Uint8Array)[]): Buffer {
  return Buffer.concat(
    values.flatMap((value) => {
      const bytes = Buffer.from(value as string)
      const length = Buffer.alloc(4)
      length.writeUInt32LE(bytes.length)
      return [length, bytes]
    }),
  )
}

/** An element of a schema: a leaf of text, or a group of the `children` elements after it. */
export function schemaElement(
  name: string,
  options: { children?: number; optional?: boolean; type?: number; converted?: number } = {},
): Buffer {
  const { children, optional = false, type = 6, converted = type === 6 ? 0 : undefined } = options
  return children === undefined
    ? structBytes(
        i32(1, type),
        i32(3, optional ? 1 : 0),
        text(4, name),
        ...(converted === undefined ? [] : [i32(6, converted)]),
      )
    : structBytes(i32(3, optional ? 1 : 0), text(4, name), i32(5, children))
}

/** A column of a row group as the footer tells of it. */
export function columnChunk(options: {
  path?: string[]
  start?: number | bigint
  size: number | bigint
  values?: number | bigint
  codec?: number
  type?: number
}): Buffer {
  const { path = ['text'], start = 4, size, values = 1, codec = codecs.none, type = 6 } = options
  const metadata = struct(
    3,
    i32(1, type),
    list(2, 'i32', [zigzag(0)]),
    list(3, 'binary', path.map(binary)),
    i32(4, codec),
    i64(5, values),
    i64(6, size),
    i64(7, size),
    i64(9, start),
  )
  return structBytes(i64(2, 0), metadata)
}

export function rowGroup(columns: Buffer[], rows: number | bigint): Buffer {
  return structBytes(list(1, 'struct', columns), i64(2, 0), i64(3, rows))
}

export function footer(schema: Buffer[], groups: Buffer[]): Buffer {
  return structBytes(i32(1, 2), list(2, 'struct', schema), i64(3, 0), list(4, 'struct', groups))
}

/** Pages and a footer as a file. */
export function parquetFile(pages: Buffer, metadata: Buffer, claimedLength?: number): Buffer {
  const length = Buffer.alloc(4)
  length.writeUInt32LE(claimedLength ?? metadata.length)
  return Buffer.concat([Buffer.from('PAR1'), pages, metadata, length, Buffer.from('PAR1')])
}

/** A file of one column of required (or optional) text named `text`. */
export function textFile(
  pages: Buffer[],
  options: {
    rows?: number | bigint
    values?: number | bigint
    codec?: number
    optional?: boolean
    type?: number
    converted?: number
  } = {},
): Buffer {
  const { rows = 1, values = rows, codec, optional, type, converted } = options
  const bytes = Buffer.concat(pages)
  const chunk = columnChunk({ size: bytes.length, values, codec, type })
  const schema = [
    schemaElement('schema', { children: 1 }),
    schemaElement('text', { optional, type, converted }),
  ]
  return parquetFile(bytes, footer(schema, [rowGroup([chunk], rows)]))
}
