import { TextDecoder } from 'node:util'
import { LineSplitter, withoutByteOrderMark } from './lines.js'
import type { Line } from './lines.js'
import { excerpt } from './reading.js'
import type { BadRecord, ReadRecord, Reading } from './reading.js'
import { jsonCostProblem } from './json-cost.js'

/** The records of JSON Lines: one object a line, blank lines skipped. The last of equal keys holds. */
export async function* readJsonLines(
  reading: Reading,
  chunks: AsyncIterable<Uint8Array>,
): AsyncGenerator<ReadRecord | BadRecord> {
  // A byte order mark inside the file is a character like any other.
  const decoder = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true })
  const splitter = new LineSplitter(reading)
  for await (const chunk of withoutByteOrderMark(reading, chunks))
    for (const line of splitter.push(chunk)) {
      const result = parseLine(reading, decoder, line)
      if (result) yield result
    }
  for (const line of splitter.end()) {
    const result = parseLine(reading, decoder, line)
    if (result) yield result
  }
}

function parseLine(
  reading: Reading,
  decoder: TextDecoder,
  { bytes, line, ended }: Line,
): ReadRecord | BadRecord | undefined {
  if (!bytes)
    return {
      line,
      reason: `the line has more than the ${String(reading.limits.lineBytes)} bytes that limits.lineBytes allows`,
    }
  const problem = jsonCostProblem(bytes, reading.limits)
  if (problem !== undefined) return { line, reason: problem }
  let text: string
  try {
    text = decoder.decode(bytes)
  } catch {
    return { line, reason: 'the line is not valid UTF-8' }
  }
  if (text.trim() === '') return undefined
  let value: unknown
  try {
    // Keys become own properties, `__proto__` too: no prototype is touched.
    value = JSON.parse(text)
  } catch (error) {
    const cut = ended ? '' : '; it is the last line and has no end, so the file may be cut short'
    return {
      line,
      reason: `the line is not valid JSON (${excerpt(error instanceof Error ? error.message : '')})${cut}`,
    }
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return { line, reason: `the line must be a JSON object, not ${kindOf(value)}` }
  return { record: value as Record<string, unknown>, line }
}

function kindOf(value: unknown): string {
  if (value === null) return 'null'
  if (Array.isArray(value)) return 'an array'
  return `a ${typeof value}`
}
