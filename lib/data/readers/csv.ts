import { isUtf8 } from 'node:buffer'
import { Parser } from 'csv-parse'
import { LineSplitter, withoutByteOrderMark } from './lines.js'
import type { Line } from './lines.js'
import { excerpt } from './reading.js'
import type { BadRecord, ReadRecord, Reading } from './reading.js'

type Result = ReadRecord | BadRecord

const lineFeed = Buffer.from('\n')
const lookAhead = Buffer.from('\n\n\n')
/** The parser takes 50 ns for a byte, several times that before it is compiled. */
const sliceBytes = 2 ** 14

/**
 * The records of CSV or TSV as RFC 4180 has it: a header, quoted fields that may span lines, values
 * that are strings. Blank lines between records are skipped; CRLF within a field becomes a line
 * feed. After a misplaced quote, or a record that is too long, reading goes on with the next line.
 *
 * @throws DataError if the header cannot be used.
 */
export async function* readCsv(
  reading: Reading,
  chunks: AsyncIterable<Uint8Array>,
  delimiter: ',' | '\t',
): AsyncGenerator<Result> {
  const splitter = new LineSplitter(reading)
  const records = new RecordParser(reading, delimiter)
  function* steps(lines: Iterable<Line>): Generator<Result | undefined> {
    for (const line of lines) yield* records.push(line)
  }
  for await (const chunk of withoutByteOrderMark(reading, chunks))
    for (const result of steps(splitter.push(chunk))) {
      if (result) yield result
      if (reading.turnDue) await reading.turn()
    }
  for (const result of steps(splitter.end())) {
    if (result) yield result
    if (reading.turnDue) await reading.turn()
  }
  yield* records.flush()
}

/**
 * Feeds the parser line by line, so that the line of every record is known and a bad one ends early.
 *
 * The parser looks a byte ahead (two within quotes): it deals with the end of a line when it sees
 * the next one. So what it emits while it is given a line is the record that ended before that line,
 * and an error it finds belongs to that line.
 */
class RecordParser {
  readonly #reading: Reading
  readonly #delimiter: string
  #parser: Parser | undefined
  #columns: readonly string[] | undefined
  #emitted: readonly string[] | undefined
  /** Bytes given to the parser, and those up to the end of the record that was emitted last. */
  #given = 0
  #emittedEnd = 0
  #failure: string | undefined
  /** Of the record that the parser is in: first line, bytes so far, whether they are UTF-8. */
  #line = 1
  #bytes = 0
  #isUtf8 = true

  constructor(reading: Reading, delimiter: string) {
    this.#reading = reading
    this.#delimiter = delimiter
  }

  /** Takes one line, in steps of bounded time that may each give a result. */
  *push({ bytes, line }: Line): Generator<Result | undefined> {
    if (!bytes) {
      yield* this.#endRecord()
      if (this.#bytes === 0) this.#line = line
      yield this.#refuse(this.#tooLong())
      return
    }
    for (let start = 0; start === 0 || start < bytes.length; start += sliceBytes) {
      const slice = bytes.subarray(start, start + sliceBytes)
      const isLast = start + sliceBytes >= bytes.length
      const wasBetween = this.#write(isLast ? Buffer.concat([slice, lineFeed]) : slice)
      yield this.#take()
      if (start === 0) {
        if (wasBetween) this.#begin(line)
        this.#bytes += bytes.length + 1
        this.#isUtf8 &&= isUtf8(bytes)
      }
      const tooLong = this.#bytes > this.#reading.limits.lineBytes + 1
      const problem = this.#failure ?? (tooLong ? this.#tooLong() : undefined)
      if (problem === undefined) continue
      yield this.#refuse(problem)
      return
    }
  }

  /** What the end of the file leaves: the last record, or one whose quote was never closed. */
  *flush(): Generator<Result> {
    yield* this.#endRecord()
    if (this.#bytes > 0) yield this.#refuse('the quote of a field is never closed')
  }

  /** Makes the parser deal with all it was given; leaves #bytes above 0 if that is half a record. */
  *#endRecord(): Generator<Result> {
    if (this.#bytes === 0 || !this.#write(lookAhead)) return
    const result = this.#take()
    if (result) yield result
    this.#begin(this.#line)
  }

  /** Whether the parser came to the end of a record or blank line, so that `bytes` begin another. */
  #write(bytes: Uint8Array): boolean {
    this.#parser ??= this.#createParser()
    const emptyLines = this.#parser.info.empty_lines
    this.#parser.write(bytes)
    if (this.#parser.writableLength > 0 || (this.#emitted && this.#emittedEnd !== this.#given))
      throw new Error('csv-parse does not look ahead as it used to')
    this.#given += bytes.length
    return (
      this.#bytes === 0 || this.#emitted !== undefined || this.#parser.info.empty_lines > emptyLines
    )
  }

  #begin(line: number): void {
    this.#line = line
    this.#bytes = 0
    this.#isUtf8 = true
  }

  /** The record that was emitted last, if one was. */
  #take(): Result | undefined {
    const fields = this.#emitted
    if (!fields) return undefined
    this.#emitted = undefined
    const line = this.#line
    if (!this.#isUtf8) return this.#bad('the record is not valid UTF-8')
    if (!this.#columns) {
      this.#columns = this.#checkHeader(fields.map(decode))
      return undefined
    }
    const columns = this.#columns
    if (fields.length !== columns.length)
      return this.#bad(
        `the record has ${count(fields.length, 'value')}, the header ${count(columns.length, 'column')}`,
      )
    // Defines properties, `__proto__` too: no prototype is touched.
    return { record: Object.fromEntries(columns.map((name, i) => [name, decode(fields[i])])), line }
  }

  /** Gives the record up, and the parser with it: the next line begins anew. */
  #refuse(reason: string): BadRecord {
    const bad = this.#bad(reason)
    this.#parser = undefined
    this.#given = 0
    this.#failure = undefined
    this.#begin(this.#line)
    return bad
  }

  #bad(reason: string): BadRecord {
    if (!this.#columns) throw this.#headerError(reason)
    return { line: this.#line, reason }
  }

  #tooLong(): string {
    return `the record has more than the ${String(this.#reading.limits.lineBytes)} bytes that limits.lineBytes allows, or a quote is never closed`
  }

  #checkHeader(columns: readonly string[]): readonly string[] {
    const { recordKeys } = this.#reading.limits
    if (columns.length > recordKeys)
      throw this.#headerError(
        `${String(columns.length)} columns are more than the ${String(recordKeys)} that limits.recordKeys allows`,
      )
    const names = new Set<string>()
    for (const name of columns) {
      if (names.has(name))
        throw this.#headerError(`two columns are named ${JSON.stringify(excerpt(name))}`)
      names.add(name)
    }
    return columns
  }

  #headerError(reason: string): Error {
    this.#reading.line = this.#line
    return this.#reading.error(`the header cannot be used: ${reason}`)
  }

  #createParser(): Parser {
    return new Parser({
      // One character a byte: in UTF-8 the parser would look ahead as far as the longest character.
      encoding: 'latin1',
      delimiter: this.#delimiter,
      record_delimiter: ['\n'],
      relax_column_count: true,
      skip_empty_lines: true,
      skip_records_with_error: true,
      on_record: (fields: string[], { bytes }) => {
        this.#emitted = fields
        this.#emittedEnd = bytes
        return null
      },
      on_skip: (error) => {
        this.#failure ??=
          error?.code === 'CSV_INVALID_CLOSING_QUOTE'
            ? 'a quoted field goes on after its closing quote'
            : 'a quote stands within a field that does not begin with one'
        return undefined
      },
    })
  }
}

function decode(field: string): string {
  return /[\x80-\xff]/.test(field) ? Buffer.from(field, 'latin1').toString() : field
}

function count(n: number, noun: string): string {
  return `${String(n)} ${noun}${n === 1 ? '' : 's'}`
}
