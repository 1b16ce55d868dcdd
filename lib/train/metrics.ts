import { completeLines } from '../complete-lines.js'
import { CheckpointError } from '../errors.js'
import { type AppendFile, type FileSystem, nodeFileSystem, whatToDo } from '../file-system.js'
import type { RoutingReport } from './routing.js'
import type { StepReport } from './step-report.js'

/** One optimiser step, as a line of metrics.jsonl. What is not finite is written as null. */
export interface StepMetrics {
  readonly step: number
  /** Only of adapters side by side: whose line this is. */
  readonly adapter?: string
  /** Mean over the step's trained tokens, in nats. */
  readonly loss: number | null
  /** Global norm before clipping. */
  readonly gradNorm: number | null
  readonly learningRate: number
  /** Trained on so far in the run, prompts included. */
  readonly tokens: number
  readonly tokensPerSecond: number
  readonly lossByDiscipline: Readonly<Record<string, number | null>>
  /** Passes over each discipline's unique samples so far; only with `data.mixing`. */
  readonly epochs?: Readonly<Record<string, number>>
  /** Only where there are routers. */
  readonly routing?: RoutingMetrics
  /** Present and true if nothing was updated, because the loss or a gradient was not finite. */
  readonly skipped?: true
}

/** What the routers of a mixture did in a step, all of them together. */
export interface RoutingMetrics {
  /** Mean gate of each expert. */
  readonly load: readonly (number | null)[]
  /** Of the gates, over log E: 0 where every row has one expert, 1 where all gates are equal. */
  readonly entropy: number | null
  /** Experts whose mean gate is below 0.1 / E, of all routers. */
  readonly deadExperts: number
  /** Mean gate of each expert for the rows of a discipline. */
  readonly byDiscipline: Readonly<Record<string, readonly (number | null)[]>>
  /** Without their coefficients. */
  readonly losses: Readonly<Record<string, number | null>>
}

/** An evaluation made after a step, as a line of metrics.jsonl. */
export interface EvaluationMetrics {
  readonly step: number
  readonly adapter?: string
  readonly evaluation: {
    readonly loss: number | null
    readonly lossByDiscipline: Readonly<Record<string, number | null>>
  }
}

export type Metrics = StepMetrics | EvaluationMetrics

/** @param totalTokens and the speed: of the run, which a report does not know */
export function stepMetrics(
  report: StepReport,
  totalTokens: number,
  tokensPerSecond: number,
  adapter?: string,
): StepMetrics {
  return {
    step: report.step,
    ...(adapter === undefined ? {} : { adapter }),
    loss: finiteOrNull(report.loss),
    gradNorm: finiteOrNull(report.gradNorm),
    learningRate: report.learningRate,
    tokens: totalTokens,
    tokensPerSecond,
    lossByDiscipline: figuresByName(report.lossByDiscipline),
    ...(report.routing ? { routing: routingMetrics(report.routing) } : {}),
    ...(report.applied ? {} : { skipped: true as const }),
  }
}

/** Of all routers together: the rest would be many times the other figures. */
function routingMetrics(report: RoutingReport): RoutingMetrics {
  const { load, entropy, deadExperts, byDiscipline, losses } = report
  const figures = (values: readonly number[]) => values.map(finiteOrNull)
  return {
    load: figures(load),
    entropy: finiteOrNull(entropy),
    deadExperts,
    byDiscipline: Object.fromEntries(
      Object.entries(byDiscipline).map(([name, gates]) => [name, figures(gates)]),
    ),
    losses: figuresByName(losses),
  }
}

function figuresByName(figures: Readonly<Record<string, number>>): Record<string, number | null> {
  return Object.fromEntries(
    Object.entries(figures).map(([name, figure]) => [name, finiteOrNull(figure)]),
  )
}

export function finiteOrNull(value: number): number | null {
  return Number.isFinite(value) ? value : null
}

// A line is a few hundred bytes; what has none for this long is no metrics file.
const longestLine = 1 << 20

/** metrics.jsonl of a run: lines are only ever added at the end, except that a resumed run forgets what it redoes. */
export class MetricsFile {
  readonly path: string
  readonly #file: AppendFile
  #size: number
  #last: Promise<void> = Promise.resolve()

  private constructor(path: string, file: AppendFile, size: number) {
    this.path = path
    this.#file = file
    this.#size = size
  }

  /**
   * Opens or creates the file and cuts it back to `step`: lines of later steps go, and so does a torn last line.
   *
   * @throws CheckpointError
   */
  static async open(
    path: string,
    step: number,
    fileSystem: FileSystem = nodeFileSystem,
  ): Promise<MetricsFile> {
    let file: AppendFile | null = null
    try {
      const info = await fileSystem.inspect(path)
      const size = info === null ? 0 : await sizeUpTo(fileSystem, path, step)
      file = await fileSystem.openAppend(path)
      if (info !== null && info.size !== size) {
        await file.truncate(size)
        await file.sync()
      }
      return new MetricsFile(path, file, size)
    } catch (cause) {
      await file?.close().catch(() => undefined)
      throw failure(path, 'opened', cause)
    }
  }

  /** Adds one line; lines appear in the order of the calls. @throws CheckpointError; a partial line is taken back */
  append(metrics: Metrics): Promise<void> {
    const bytes = Buffer.from(`${JSON.stringify(metrics)}\n`)
    const appended = this.#last.then(async () => {
      try {
        await this.#file.append(bytes)
        this.#size += bytes.length
      } catch (cause) {
        await this.#file.truncate(this.#size).catch(() => undefined)
        throw failure(this.path, 'written', cause)
      }
    })
    this.#last = appended.catch(() => undefined)
    return appended
  }

  /** Makes all lines durable: before the checkpoint that counts on them. @throws CheckpointError */
  async sync(): Promise<void> {
    await this.#last
    try {
      await this.#file.sync()
    } catch (cause) {
      throw failure(this.path, 'written', cause)
    }
  }

  /** @throws CheckpointError */
  async close(): Promise<void> {
    await this.#last
    try {
      await this.#file.close()
    } catch (cause) {
      throw failure(this.path, 'written', cause)
    }
  }
}

/** The lines of a metrics file in order; lines that cannot be read (a torn last one) are passed over. */
export async function* readMetrics(
  path: string,
  fileSystem: FileSystem = nodeFileSystem,
): AsyncGenerator<Metrics> {
  for await (const { line } of completeLines(fileSystem, path, longestLine)) {
    const metrics = parse(line)
    if (metrics !== null) yield metrics
  }
}

/** Bytes up to the end of the last line before the first one of a later step. */
async function sizeUpTo(fileSystem: FileSystem, path: string, step: number): Promise<number> {
  let size = 0
  for await (const { line, end } of completeLines(fileSystem, path, longestLine)) {
    const metrics = parse(line)
    if (metrics === null) continue
    if (metrics.step > step) break
    size = end
  }
  return size
}

function parse(line: string): Metrics | null {
  try {
    const value = JSON.parse(line) as Metrics | null
    return typeof value?.step === 'number' ? value : null
  } catch {
    return null
  }
}

function failure(path: string, what: string, cause: unknown): CheckpointError {
  const error = (cause as { code?: unknown }).code ?? null
  return new CheckpointError(
    `${path} could not be ${what}: ${(cause as Error).message}; ${whatToDo(error)}`,
    { cause, details: { path, error } },
  )
}
