import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import { FormatError } from './errors.js'

/**
 * The JSON document in a file that may come from anyone.
 *
 * @param cap most bytes that are read
 * @throws FormatError naming the file: missing, not a regular file, too large, not UTF-8, not JSON
 */
export async function readJsonFile(path: string, cap: number): Promise<unknown> {
  const bytes = await readBytes(path, cap)
  let text: string
  try {
    text = new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch (cause) {
    throw failure(path, 'is not valid UTF-8', cause)
  }
  try {
    return JSON.parse(text) as unknown
  } catch (cause) {
    throw failure(path, `is not JSON: ${(cause as Error).message}`, cause)
  }
}

async function readBytes(path: string, cap: number): Promise<Uint8Array> {
  try {
    // Opening a named pipe would wait for its writer.
    const file = await open(path, constants.O_RDONLY | constants.O_NONBLOCK)
    try {
      const info = await file.stat()
      if (!info.isFile()) throw failure(path, 'is not a file')
      if (info.size > cap)
        throw failure(path, `has ${info.size} bytes; at most ${cap} are allowed for this file`)
      const bytes = Buffer.alloc(info.size)
      let length = 0
      while (length < bytes.length) {
        const { bytesRead } = await file.read(bytes, length, bytes.length - length, length)
        if (bytesRead === 0) break
        length += bytesRead
      }
      return bytes.subarray(0, length)
    } finally {
      await file.close()
    }
  } catch (cause) {
    if (cause instanceof FormatError) throw cause
    throw failure(path, `cannot be read: ${(cause as Error).message}`, cause)
  }
}

function failure(path: string, problem: string, cause?: unknown): FormatError {
  return new FormatError(`${path} ${problem}`, { cause, details: { file: path } })
}
