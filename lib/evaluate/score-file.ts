import { stat } from 'node:fs/promises'
import { dirname } from 'node:path'
import { CheckpointError, ConfigError, isPolyloraError } from '../errors.js'
import { type AppendFile, nodeFileSystem, whatToDo } from '../file-system.js'
import { requireOutside, unfinishedPath } from '../output-folder.js'
import type { RecordScore } from './evaluate.js'

/**
 * Scores as JSON lines, one a record: `tokens`, `logLikelihood`, `greedy`, and of a multiple-choice record `choices`
 * (the same of each), `correct` and `correctNormalized`. The file gets its name when it is whole, and then replaces
 * an older one.
 */
export class ScoreFile {
  readonly path: string
  readonly #partial: string | null
  readonly #file: AppendFile

  private constructor(path: string, partial: string | null, file: AppendFile) {
    this.path = path
    this.#partial = partial
    this.#file = file
  }

  /**
   * @param inputs folders and files that are read: the output may be none of them, nor lie inside one
   * @throws ConfigError, CheckpointError
   */
  static async create(path: string, inputs: readonly string[]): Promise<ScoreFile> {
    await requireOutside(path, inputs)
    try {
      const target = await nodeFileSystem.realPath(path).catch(() => path)
      const info = await stat(target).catch(() => null)
      if (info?.isDirectory())
        throw new ConfigError(`${path} is a folder; the scores are written to a file`, {
          details: { path },
        })
      // A pipe or a terminal is written to as it is.
      const partial = info === null || info.isFile() ? unfinishedPath(target, 'partial') : null
      if (partial !== null) {
        await nodeFileSystem.makeFolder(dirname(target))
        await nodeFileSystem.remove(partial)
      }
      return new ScoreFile(target, partial, await nodeFileSystem.openAppend(partial ?? target))
    } catch (cause) {
      if (isPolyloraError(cause)) throw cause
      throw failure(path, cause)
    }
  }

  async write({ tokens, logLikelihood, greedy, ...rest }: RecordScore): Promise<void> {
    const { choices, correct, correctNormalized } = rest
    const line = { tokens, logLikelihood, greedy, choices, correct, correctNormalized }
    try {
      await this.#file.append(Buffer.from(`${JSON.stringify(line)}\n`))
    } catch (cause) {
      throw failure(this.path, cause)
    }
  }

  /** Gives the file its name. */
  async finish(): Promise<void> {
    try {
      if (this.#partial !== null) await this.#file.sync()
      await this.#file.close()
      if (this.#partial !== null) await nodeFileSystem.rename(this.#partial, this.path)
    } catch (cause) {
      throw failure(this.path, cause)
    }
  }

  /** Leaves nothing behind, and an older file as it was. */
  async discard(): Promise<void> {
    await this.#file.close().catch(() => undefined)
    if (this.#partial !== null) await nodeFileSystem.remove(this.#partial).catch(() => undefined)
  }
}

function failure(path: string, cause: unknown): CheckpointError {
  const error = (cause as { code?: unknown }).code ?? null
  return new CheckpointError(
    `${path} could not be written: ${(cause as Error).message}; ${whatToDo(error)}`,
    { cause, details: { path, error } },
  )
}
