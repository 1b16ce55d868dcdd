import type { FileSystem } from './file-system.js'

const newline = 0x0a

/** The lines of a file that end in a line feed, and where each ends in the file: a torn last one is left out. @throws Error for a longer line */
export async function* completeLines(
  fileSystem: FileSystem,
  path: string,
  longestLine: number,
): AsyncGenerator<{ line: string; end: number }> {
  let rest = Buffer.alloc(0)
  let end = 0
  for await (const chunk of fileSystem.readChunks(path)) {
    const bytes = Buffer.concat([rest, chunk])
    let begin = 0
    for (let i = bytes.indexOf(newline); i >= 0; i = bytes.indexOf(newline, begin)) {
      end += i + 1 - begin
      yield { line: bytes.toString('utf8', begin, i), end }
      begin = i + 1
    }
    rest = bytes.subarray(begin)
    if (rest.length > longestLine)
      throw new Error(`a line has more than ${longestLine} bytes, so it is no file of records`)
  }
}
