import { assembleNested } from 'hyparquet/src/assemble.js'
import type { DecodedArray, SchemaTree } from 'hyparquet/src/types.js'
import type { ReaderLimits } from '../limits.js'
import { excerpt } from '../reading.js'
import type { BadRecord, ReadRecord } from '../reading.js'
import { ColumnReader } from './column.js'
import type { FileBytes } from './file-bytes.js'
import { readFooter } from './footer.js'
import type { RowGroup } from './footer.js'
import { UnusableRow, parsers, plainValue } from './values.js'

/** Rows put together at once: enough to spread the cost of a call, few enough to stay small. */
const rowsAtOnce = 256

/** A row as plain data, and about how much there is of it. */
export interface Row {
  readonly result: ReadRecord | BadRecord
  readonly size: number
}

/** The rows of a Parquet file in order. Throws an Error that says what is wrong with the file. */
export function* readRowsOfFile(file: FileBytes, limits: ReaderLimits): Generator<Row> {
  const footer = readFooter(file, limits)
  const decompressed = { count: 0 }
  let line = 1
  for (const group of footer.rowGroups) {
    const readers = group.chunks.map((chunk) => new ColumnReader(file, chunk, limits, decompressed))
    for (let left = group.numRows; left > 0;) {
      const count = rowsAvailable(readers, group, left)
      const columns = footer.columns.map((column) => ({
        name: column.element.name,
        values: takeColumn(column, readers, count, limits),
      }))
      for (let row = 0; row < count; ++row) yield plainRow(columns, row, line++, limits)
      left -= count
    }
  }
}

function rowsAvailable(readers: readonly ColumnReader[], group: RowGroup, left: number): number {
  let count = Math.min(rowsAtOnce, left)
  for (const reader of readers) {
    const available = reader.available()
    if (available === 0)
      throw new Error(
        `column ${JSON.stringify(excerpt(reader.name))} has ${String(left)} rows fewer than its row group, which claims ${String(group.numRows)}`,
      )
    count = Math.min(count, available)
  }
  return count
}

function takeColumn(
  column: SchemaTree,
  readers: readonly ColumnReader[],
  count: number,
  limits: ReaderLimits,
): DecodedArray {
  const leaves = readers.filter(({ path }) => path[0] === column.element.name)
  if (column.children.length === 0) return leaves[0].take(count)
  const values = new Map<string, DecodedArray>()
  for (const leaf of leaves) values.set(leaf.name, leaf.take(count))
  assembleNested(values, column, parsers(limits))
  const assembled = values.get(column.element.name)
  if (assembled?.length !== count)
    throw new Error(`column ${JSON.stringify(excerpt(column.element.name))} cannot be put together`)
  return assembled
}

function plainRow(
  columns: readonly { name: string; values: DecodedArray }[],
  row: number,
  line: number,
  { recordValues, lineBytes }: ReaderLimits,
): Row {
  const left = { values: recordValues, characters: lineBytes }
  let name = ''
  try {
    const entries = columns.map((column) => {
      name = column.name
      return [name, plainValue(column.values[row], left)] as const
    })
    const size = recordValues - left.values + lineBytes - left.characters
    return { result: { record: Object.fromEntries(entries), line }, size }
  } catch (error) {
    if (!(error instanceof UnusableRow)) throw error
    return {
      result: { line, reason: `column ${JSON.stringify(excerpt(name))} ${error.message}` },
      size: 100,
    }
  }
}
