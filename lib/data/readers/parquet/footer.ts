import { parquetMetadata, parquetSchema } from 'hyparquet'
import type { ColumnMetaData, FileMetaData, SchemaTree } from 'hyparquet/src/types.js'
import { getTreePath } from 'hyparquet/src/schema.js'
import type { ReaderLimits } from '../limits.js'
import { excerpt } from '../reading.js'
import type { FileBytes } from './file-bytes.js'
import { viewOf } from './file-bytes.js'
import { checkThriftStruct } from './thrift.js'
import { parsers } from './values.js'

/** One leaf column of one row group. */
export interface ColumnChunk {
  readonly metadata: ColumnMetaData
  /** From the root of the schema to the leaf. */
  readonly schemaPath: SchemaTree[]
  readonly start: number
  readonly end: number
}

export interface RowGroup {
  readonly numRows: number
  readonly chunks: readonly ColumnChunk[]
}

export interface Footer {
  /** The columns, each a leaf or a tree of them. */
  readonly columns: readonly SchemaTree[]
  readonly rowGroups: readonly RowGroup[]
}

const magic = 'PAR1'
const mostMetadataValues = 2 ** 21

/** Reads what a Parquet file says of itself, and checks it before anything is believed. */
export function readFooter(file: FileBytes, limits: ReaderLimits): Footer {
  if (file.size < 12) throw new Error('the file is too short for a Parquet file')
  const head = Buffer.from(file.read(0, 4)).toString('latin1')
  const tail = file.read(file.size - 8, 8)
  const foot = Buffer.from(tail.subarray(4)).toString('latin1')
  if (head === 'PARE' || foot === 'PARE') throw new Error('encrypted Parquet files are not read')
  if (head !== magic) throw new Error('the file is not a Parquet file: it does not begin with PAR1')
  if (foot !== magic)
    throw new Error('the file does not end with PAR1, so it may be cut short or damaged')
  const length = viewOf(tail).getUint32(0, true)
  if (length > limits.footerBytes)
    throw new Error(
      `the footer has ${String(length)} bytes, more than the ${String(limits.footerBytes)} that limits.footerBytes allows`,
    )
  if (length > file.size - 12)
    throw new Error(`the footer claims ${String(length)} bytes, more than the file has`)
  const bytes = file.read(file.size - 8 - length, length + 8)
  checkThriftStruct(viewOf(bytes.subarray(0, length)), 0, mostMetadataValues)
  const metadata = parquetMetadata(bytes, { parsers: parsers(limits), geoparquet: false })
  checkSchemaShape(metadata, limits)
  const schema = parquetSchema(metadata)
  checkNames(schema)
  if (schema.children.length === 0) throw new Error('the file has no columns')
  return {
    columns: schema.children,
    rowGroups: metadata.row_groups.map((group) => {
      const numRows = checkedNumber(group.num_rows, 'number of rows')
      const paths = new Set<string>()
      const chunks = group.columns.map((column): ColumnChunk => {
        if (column.file_path) throw new Error('columns in other files are not read')
        if (column.crypto_metadata) throw new Error('encrypted columns are not read')
        const chunk = columnChunk(schema, column.meta_data, file.size)
        paths.add(JSON.stringify(chunk.metadata.path_in_schema))
        return chunk
      })
      const numLeaves = countLeaves(schema)
      if (chunks.length !== numLeaves || paths.size !== numLeaves)
        throw new Error(
          `a row group has ${String(chunks.length)} columns where the schema has ${String(numLeaves)}`,
        )
      return { numRows, chunks }
    }),
  }
}

function columnChunk(
  schema: SchemaTree,
  metadata: ColumnMetaData | undefined,
  fileSize: number,
): ColumnChunk {
  if (!metadata) throw new Error('a column has no metadata')
  const schemaPath = getTreePath(schema, metadata.path_in_schema)
  const { element, children } = schemaPath.at(-1)!
  if (children.length > 0 || schemaPath.length < 2 || element.type !== metadata.type)
    throw new Error('the metadata of a column does not agree with the schema')
  const data = checkedNumber(metadata.data_page_offset, 'offset')
  // Some writers leave 0 where there is no dictionary.
  const dictionary = checkedNumber(metadata.dictionary_page_offset ?? 0, 'offset')
  const start = dictionary > 0 ? Math.min(dictionary, data) : data
  const end = start + checkedNumber(metadata.total_compressed_size, 'size')
  if (end > fileSize)
    throw new Error(
      `column ${JSON.stringify(excerpt(metadata.path_in_schema.join('.')))} ends at byte ${String(end)} of a file that has ${String(fileSize)}`,
    )
  checkedNumber(metadata.num_values, 'number of values')
  return { metadata, schemaPath, start, end }
}

/** Counts elements and levels before a tree is built from them by recursion. */
function checkSchemaShape({ schema }: FileMetaData, limits: ReaderLimits): void {
  if (schema.length > limits.recordKeys)
    throw new Error(
      `the schema has ${String(schema.length)} elements, more than the ${String(limits.recordKeys)} that limits.recordKeys allows`,
    )
  const childrenLeft: number[] = []
  schema.forEach(({ num_children: numChildren = 0, type_length: typeLength = 0 }, index) => {
    if (index > 0 && childrenLeft.length === 0) throw new Error('the schema has several roots')
    if (!(numChildren >= 0) || !(typeLength >= 0)) throw new Error('the schema has a size below 0')
    if (typeLength > limits.pageBytes)
      throw new Error(
        `the schema has values of ${String(typeLength)} bytes, more than the ${String(limits.pageBytes)} that limits.pageBytes allows`,
      )
    if (index > 0) --childrenLeft[childrenLeft.length - 1]
    childrenLeft.push(numChildren)
    if (childrenLeft.length > limits.recordDepth + 1)
      throw new Error(
        `the schema is nested deeper than the ${String(limits.recordDepth)} levels that limits.recordDepth allows`,
      )
    while (childrenLeft.at(-1) === 0) childrenLeft.pop()
  })
  if (schema.length === 0 || childrenLeft.length > 0) throw new Error('the schema is cut short')
}

function checkNames(node: SchemaTree): void {
  const names = new Set<string>()
  for (const child of node.children) {
    const { name } = child.element
    if (typeof name !== 'string') throw new Error('a column has no name')
    if (names.has(name))
      throw new Error(`two columns are named ${JSON.stringify(excerpt(child.path.join('.')))}`)
    names.add(name)
    checkNames(child)
  }
}

function countLeaves({ children }: SchemaTree): number {
  return children.length === 0 ? 1 : children.reduce((sum, child) => sum + countLeaves(child), 0)
}

function checkedNumber(value: unknown, name: string): number {
  const number = typeof value === 'bigint' ? Number(value) : value
  if (typeof number !== 'number' || !Number.isSafeInteger(number) || number < 0)
    throw new Error(`the metadata has a ${name} that is not a whole number from 0`)
  return number
}
