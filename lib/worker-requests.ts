import { parentPort } from 'node:worker_threads'
import type { Transferable } from 'node:worker_threads'
import { isPolyloraError } from './errors.js'
import type { WorkerAnswer, WorkerRequest } from './isolated-worker.js'

/** An answer whose buffers are moved to the caller instead of copied. */
export class Transferred {
  readonly value: unknown
  readonly transfer: readonly Transferable[]

  constructor(value: unknown, transfer: readonly Transferable[]) {
    this.value = value
    this.transfer = transfer
  }
}

/** Handlers by method name. The parameters come from our own parent thread and are trusted. */
export type RequestHandlers = Readonly<Record<string, (params: never) => unknown>>

/**
 * The worker's side of {@link IsolatedWorker}: waits for `start`, says that it is ready, then
 * answers requests one after the other. If `start` fails, every request is answered with its error.
 */
export function answerRequests(start: () => Promise<RequestHandlers>): void {
  const port = parentPort
  if (!port) throw new Error('this module runs in a worker thread only')
  const started = start()
  started.then(
    () => {
      port.postMessage('ready')
    },
    () => {
      port.postMessage('ready')
    },
  )
  let previous: Promise<unknown> = started.catch(() => undefined)
  port.on('message', (request: WorkerRequest) => {
    previous = previous.then(async () => {
      try {
        const handlers = await started
        if (!Object.hasOwn(handlers, request.method))
          throw new Error(`unknown method ${request.method}`)
        const result = await handlers[request.method](request.params as never)
        const answer: WorkerAnswer = { id: request.id }
        if (result instanceof Transferred) {
          answer.value = result.value
          port.postMessage(answer, result.transfer)
        } else {
          answer.value = result
          port.postMessage(answer)
        }
      } catch (error) {
        port.postMessage({ id: request.id, error: describe(error) } satisfies WorkerAnswer)
      }
    })
  })
}

function describe(error: unknown): NonNullable<WorkerAnswer['error']> {
  if (isPolyloraError(error))
    return { code: error.code, message: error.message, details: plain(error.details) }
  if (error instanceof Error) return { message: error.message, stack: error.stack }
  return { message: String(error) }
}

// Details must survive structured cloning.
function plain(details: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return JSON.parse(JSON.stringify(details)) as Record<string, unknown>
}
