import { workerData } from 'node:worker_threads'
import { DataError } from '../../../errors.js'
import { answerRequests } from '../../../worker-requests.js'
import type { RequestHandlers } from '../../../worker-requests.js'
import { openFile } from '../byte-stream.js'
import type { ReaderLimits } from '../limits.js'
import { Reading } from '../reading.js'
import type { BadRecord, ReadRecord } from '../reading.js'
import { reasonOf } from './damage.js'
import { FileBytes } from './file-bytes.js'
import { readRowsOfFile } from './rows.js'

export interface ParquetWorkerData {
  path: string
  limits: ReaderLimits
}

/** Rows in order. */
export interface RowBatch {
  results: (ReadRecord | BadRecord)[]
  done: boolean
}

// What the other thread takes over at once, in characters and values: a millisecond or so.
const batchSize = 2 ** 16

answerRequests(async () => {
  const { path, limits } = workerData as ParquetWorkerData
  const { file, size } = await openFile(new Reading(path, { limits }))
  // The file is closed with the worker.
  const rows = readRowsOfFile(new FileBytes(file, size), limits)
  let line = 1
  let failure: Error | undefined

  return {
    next(): RowBatch {
      const results: RowBatch['results'] = []
      let size = 0
      try {
        if (failure) throw failure
        while (size < batchSize) {
          const { value, done } = rows.next()
          if (done) return { results, done }
          results.push(value.result)
          size += value.size + 16
          line = value.result.line + 1
        }
      } catch (cause) {
        // The rows before it are good: they go first.
        failure = new Error(reasonOf(cause))
        if (results.length === 0) throw new DataError(failure.message, { details: { line } })
      }
      return { results, done: false }
    },
  } satisfies RequestHandlers
})
