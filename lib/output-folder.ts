import { basename, dirname, join, resolve, sep } from 'node:path'
import { AbortedError, CheckpointError, ConfigError } from './errors.js'
import { type FileSystem, isMissing, nodeFileSystem, whatToDo } from './file-system.js'

/** A file of a folder: its path from the folder, with forward slashes. */
export interface WrittenFile {
  readonly path: string
  readonly size: number
}

export interface PublishOptions {
  /** For errors: 'checkpoint', 'adapter', 'model'. */
  readonly what: string
  /**
   * What to do with a folder that is there already: replace it as a whole, or only the files of the same names.
   * Without it only an empty one is allowed.
   */
  readonly existing?: 'replace' | 'replace-files'
  /** Called when every file is written and synced; what it writes becomes durable last. */
  readonly seal?: (folder: string, files: readonly WrittenFile[]) => Promise<void>
  /** For errors: at least what was written so far, and what the failed call says it needs. */
  readonly bytesNeeded?: number
  readonly fileSystem?: FileSystem
}

// Names of what is being written or removed; nobody takes them for the finished thing.
const unfinished = /^\.(.+)\.(partial|replaced|removed)$/

/**
 * What a killed writer was writing (`partial`), had set aside for something new (`replaced`) or was removing (`removed`)
 * under this name; null if it is not such a name.
 */
export function unfinishedName(name: string): { of: string; kind: UnfinishedKind } | null {
  const match = unfinished.exec(name)
  return match && { of: match[1], kind: match[2] as UnfinishedKind }
}

export type UnfinishedKind = 'partial' | 'replaced' | 'removed'

export function unfinishedPath(path: string, kind: UnfinishedKind): string {
  return join(dirname(path), `.${basename(path)}.${kind}`)
}

/**
 * Writes a folder so that at every instant it is either absent (or as before) or whole: under a temporary name beside
 * the target, every file synced, then the folder, then put in place in one step, then the parent synced. On failure the
 * temporary folder is removed and what was there before stays. One writer at a time.
 *
 * @param write fills the folder it is given
 * @throws CheckpointError with `details` { path, bytesNeeded, bytesAvailable, error } and the cause, or if somebody else
 *   is writing the same folder
 */
export async function publishFolder(
  path: string,
  options: PublishOptions,
  write: (folder: string) => Promise<void>,
): Promise<void> {
  const fileSystem = options.fileSystem ?? nodeFileSystem
  // A link stays, and what it leads to is replaced.
  const target = await fileSystem.realPath(path).catch(() => path)
  const partial = unfinishedPath(target, 'partial')
  let unlock: (() => void) | null = null
  try {
    await fileSystem.makeFolder(dirname(target))
    await restoreReplaced(target, fileSystem)
    unlock = await claim(partial, target, options.what, fileSystem)
    await write(partial)
    const files = await listFiles(fileSystem, partial)
    for (const { path } of files) await fileSystem.sync(join(partial, path))
    await options.seal?.(partial, files)
    for (const folder of foldersOf(files)) await fileSystem.sync(join(partial, folder))
    await fileSystem.sync(partial)
    await place(fileSystem, partial, target, files, options)
    await fileSystem.sync(dirname(target))
  } catch (cause) {
    const written = await listFiles(fileSystem, partial).catch((): WrittenFile[] => [])
    unlock?.()
    unlock = null
    if (!(cause instanceof BusyError)) await removeLeftovers(target, fileSystem)
    if (cause instanceof AbortedError || cause instanceof ConfigError || cause instanceof BusyError)
      throw cause
    throw await writeError(fileSystem, target, options, written, cause)
  } finally {
    unlock?.()
  }
  if (options.existing) await removeLeftovers(target, fileSystem)
}

/** Somebody else is writing the same folder. */
class BusyError extends CheckpointError {}

/** Makes the temporary folder, or empties the one that a killed writer left, and locks it. */
async function claim(
  partial: string,
  target: string,
  what: string,
  fileSystem: FileSystem,
): Promise<() => void> {
  await fileSystem.makeFolder(partial)
  const unlock = lock(partial, fileSystem)
  if (!unlock)
    throw new BusyError(
      `${target}: the ${what} is being written by somebody else; wait until that ends, or choose another folder`,
      { details: { path: target } },
    )
  try {
    for (const name of await fileSystem.list(partial)) await fileSystem.remove(join(partial, name))
    return unlock
  } catch (error) {
    unlock()
    throw error
  }
}

// What network file systems say that lock no folders: there, writers are not kept apart.
const cannotLock: readonly unknown[] = ['EBADF', 'ENOLCK', 'EOPNOTSUPP', 'ENOSYS', 'EINVAL']

function lock(folder: string, fileSystem: FileSystem): (() => void) | null {
  try {
    return fileSystem.lock(folder)
  } catch (error) {
    const { details } = error as { details?: { error?: unknown } }
    if (cannotLock.includes(details?.error)) return () => undefined
    throw error
  }
}

/** Removes the temporary folder and what was replaced, unless the next writer is using it already. */
async function removeLeftovers(target: string, fileSystem: FileSystem): Promise<void> {
  for (const kind of ['partial', 'replaced'] as const) {
    const path = unfinishedPath(target, kind)
    try {
      if ((await fileSystem.inspect(path)) === null) continue
      const unlock = lock(path, fileSystem)
      if (!unlock) continue
      try {
        await fileSystem.remove(path)
      } finally {
        unlock()
      }
    } catch {
      // The next writer tries again.
    }
  }
}

/** Undoes a replacement that was cut short where names cannot be exchanged. */
export async function restoreReplaced(target: string, fileSystem: FileSystem): Promise<void> {
  const replaced = unfinishedPath(target, 'replaced')
  if ((await fileSystem.inspect(replaced)) === null) return
  if ((await fileSystem.inspect(target)) === null) await fileSystem.rename(replaced, target)
  else await fileSystem.remove(replaced)
}

/** Gives the finished folder its name. */
async function place(
  fileSystem: FileSystem,
  partial: string,
  target: string,
  files: readonly WrittenFile[],
  { existing, what }: PublishOptions,
): Promise<void> {
  const info = await fileSystem.inspect(target)
  if (info !== null && existing) {
    if (existing === 'replace-files') {
      await keepOthers(fileSystem, target, partial, new Set(files.map(({ path }) => path)))
      await fileSystem.sync(partial)
    }
    if (await fileSystem.exchange(partial, target)) return
    const replaced = unfinishedPath(target, 'replaced')
    await fileSystem.rename(target, replaced)
    try {
      await fileSystem.rename(partial, target)
    } catch (error) {
      await fileSystem.rename(replaced, target).catch(() => undefined)
      throw error
    }
    return
  }
  if (info !== null) await requireNewFolder(target, what, fileSystem)
  await fileSystem.rename(partial, target)
}

/** Gives everything of a folder that is not about to be replaced a second name in the new one. */
async function keepOthers(
  fileSystem: FileSystem,
  from: string,
  to: string,
  written: ReadonlySet<string>,
  prefix = '',
): Promise<void> {
  for (const name of await fileSystem.list(join(from, prefix))) {
    const path = prefix + name
    if (written.has(path)) continue
    if ((await fileSystem.inspect(join(from, path)))?.kind === 'folder') {
      await fileSystem.makeFolder(join(to, path))
      await keepOthers(fileSystem, from, to, written, `${path}/`)
      await fileSystem.sync(join(to, path))
    } else await fileSystem.link(join(from, path), join(to, path))
  }
}

/**
 * Refuses an output that exists, unless it is an empty folder: nothing is ever overwritten.
 *
 * @throws ConfigError
 */
export async function requireNewFolder(
  path: string,
  what: string,
  fileSystem: FileSystem = nodeFileSystem,
): Promise<void> {
  const info = await inspectOutput(path, fileSystem)
  if (info === null) return
  if (info.kind === 'folder') {
    const names = await fileSystem.list(path)
    if (names.length === 0) return
    throw refused(
      path,
      `already holds ${JSON.stringify(names[0])}: the ${what} is written to a new or empty folder`,
    )
  }
  throw refused(path, `is a file: the ${what} is written to a new or empty folder`)
}

/**
 * Refuses an output folder that is an input folder, or lies inside one, whatever links lead there.
 *
 * @param inputs folders that are read; those that do not exist are passed over
 * @throws ConfigError
 */
export async function requireOutside(
  output: string,
  inputs: Iterable<string>,
  fileSystem: FileSystem = nodeFileSystem,
): Promise<void> {
  const real = await futureRealPath(output, fileSystem)
  for (const input of inputs) {
    let realInput: string
    try {
      realInput = await fileSystem.realPath(input)
    } catch (error) {
      if (isMissing(error)) continue
      throw refused(input, `cannot be read: ${(error as Error).message}`)
    }
    if (real === realInput)
      throw refused(output, `is the input folder ${input}: it must be another folder`)
    if (real.startsWith(realInput.endsWith(sep) ? realInput : realInput + sep))
      throw refused(output, `lies inside the input folder ${input}: it must lie outside`)
  }
}

/** Every file of a folder, at any depth, sorted. Anything but files and folders is refused. */
export async function listFiles(
  fileSystem: FileSystem,
  folder: string,
  prefix = '',
): Promise<WrittenFile[]> {
  const files: WrittenFile[] = []
  for (const name of await fileSystem.list(join(folder, prefix))) {
    const path = prefix + name
    const info = await fileSystem.inspect(join(folder, path))
    if (info?.kind === 'folder') files.push(...(await listFiles(fileSystem, folder, `${path}/`)))
    else if (info?.kind === 'file') files.push({ path, size: info.size })
    else throw new Error(`${join(folder, path)} is neither a file nor a folder`)
  }
  return files
}

/** The folders that files lie in, deepest first, without the outermost. */
function foldersOf(files: readonly WrittenFile[]): string[] {
  const folders = new Set<string>()
  for (const { path } of files)
    for (let end = path.lastIndexOf('/'); end > 0; end = path.lastIndexOf('/', end - 1))
      folders.add(path.slice(0, end))
  return [...folders].sort((a, b) => b.split('/').length - a.split('/').length)
}

/** Where `path` will lie once it is made: the real path of the part that exists, and the rest. */
async function futureRealPath(path: string, fileSystem: FileSystem): Promise<string> {
  const rest: string[] = []
  for (let existing = resolve(path); ; existing = dirname(existing)) {
    try {
      return join(await fileSystem.realPath(existing), ...rest)
    } catch (error) {
      if (!isMissing(error) || dirname(existing) === existing)
        throw refused(path, `cannot be used: ${(error as Error).message}`)
      // A link to nothing: it would be followed when the folder is made.
      if ((await inspectOutput(existing, fileSystem))?.kind === 'other')
        throw refused(path, `cannot be used: ${existing} is a link to nothing`)
      rest.unshift(basename(existing))
    }
  }
}

async function inspectOutput(path: string, fileSystem: FileSystem) {
  try {
    return await fileSystem.inspect(path)
  } catch (error) {
    throw refused(path, `cannot be used: ${(error as Error).message}`)
  }
}

function refused(path: string, problem: string): ConfigError {
  return new ConfigError(`${path} ${problem}`, { details: { path } })
}

async function writeError(
  fileSystem: FileSystem,
  target: string,
  { what, bytesNeeded }: PublishOptions,
  written: readonly WrittenFile[],
  cause: unknown,
): Promise<CheckpointError> {
  const { code, details } = (cause ?? {}) as { code?: unknown; details?: Record<string, unknown> }
  const ofFile = typeof details?.bytesNeeded === 'number' ? details.bytesNeeded : 0
  const soFar = written.reduce(
    (sum, { path, size }) => (path.endsWith('.tmp') ? sum : sum + size),
    ofFile,
  )
  const needed = Math.max(bytesNeeded ?? 0, soFar)
  const available = await fileSystem.available(dirname(target)).catch(() => null)
  const space =
    (needed > 0 ? `; ${needed} bytes are needed` : '') +
    (available === null ? '' : `${needed > 0 ? ',' : ';'} ${available} bytes are available`)
  // A folder inside this one: what went wrong there is what went wrong here.
  const root = cause instanceof CheckpointError ? (cause.cause ?? cause) : cause
  const reason = root instanceof Error ? root.message : String(root)
  const error = details?.error ?? code ?? null
  return new CheckpointError(
    `${target}: the ${what} could not be written: ${reason}${space}; ${whatToDo(error)}`,
    {
      cause,
      details: {
        path: target,
        bytesNeeded: needed > 0 ? needed : null,
        bytesAvailable: available,
        error,
      },
    },
  )
}
