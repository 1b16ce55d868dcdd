/** Thrift's compact protocol: types of fields and elements. */
const boolTrue = 1
const boolFalse = 2
const i8 = 3
const i16 = 4
const i32 = 5
const i64 = 6
const double = 7
const binary = 8
const list = 9
const struct = 12

const deepest = 16

/** The struct goes on past the bytes that were given. */
export class ThriftCutShort extends Error {}

/**
 * Walks over a struct without building it, before it is read: the reader takes the length of a list
 * from the file and allocates it, and so many such lists end the process, not just the worker.
 *
 * @returns offset of the struct's end
 * @throws ThriftCutShort if it does not end within `view`; Error if it is damaged, has more than
 *   `mostValues` values, or is nested deeper than anything in Parquet.
 */
export function checkThriftStruct(view: DataView, offset: number, mostValues: number): number {
  const walk = new Walk(view, offset, mostValues)
  try {
    walk.struct(0)
  } catch (cause) {
    if (cause instanceof RangeError)
      throw new ThriftCutShort('the metadata is cut short', { cause })
    throw cause
  }
  if (walk.offset > view.byteLength) throw new ThriftCutShort('the metadata is cut short')
  return walk.offset
}

class Walk {
  offset: number
  readonly #view: DataView
  #valuesLeft: number

  constructor(view: DataView, offset: number, mostValues: number) {
    this.#view = view
    this.offset = offset
    this.#valuesLeft = mostValues
  }

  struct(depth: number): void {
    if (depth > deepest) throw new Error('the metadata is nested too deep')
    for (;;) {
      const byte = this.#byte()
      const type = byte & 0x0f
      if (type === 0) return
      if (byte >> 4 === 0) this.#varint(5)
      // The type of a boolean field is its value.
      if (type !== boolTrue && type !== boolFalse) this.#element(type, depth)
    }
  }

  #element(type: number, depth: number): void {
    if (--this.#valuesLeft < 0) throw new Error('the metadata has too many values')
    switch (type) {
      case boolTrue:
      case boolFalse:
      case i8:
        this.offset += 1
        break
      case i16:
      case i32:
        this.#varint(5)
        break
      case i64:
        this.#varint(10)
        break
      case double:
        this.offset += 8
        break
      case binary: {
        const length = this.#varint(5)
        this.offset += length
        break
      }
      case list: {
        const byte = this.#byte()
        const size = byte >> 4 === 15 ? this.#varint(5) : byte >> 4
        // Every element has a byte or more.
        if (size > this.#view.byteLength - this.offset)
          throw new ThriftCutShort('the metadata is cut short')
        for (let i = 0; i < size; ++i) this.#element(byte & 0x0f, depth + 1)
        break
      }
      case struct:
        this.struct(depth + 1)
        break
      default:
        throw new Error(`the metadata has a value of unknown type ${String(type)}`)
    }
    if (this.offset > this.#view.byteLength) throw new ThriftCutShort('the metadata is cut short')
  }

  #byte(): number {
    return this.#view.getUint8(this.offset++)
  }

  #varint(mostBytes: number): number {
    let value = 0
    for (let i = 0; i < mostBytes; ++i) {
      const byte = this.#byte()
      value += (byte & 0x7f) * 2 ** (7 * i)
      if (byte < 0x80) return value
    }
    throw new Error('the metadata has a number that is too long')
  }
}
