import { writeFileSync } from 'node:fs'
import { readRecords } from '../../lib/data/readers/index.js'
import type { BadRecord, ReadOptions, ReadRecord } from '../../lib/data/readers/index.js'

/** Everything that a file yields, in order. */
export async function readAll(
  path: string,
  options?: ReadOptions,
): Promise<(ReadRecord | BadRecord)[]> {
  const results: (ReadRecord | BadRecord)[] = []
  for await (const result of readRecords(path, options)) results.push(result)
  return results
}

/** Writes a file and reads it. */
export function readBack(
  path: string,
  content: string | Uint8Array,
  options?: ReadOptions,
): Promise<(ReadRecord | BadRecord)[]> {
  writeFileSync(path, content)
  return readAll(path, options)
}

/** Line and reason of each bad record; the others must be good. */
export function badLines(results: readonly (ReadRecord | BadRecord)[]): [number, string][] {
  return results.flatMap((result) =>
    'reason' in result ? [[result.line, result.reason] as [number, string]] : [],
  )
}

export function records(results: readonly (ReadRecord | BadRecord)[]): unknown[] {
  return results.flatMap((result) => ('record' in result ? [result.record] : []))
}
