import { isUtf8 } from 'node:buffer'
import { TextDecoder } from 'node:util'
import { DEFAULT_PARSERS } from 'hyparquet/src/convert.js'
import type { ParquetParsers } from 'hyparquet/src/types.js'
import { jsonCostProblem } from '../json-cost.js'
import type { ReaderLimits } from '../limits.js'

/** Stands for a value that cannot be used; its row is then a bad record, and its page is read on. */
export class BadValue {
  readonly reason: string

  constructor(reason: string) {
    this.reason = reason
  }
}

/** Ends the reading of one row. */
export class UnusableRow extends Error {}

/** How logical types become values. Never throws: one value must not cost the others. */
export function parsers(limits: ReaderLimits): ParquetParsers {
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const text = (bytes: Uint8Array | undefined): unknown => {
    if (!bytes) return undefined
    try {
      return decoder.decode(bytes)
    } catch {
      return new BadValue('is not valid UTF-8')
    }
  }
  const unsupported = (): BadValue => new BadValue('has a type that is not read')
  return {
    ...DEFAULT_PARSERS,
    stringFromBytes: text,
    jsonFromBytes(bytes: Uint8Array | undefined): unknown {
      if (!bytes) return undefined
      const problem = jsonCostProblem(bytes, limits)
      if (problem !== undefined) return new BadValue(`is JSON that is not read: ${problem}`)
      const json = text(bytes)
      if (typeof json !== 'string') return json
      try {
        return JSON.parse(json)
      } catch {
        return new BadValue('is not valid JSON')
      }
    },
    uuidFromBytes: (bytes: Uint8Array | undefined): unknown =>
      bytes && bytes.length !== 16
        ? new BadValue('is not a UUID')
        : DEFAULT_PARSERS.uuidFromBytes(bytes!),
    geometryFromBytes: unsupported,
    geographyFromBytes: unsupported,
  }
}

/** What is left of a row's allowance of values and characters. */
export interface Allowance {
  values: number
  characters: number
}

/**
 * A value as plain data: strings, numbers, booleans, null, lists and objects; bytes that are not
 * text stay bytes. Whole numbers beyond 2^53 and decimals of that size become strings.
 *
 * @throws UnusableRow if it cannot be used, or the allowance is used up
 */
export function plainValue(value: unknown, left: Allowance): unknown {
  if (--left.values < 0) throw new UnusableRow(tooMany)
  switch (typeof value) {
    case 'string':
      left.characters -= value.length
      if (left.characters < 0) throw new UnusableRow(tooLong)
      return value
    case 'bigint':
      return BigInt.asIntN(54, value) === value ? Number(value) : String(value)
    case 'number':
    case 'boolean':
      return value
    case 'object':
      return value === null ? null : plainObject(value, left)
    default:
      return null
  }
}

function plainObject(value: object, left: Allowance): unknown {
  if (value instanceof BadValue) throw new UnusableRow(value.reason)
  if (value instanceof Date) return Number.isNaN(value.getTime()) ? null : value.toISOString()
  if (value instanceof Uint8Array) {
    left.characters -= value.length
    if (left.characters < 0) throw new UnusableRow(tooLong)
    // Older writers do not mark text as text. A copy leaves the page behind.
    const bytes = Buffer.from(value)
    return isUtf8(bytes) ? bytes.toString() : new Uint8Array(bytes)
  }
  if (Array.isArray(value)) return value.map((item) => plainValue(item, left))
  // Defines properties, `__proto__` too: no prototype is touched.
  return Object.fromEntries(
    Object.entries(value).map(([key, item]) => {
      left.characters -= key.length
      return [key, plainValue(item, left)]
    }),
  )
}

const tooMany = 'has more values than limits.recordValues allows'
const tooLong = 'has more characters than limits.lineBytes allows'
