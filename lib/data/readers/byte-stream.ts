import { constants } from 'node:fs'
import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import type { Transform } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import * as zlib from 'node:zlib'
import { DataError, isPolyloraError } from '../../errors.js'
import type { Reading } from './reading.js'

export type Compression = 'none' | 'gzip' | 'zstd'

const chunkBytes = 2 ** 15
/** A ratio says nothing about a small file. */
const ratioFloorBytes = 2 ** 24

/** Opens a regular file; anything else (a folder, a pipe that nobody writes to) is refused first. */
export async function openFile(reading: Reading): Promise<{ file: FileHandle; size: number }> {
  let file: FileHandle | undefined
  try {
    // Opening a pipe for reading would wait for a writer; O_NONBLOCK changes nothing for files.
    file = await open(reading.path, constants.O_RDONLY | constants.O_NONBLOCK)
    const stats = await file.stat()
    if (!stats.isFile())
      throw unreadable(reading, stats.isDirectory() ? 'it is a folder' : 'it is not a regular file')
    return { file, size: stats.size }
  } catch (cause) {
    await file?.close()
    throw isPolyloraError(cause) ? cause : unreadable(reading, describe(cause), cause)
  }
}

/** The bytes of a file as they lie on disk, in chunks that are read one at a time. */
export async function* readFileBytes(reading: Reading): AsyncGenerator<Uint8Array> {
  reading.throwIfAborted()
  const { file, size } = await openFile(reading)
  try {
    if (size > reading.limits.fileBytes) throw tooLarge(reading)
    for (let position = 0; position < size;) {
      // A fresh buffer each time: chunks are kept by whoever consumes them.
      const buffer = Buffer.allocUnsafeSlow(Math.min(chunkBytes, size - position))
      const { bytesRead } = await file.read(buffer, 0, buffer.length, position)
      reading.throwIfAborted()
      if (bytesRead === 0)
        throw reading.error(
          `the file became shorter while it was read: ${String(position)} bytes, not ${String(size)}`,
        )
      position += bytesRead
      const chunk = buffer.subarray(0, bytesRead)
      reading.onBytes?.(chunk)
      yield chunk
    }
  } catch (cause) {
    throw isPolyloraError(cause) ? cause : unreadable(reading, describe(cause), cause)
  } finally {
    await file.close()
  }
}

/** The decompressed bytes of a file, within the limits on its size and ratio. */
export async function* readBytes(
  reading: Reading,
  compression: Compression,
): AsyncGenerator<Uint8Array> {
  const { fileBytes, compressionRatio } = reading.limits
  let bytesIn = 0
  let bytesOut = 0
  async function* counted(): AsyncGenerator<Uint8Array> {
    for await (const chunk of readFileBytes(reading)) {
      bytesIn += chunk.length
      yield chunk
    }
  }
  const chunks = compression === 'none' ? counted() : decompress(reading, compression, counted())
  for await (const chunk of chunks) {
    reading.throwIfAborted()
    bytesOut += chunk.length
    if (bytesOut > fileBytes) throw tooLarge(reading)
    if (bytesOut > ratioFloorBytes && bytesOut > bytesIn * compressionRatio)
      throw reading.error(
        `${String(bytesIn)} compressed bytes became ${String(bytesOut)}, beyond the ratio of ${String(compressionRatio)} that limits.compressionRatio allows`,
      )
    yield chunk
  }
}

async function* decompress(
  reading: Reading,
  compression: 'gzip' | 'zstd',
  source: AsyncGenerator<Uint8Array>,
): AsyncGenerator<Uint8Array> {
  const decompressor = createDecompressor(reading, compression)
  const finished = pipeline(source, decompressor)
  // Awaited below; a failure shows in the iteration first.
  finished.catch(() => undefined)
  try {
    for await (const chunk of decompressor) yield chunk as Uint8Array
  } catch (cause) {
    if (isPolyloraError(cause)) throw cause
    throw reading.error(
      `the ${compression} data is damaged or cut short (${describe(cause)})`,
      cause,
    )
  } finally {
    decompressor.destroy()
    await finished.catch(() => undefined)
  }
}

function createDecompressor(reading: Reading, compression: 'gzip' | 'zstd'): Transform {
  if (compression === 'gzip') return zlib.createGunzip({ chunkSize: chunkBytes })
  // Node has it since 22.15 and 23.8.
  if ('createZstdDecompress' in zlib)
    return (zlib.createZstdDecompress as (options: zlib.ZlibOptions) => Transform)({
      chunkSize: chunkBytes,
    })
  throw reading.error(
    `this Node.js (${process.version}) cannot read zstd, which needs 22.15 or newer; compress the file with gzip instead`,
  )
}

function tooLarge(reading: Reading): DataError {
  return reading.error(
    `the file has more than the ${String(reading.limits.fileBytes)} bytes that limits.fileBytes allows`,
  )
}

function unreadable(reading: Reading, reason: string, cause?: unknown): DataError {
  return new DataError(`${reading.path} cannot be read: ${reason}.`, {
    details: { file: reading.path, reason },
    ...(cause === undefined ? {} : { cause }),
  })
}

function describe(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause)
}
