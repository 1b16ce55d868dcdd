import { completeLines } from '../../complete-lines.js'
import { CheckpointError, ConfigError, isPolyloraError } from '../../errors.js'
import { type AppendFile, nodeFileSystem, whatToDo } from '../../file-system.js'
import { requireOutside } from '../../output-folder.js'

// An item with a generated answer.
const longestLine = 1 << 24

/**
 * The scores of a task's items as JSON lines, in order. The first line says what they are scores of; an evaluation of
 * the same goes on where the file ends.
 */
export class ItemFile<Item> {
  readonly path: string
  /** What earlier evaluations left. */
  readonly items: readonly Item[]
  readonly #file: AppendFile

  private constructor(path: string, items: readonly Item[], file: AppendFile) {
    this.path = path
    this.items = items
    this.#file = file
  }

  /**
   * @param identity of model, adapter, task and data
   * @param inputs folders and files that are read: the output may be none of them, nor lie inside one
   * @throws ConfigError if the file holds something else, CheckpointError if it cannot be read or written
   */
  static async open<Item>(
    path: string,
    identity: string,
    inputs: readonly string[],
  ): Promise<ItemFile<Item>> {
    await requireOutside(path, inputs)
    let file: AppendFile | null = null
    try {
      const items: Item[] = []
      let size = 0
      const info = await nodeFileSystem.inspect(path)
      if (info !== null && info.size > 0)
        for await (const { line, end } of completeLines(nodeFileSystem, path, longestLine)) {
          const value = parse(line)
          if (size === 0) requireIdentity(path, value, identity)
          else if (value === null) break
          else items.push(value as Item)
          size = end
        }
      if (info !== null && info.size > 0 && size === 0) requireIdentity(path, null, identity)
      file = await nodeFileSystem.openAppend(path)
      await file.truncate(size)
      if (size === 0) await file.append(Buffer.from(`${JSON.stringify({ identity })}\n`))
      return new ItemFile(path, items, file)
    } catch (cause) {
      await file?.close().catch(() => undefined)
      throw isPolyloraError(cause) ? cause : failure(path, cause)
    }
  }

  async append(items: readonly Item[]): Promise<void> {
    const text = items.map((item) => `${JSON.stringify(item)}\n`).join('')
    try {
      await this.#file.append(Buffer.from(text))
    } catch (cause) {
      throw failure(this.path, cause)
    }
  }

  async close(): Promise<void> {
    try {
      await this.#file.sync()
      await this.#file.close()
    } catch (cause) {
      throw failure(this.path, cause)
    }
  }
}

function parse(line: string): object | null {
  try {
    const value: unknown = JSON.parse(line)
    return typeof value === 'object' ? value : null
  } catch {
    return null
  }
}

function requireIdentity(path: string, header: object | null, identity: string): void {
  const found = (header as { identity?: unknown } | null)?.identity
  if (found === identity) return
  const what =
    typeof found === 'string'
      ? 'scores of another model, adapter, task or data'
      : 'something other than the scores of a task'
  throw new ConfigError(`${path} holds ${what}; name another file, or remove this one`, {
    details: { path },
  })
}

function failure(path: string, cause: unknown): CheckpointError {
  const error = (cause as { code?: unknown }).code ?? null
  return new CheckpointError(
    `${path} could not be written: ${(cause as Error).message}; ${whatToDo(error)}`,
    { cause, details: { path, error } },
  )
}
