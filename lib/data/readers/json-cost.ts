import type { ReaderLimits } from './limits.js'

const quote = 0x22
const comma = 0x2c
const colon = 0x3a
const bracket = 0x5b
const backslash = 0x5c
const closingBracket = 0x5d
const brace = 0x7b
const closingBrace = 0x7d

/**
 * Why a JSON text would cost too much to parse, if it would. JSON.parse cannot be interrupted: a
 * megabyte of brackets or of short keys holds the event loop up for a second, and values nested
 * too deep overflow the stack of whoever walks them.
 */
export function jsonCostProblem(
  bytes: Uint8Array,
  { recordValues, recordKeys, recordDepth }: ReaderLimits,
): string | undefined {
  let depth = 0
  let values = 1
  let keys = 0
  const { length } = bytes
  for (let i = 0; i < length; ++i) {
    switch (bytes[i]) {
      case quote:
        for (++i; i < length && bytes[i] !== quote; ++i) if (bytes[i] === backslash) ++i
        break
      case bracket:
      case brace:
        ++values
        if (++depth > recordDepth)
          return `the record is nested deeper than the ${String(recordDepth)} levels that limits.recordDepth allows`
        break
      case closingBracket:
      case closingBrace:
        --depth
        break
      case comma:
        if (++values > recordValues)
          return `the record has more than the ${String(recordValues)} values that limits.recordValues allows`
        break
      case colon:
        if (++keys > recordKeys)
          return `the record has more than the ${String(recordKeys)} keys that limits.recordKeys allows`
        break
      default:
    }
  }
  return undefined
}
