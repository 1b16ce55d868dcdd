import { join } from 'node:path'
import { CheckpointError, ConfigError, isPolyloraError } from '../errors.js'
import { type FileSystem, nodeFileSystem, systemError, whatToDo } from '../file-system.js'
import {
  requireOutside,
  restoreReplaced,
  unfinishedName,
  unfinishedPath,
} from '../output-folder.js'
import { adaptersReadBy } from './method.js'
import type { TrainConfig } from './options.js'

export type Json =
  null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json }

/** What a run was started with, by key: its configuration, and what identifies the base model and the corpus. */
export type RunDescription = Readonly<Record<string, Json>>

export interface OpenOptions {
  /** Continue the run that the folder holds, or start one if it holds none. */
  readonly resume: boolean
  /** Folders that the run reads: the run folder may be none of them, nor lie inside one. */
  readonly inputs?: readonly string[]
  /** Names that the run will write beside its own; without `resume` they may not be there yet. */
  readonly outputs?: readonly string[]
  readonly fileSystem?: FileSystem
}

const descriptionName = 'run.json'
const lockName = '.lock'
export const metricsName = 'metrics.jsonl'
export const mixingName = 'mixing.json'
const checkpointPattern = /^step-(0|[1-9]\d{0,15})$/
const descriptionCap = 16 << 20

/** The folder of a run with this configuration. @throws as `RunFolder.open` */
export async function openRunFolder(
  { model, method, output }: TrainConfig,
  { resume = false }: { resume?: boolean },
): Promise<RunFolder> {
  const inputs = [model, ...adaptersReadBy(method)]
  return await RunFolder.open(output, { resume, inputs, outputs: ['adapter', 'adapters', 'model'] })
}

/** What could not be written is named already; what was written before is safe, so the run can go on from there. */
export function withWayOn(error: unknown, savedStep: number): unknown {
  if (!(error instanceof CheckpointError)) return error
  const from = savedStep === 0 ? 'starts again' : `goes on after step ${savedStep}`
  return new CheckpointError(`${error.message}, then resume the run, which ${from}`, {
    cause: error.cause,
    details: { ...error.details, savedStep },
  })
}

/**
 * The folder of one training run: `run.json` (what it was started with), `metrics.jsonl`, and a folder `step-N` for each
 * checkpoint. It is held by a lock until it is closed or the process ends.
 */
export class RunFolder {
  readonly path: string
  readonly fileSystem: FileSystem
  /** What the run that is continued was started with; null for a new run. */
  readonly saved: RunDescription | null
  /** Steps whose checkpoints `findCheckpoint` found damaged; the next good checkpoint replaces them. */
  readonly damaged = new Set<number>()
  #unlock: (() => void) | null
  /** Whether `open` made the folder, and nothing but the lock has been written to it. */
  #isBlank: boolean

  private constructor(
    path: string,
    fileSystem: FileSystem,
    saved: RunDescription | null,
    unlock: () => void,
    isBlank: boolean,
  ) {
    this.path = path
    this.fileSystem = fileSystem
    this.saved = saved
    this.#unlock = unlock
    this.#isBlank = isBlank
  }

  /**
   * Makes the folder if need be, takes its lock, and removes what a killed writer left behind.
   *
   * @throws ConfigError if the folder is an input, is not a folder, or holds a run and `resume` is not set;
   *   CheckpointError if another process holds it, or it cannot be made or read
   */
  static async open(path: string, options: OpenOptions): Promise<RunFolder> {
    const fileSystem = options.fileSystem ?? nodeFileSystem
    await requireOutside(path, options.inputs ?? [], fileSystem)
    let unlock: (() => void) | null = null
    try {
      const info = await fileSystem.inspect(path)
      if (info?.kind === 'file')
        throw new ConfigError(`${path} is a file; a run is written to a folder`, {
          details: { path },
        })
      await fileSystem.makeFolder(path)
      unlock = fileSystem.lock(join(path, lockName))
      if (unlock === null)
        throw new CheckpointError(
          `${path} is in use by another process; wait until it ends, or choose another output folder`,
          { details: { path } },
        )
      const names = await fileSystem.list(path)
      const held = names.filter((name) => isOfRun(name, options.outputs ?? []))
      if (held.length > 0 && !options.resume)
        throw new ConfigError(
          `${path} already holds a run (${held[0]}): resume it, or choose another output folder`,
          { details: { path, found: held } },
        )
      for (const name of names) {
        const leftover = unfinishedName(name)
        if (leftover === null || !isOfRun(leftover.of, options.outputs ?? [])) continue
        if (leftover.kind === 'replaced') await restoreReplaced(join(path, leftover.of), fileSystem)
        else await fileSystem.remove(join(path, name))
      }
      const saved = names.includes(descriptionName) ? await readDescription(fileSystem, path) : null
      if (saved === null && held.some((name) => checkpointPattern.test(name)))
        throw new CheckpointError(
          `${path} holds checkpoints but no ${descriptionName}, so what they belong to is not known`,
          { details: { path } },
        )
      return new RunFolder(path, fileSystem, saved, unlock, info === null)
    } catch (cause) {
      unlock?.()
      if (cause instanceof ConfigError || cause instanceof CheckpointError) throw cause
      const reason = cause instanceof Error ? cause.message : String(cause)
      const error = systemError(cause)
      throw new CheckpointError(
        `${path} cannot be used as a run folder: ${reason}; ${whatToDo(error)}`,
        { cause, details: { path, error } },
      )
    }
  }

  /**
   * Writes down what the run is started with, or compares it with what it was started with.
   *
   * @throws ConfigError for a changed key; CheckpointError if it cannot be written
   */
  async begin(description: RunDescription): Promise<void> {
    if (this.saved !== null) compareRun(this.saved, description)
    this.#isBlank = false
    await this.writeJson(descriptionName, description)
  }

  /** Writes a file of the folder: at every instant it is as before, or whole. @throws CheckpointError */
  async writeJson(name: string, value: Json): Promise<void> {
    const path = this.file(name)
    const partial = unfinishedPath(path, 'partial')
    try {
      await this.fileSystem.writeFile(partial, `${JSON.stringify(value, null, 2)}\n`)
      await this.fileSystem.sync(partial)
      await this.fileSystem.rename(partial, path)
      await this.fileSystem.sync(this.path)
    } catch (cause) {
      await this.fileSystem.remove(partial).catch(() => undefined)
      const error = systemError(cause)
      throw new CheckpointError(
        `${path} could not be written: ${(cause as Error).message}; ${whatToDo(error)}`,
        { cause, details: { path, error } },
      )
    }
  }

  file(name: string): string {
    return join(this.path, name)
  }

  checkpoint(step: number): string {
    return this.file(`step-${step}`)
  }

  /** Steps that have a checkpoint folder, damaged or not, newest first. */
  async checkpoints(): Promise<number[]> {
    const steps: number[] = []
    for (const name of await this.fileSystem.list(this.path)) {
      const match = checkpointPattern.exec(name)
      if (match && Number.isSafeInteger(Number(match[1]))) steps.push(Number(match[1]))
    }
    return steps.sort((a, b) => b - a)
  }

  /** Gives the lock back. Idempotent. */
  close(): void {
    this.#unlock?.()
    this.#unlock = null
  }

  [Symbol.dispose](): void {
    this.close()
  }

  /** Also removes a new folder to which nothing was written: a run that is refused for its inputs leaves none behind. */
  async [Symbol.asyncDispose](): Promise<void> {
    try {
      const names = this.#isBlank ? await this.fileSystem.list(this.path) : []
      if (this.#isBlank && names.every((name) => name === lockName))
        await this.fileSystem.remove(this.path)
    } catch {
      // It does no harm: the next run takes it.
    } finally {
      this.close()
    }
  }
}

/**
 * Keys that may differ between a run and its continuation: they change how long it goes on, not what it computes. `output`
 * is the run folder itself, which may have been moved.
 */
export const resumableKeys: readonly string[] = [
  'steps',
  'epochs',
  'checkpoint',
  'threads',
  'output',
]

/**
 * Refuses to continue a run with anything changed but how long it goes on.
 *
 * @throws ConfigError with `details` { key, saved, received } for the first key that differs
 */
export function compareRun(
  saved: RunDescription,
  current: RunDescription,
  exempt: readonly string[] = resumableKeys,
): void {
  const keys = new Set([...Object.keys(current), ...Object.keys(saved)])
  for (const key of keys)
    if (!exempt.includes(key)) compareValue(key, property(saved, key), property(current, key))
}

function compareValue(key: string, saved: unknown, current: unknown): void {
  if (
    isContainer(saved) &&
    isContainer(current) &&
    Array.isArray(saved) === Array.isArray(current)
  ) {
    const inner = new Set([...Object.keys(current), ...Object.keys(saved)])
    for (const one of inner)
      compareValue(`${key}.${one}`, property(saved, one), property(current, one))
    return
  }
  // Absent, undefined and null are all "not given".
  if ((saved ?? null) === (current ?? null)) return
  throw new ConfigError(
    `${key} was ${show(saved)} when the run was started and is now ${show(current)}: a run is continued with the same ` +
      `value, or started anew in another output folder`,
    { details: { key, saved: saved ?? null, received: current ?? null } },
  )
}

function isContainer(value: unknown): value is object {
  return typeof value === 'object' && value !== null
}

function property(value: object, key: string): unknown {
  return Object.hasOwn(value, key) ? (value as Record<string, unknown>)[key] : undefined
}

function show(value: unknown): string {
  if (value === undefined || value === null) return 'not given'
  const text = JSON.stringify(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}

function isOfRun(name: string, outputs: readonly string[]): boolean {
  return (
    name === descriptionName ||
    name === metricsName ||
    name === mixingName ||
    checkpointPattern.test(name) ||
    outputs.includes(name)
  )
}

async function readDescription(fileSystem: FileSystem, folder: string): Promise<RunDescription> {
  const path = join(folder, descriptionName)
  try {
    const value: unknown = JSON.parse(await fileSystem.readText(path, descriptionCap))
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new Error('it holds no JSON object')
    return value as RunDescription
  } catch (cause) {
    if (isPolyloraError(cause)) throw cause
    throw new CheckpointError(`${path} cannot be read: ${(cause as Error).message}`, {
      cause,
      details: { path },
    })
  }
}
