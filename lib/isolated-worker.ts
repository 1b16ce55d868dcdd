import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import type { ResourceLimits, Transferable } from 'node:worker_threads'
import type { buildSync } from 'esbuild'
import {
  AbortedError,
  ArgumentError,
  DisposedError,
  FormatError,
  errorFromCode,
  isPolyloraError,
} from './errors.js'

/** What a request sends and an answer brings back; see `worker-requests.ts` for the other side. */
export interface WorkerRequest {
  id: number
  method: string
  params: unknown
}

export interface WorkerAnswer {
  id: number
  value?: unknown
  error?: { code?: string; message: string; details?: Record<string, unknown>; stack?: string }
}

export interface IsolatedWorkerOptions {
  /** Module beside the caller, without extension: `new URL('./x-worker', import.meta.url)`. */
  module: URL
  /** Structured-cloned to the worker when it starts, and again when it is restarted. */
  workerData: unknown
  /** V8 heap of the worker, in MiB. Reaching it ends the worker, not the process. */
  heapLimitMb: number
  /**
   * Milliseconds that one request may take, counted from when the worker can begin with it. It passes when the process has
   * had as much of the processor too, so that no file fails because the machine is busy; at the latest after 20 times it.
   */
  deadlineMs: number
  /** Milliseconds that the worker may take to start and read what it needs. */
  startDeadlineMs?: number
  /** Subject of error messages: "the chat template of models/x". */
  subject: string
}

interface PendingRequest {
  request: WorkerRequest
  transfer: readonly Transferable[]
  resolve: (value: unknown) => void
  reject: (error: Error) => void
  settled: boolean
}

/** Times a deadline by the clock, while the process has not had that much of the processor. */
const mostPatience = 20
const leastWaitMs = 5

/** That the whole process had. */
function processorMs(): number {
  const { user, system } = process.cpuUsage()
  return (user + system) / 1000
}

/**
 * A worker thread that runs code steered by untrusted files, with a limit on memory and on time.
 *
 * Requests are answered one after the other. One that passes its deadline, or ends the worker by
 * using up its memory, rejects with a {@link FormatError}; the requests behind it are sent again
 * to a fresh worker, which starts on the next request. The thread starts with the first request
 * and keeps the process alive only while a request is pending.
 */
export class IsolatedWorker {
  readonly #options: IsolatedWorkerOptions
  #worker: Worker | undefined
  #ready = false
  #nextId = 1
  #pending: PendingRequest[] = []
  #timer: NodeJS.Timeout | undefined
  #disposed = false

  constructor(options: IsolatedWorkerOptions) {
    this.#options = options
  }

  get disposed(): boolean {
    return this.#disposed
  }

  /** Sends one request; objects in `transfer` are moved, not copied. */
  request<T>(
    method: string,
    params: unknown,
    options: { signal?: AbortSignal; transfer?: readonly Transferable[] } = {},
  ): Promise<T> {
    const { signal, transfer = [] } = options
    if (this.#disposed)
      return Promise.reject(new DisposedError(`${this.#options.subject} was used after dispose().`))
    if (signal?.aborted) return Promise.reject(abortedError(this.#options.subject, signal))
    return new Promise<T>((resolve, reject) => {
      const pending: PendingRequest = {
        request: { id: this.#nextId++, method, params },
        transfer,
        resolve: resolve as (value: unknown) => void,
        reject,
        settled: false,
      }
      if (signal) {
        // The worker may be deep in this very request, and answers to nobody then: the caller is
        // released at once, the answer is dropped when it comes, the deadline still holds.
        const onAbort = (): void => {
          settle(pending, () => {
            reject(abortedError(this.#options.subject, signal))
          })
        }
        signal.addEventListener('abort', onAbort, { once: true })
        const { resolve: accept, reject: refuse } = pending
        pending.resolve = (value) => {
          signal.removeEventListener('abort', onAbort)
          accept(value)
        }
        pending.reject = (error) => {
          signal.removeEventListener('abort', onAbort)
          refuse(error)
        }
      }
      try {
        this.#start()
        this.#worker!.postMessage(pending.request, pending.transfer)
      } catch (cause) {
        const error = isPolyloraError(cause)
          ? cause
          : new ArgumentError(
              `${this.#options.subject}: a value could not be sent to its worker.`,
              {
                cause,
              },
            )
        pending.reject(error)
        return
      }
      this.#pending.push(pending)
      if (this.#pending.length === 1) {
        this.#worker!.ref()
        if (this.#ready) this.#armTimer()
      }
    })
  }

  /** Ends the thread; pending requests reject with a DisposedError. Idempotent. */
  async dispose(): Promise<void> {
    if (this.#disposed) return
    this.#disposed = true
    const worker = this.#worker
    this.#detach()
    const error = new DisposedError(`${this.#options.subject} was disposed during a request.`)
    for (const pending of this.#pending.splice(0)) settle(pending, () => pending.reject(error))
    await worker?.terminate()
  }

  #start(): void {
    if (this.#worker) return
    const { module, workerData, heapLimitMb } = this.#options
    const worker = startWorker(module, {
      workerData,
      resourceLimits: { maxOldGenerationSizeMb: heapLimitMb, stackSizeMb: 4 },
    })
    this.#worker = worker
    this.#ready = false
    this.#armTimer()
    worker.on('message', (answer: WorkerAnswer | 'ready') => {
      if (worker !== this.#worker) return
      if (answer === 'ready') {
        this.#ready = true
        this.#armTimer()
      } else this.#answered(answer)
    })
    worker.on('messageerror', (cause: Error) => {
      if (worker === this.#worker) this.#failed('sent an answer that cannot be read', cause)
    })
    worker.on('error', (cause: Error & { code?: string }) => {
      if (worker !== this.#worker) return
      this.#failed(
        cause.code === 'ERR_WORKER_OUT_OF_MEMORY'
          ? `used more than the ${String(heapLimitMb)} MiB of memory it is allowed`
          : `failed: ${cause.message}`,
        cause,
      )
    })
    worker.on('exit', (exitCode) => {
      if (worker === this.#worker) this.#failed(`ended its worker (code ${String(exitCode)})`)
    })
    // After the listeners: a 'message' listener refs the port again.
    worker.unref()
    if (this.#pending.length > 0) worker.ref()
  }

  #answered(answer: WorkerAnswer): void {
    const index = this.#pending.findIndex((pending) => pending.request.id === answer.id)
    if (index < 0) return
    const [pending] = this.#pending.splice(index, 1)
    this.#armTimer()
    if (this.#pending.length === 0) this.#worker?.unref()
    const { error } = answer
    settle(pending, () => {
      if (error) pending.reject(revive(error, this.#options.subject))
      else pending.resolve(answer.value)
    })
  }

  /** The worker is lost: the request it was at (or its start) is what failed. */
  #failed(reason: string, cause?: Error): void {
    const worker = this.#worker
    const startFailed = !this.#ready
    this.#detach()
    void worker?.terminate()
    const error = (): FormatError =>
      new FormatError(`${this.#options.subject} ${reason}.`, {
        cause,
        details: { deadlineMs: this.#options.deadlineMs, heapLimitMb: this.#options.heapLimitMb },
      })
    const failed = this.#pending.splice(0, startFailed ? this.#pending.length : 1)
    for (const pending of failed) settle(pending, () => pending.reject(error()))
    // What was transferred is gone, so such a request cannot be sent again.
    const waiting = this.#pending.splice(0)
    for (const pending of waiting) {
      if (pending.settled) continue
      if (pending.transfer.length > 0) settle(pending, () => pending.reject(error()))
      else this.#pending.push(pending)
    }
    if (this.#pending.length === 0) return
    this.#start()
    for (const pending of this.#pending) this.#worker!.postMessage(pending.request)
  }

  #armTimer(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    if (this.#ready && this.#pending.length === 0) return
    const { deadlineMs, startDeadlineMs = 60_000 } = this.#options
    const limit = this.#ready ? deadlineMs : startDeadlineMs
    const begun = { clock: performance.now(), processor: processorMs() }
    const wait = (milliseconds: number): void => {
      const timer = setTimeout(() => {
        // If this thread itself was held up, the answer may be waiting: timers run before messages.
        setImmediate(() => {
          if (this.#timer !== timer) return
          // On a busy machine the worker may not have had its turn: that says nothing against the file.
          const missing = limit - (processorMs() - begun.processor)
          const late = performance.now() - begun.clock - mostPatience * limit
          if (missing > 0 && late < 0) wait(Math.min(Math.max(missing, leastWaitMs), -late))
          else
            this.#failed(
              this.#ready
                ? `took longer than the ${String(limit)} ms it is allowed`
                : `did not start within ${String(limit)} ms`,
            )
        })
      }, milliseconds)
      this.#timer = timer
      if (this.#pending.length === 0) timer.unref()
    }
    wait(limit)
  }

  #detach(): void {
    clearTimeout(this.#timer)
    this.#timer = undefined
    this.#worker = undefined
    this.#ready = false
  }
}

/** Starts `module` (a URL without extension): the compiled `.js`, or under a TypeScript loader what the source compiles to. */
function startWorker(
  module: URL,
  options: { workerData: unknown; resourceLimits: ResourceLimits },
): Worker {
  const isSource = import.meta.url.endsWith('.ts')
  const file = isSource ? compiled(module) : new URL(`${module.href}.js`)
  // execArgv and env are the worker's own: the process's flags may not be valid for a thread.
  return new Worker(file, { ...options, execArgv: [] })
}

const compiledModules = new Map<string, URL>()

/**
 * The module and what it imports of ours as one file, made once a process. A worker does not inherit loader hooks, and to
 * register them in each would cost it four times what the rest of its start does.
 */
function compiled(module: URL): URL {
  const known = compiledModules.get(module.href)
  if (known) return known
  const require = createRequire(import.meta.url)
  const esbuild = require('esbuild') as { buildSync: typeof buildSync }
  const [{ contents }] = esbuild.buildSync({
    entryPoints: [fileURLToPath(`${module.href}.ts`)],
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    sourcemap: 'inline',
    write: false,
  }).outputFiles
  // Within the clone, where the packages that it imports are found.
  const folder = new URL('../build/workers/', import.meta.url)
  mkdirSync(folder, { recursive: true })
  const name = module.pathname.slice(new URL('.', import.meta.url).pathname.length)
  const file = new URL(`${name.replaceAll('/', '-')}.mjs`, folder)
  const whole = new URL(`${file.href}.${String(process.pid)}`)
  writeFileSync(whole, contents)
  renameSync(whole, file)
  compiledModules.set(module.href, file)
  return file
}

function settle(pending: PendingRequest, how: () => void): void {
  if (pending.settled) return
  pending.settled = true
  how()
}

function revive(error: NonNullable<WorkerAnswer['error']>, subject: string): Error {
  const typed =
    error.code === undefined
      ? undefined
      : errorFromCode(error.code, error.message, { details: error.details })
  if (typed) return typed
  const cause = new Error(error.message)
  if (error.stack !== undefined) cause.stack = error.stack
  return new FormatError(`${subject} failed: ${error.message}`, { cause })
}

function abortedError(subject: string, signal: AbortSignal): AbortedError {
  return new AbortedError(`${subject}: the request was aborted.`, { cause: signal.reason })
}
