import { isPolyloraError } from '../../../errors.js'
import { IsolatedWorker } from '../../../isolated-worker.js'
import { readFileBytes } from '../byte-stream.js'
import { excerpt } from '../reading.js'
import type { BadRecord, ReadRecord, Reading } from '../reading.js'
import type { ParquetWorkerData, RowBatch } from './worker.js'

/** V8 heap of the worker. A page of the largest size allowed takes several times its bytes. */
const heapLimitMb = 1024
/** So that neither thread waits for the other; a batch is about 64 KiB. */
const batchesAhead = 4

/**
 * The rows of a Parquet file, which is read and decompressed in a worker thread of its own, a page
 * of each column at a time.
 */
export async function* readParquet(reading: Reading): AsyncGenerator<ReadRecord | BadRecord> {
  if (reading.onBytes) {
    const bytes = readFileBytes(reading)
    while (!(await bytes.next()).done);
  }
  const { path, limits, signal } = reading
  const worker = new IsolatedWorker({
    module: new URL('./worker', import.meta.url),
    workerData: { path, limits } satisfies ParquetWorkerData,
    heapLimitMb,
    deadlineMs: limits.batchMilliseconds,
    subject: 'reading the Parquet file',
  })
  const pending: Promise<RowBatch>[] = []
  try {
    for (;;) {
      while (pending.length < batchesAhead) {
        const batch = worker.request<RowBatch>('next', undefined, { signal })
        // It is awaited after those before it have been consumed, or not at all.
        batch.catch(() => undefined)
        pending.push(batch)
      }
      const { results, done } = await pending.shift()!
      for (const result of results) {
        reading.line = result.line + 1
        yield result
      }
      if (done) return
    }
  } catch (error) {
    reading.throwIfAborted()
    throw readingError(reading, error)
  } finally {
    await worker.dispose()
  }
}

/** The worker's error, with the file and the row where it happened. */
function readingError(reading: Reading, error: unknown): unknown {
  if (!isPolyloraError(error) || 'file' in error.details) return error
  const { line } = error.details
  if (typeof line === 'number') reading.line = line
  return reading.error(excerpt(error.message.replace(/\.$/, ''), 400), error)
}
