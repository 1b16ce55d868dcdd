import { createHash } from 'node:crypto'
import { basename, join } from 'node:path'
import { CheckpointError, isPolyloraError } from '../errors.js'
import type { FileSystem } from '../file-system.js'
import { listFiles, publishFolder, unfinishedPath } from '../output-folder.js'
import type { Json, RunFolder } from './run-folder.js'

export interface SaveCheckpointOptions {
  /** How many checkpoints to keep, this one included; at least 1. */
  readonly keep: number
  /** For the error when it cannot be written; default: what was written so far, and what the failed call needs. */
  readonly bytesNeeded?: number
}

/** A checkpoint whose every file has been verified. */
export interface Checkpoint {
  readonly step: number
  readonly folder: string
  /** What `saveCheckpoint` was given. */
  readonly state: Json
  /** Newer checkpoints that could not be used. */
  readonly skipped: readonly DamagedCheckpoint[]
}

export interface DamagedCheckpoint {
  readonly folder: string
  readonly reason: string
}

interface Manifest {
  readonly version: 1
  readonly step: number
  readonly files: Readonly<Record<string, { readonly size: number; readonly sha256: string }>>
}

const manifestName = 'manifest.json'
const stateName = 'state.json'
const manifestCap = 16 << 20
const stateCap = 256 << 20

/**
 * Writes `step-N`: files, state, and last a manifest with the size and SHA-256 of each, all durable before the folder
 * gets its name. Only then are older checkpoints removed.
 *
 * @param write writes the files into the folder it is given
 * @param state small and JSON: counters, random state, data position
 * @returns what could not be removed, and why; the checkpoint itself is safe
 * @throws CheckpointError naming the path, the bytes needed and available and the cause; older checkpoints stay
 */
export async function saveCheckpoint(
  run: RunFolder,
  step: number,
  write: (folder: string) => Promise<void>,
  state: Json,
  { keep, bytesNeeded }: SaveCheckpointOptions,
): Promise<{ folder: string; notRemoved: DamagedCheckpoint[] }> {
  const { fileSystem } = run
  const folder = run.checkpoint(step)
  await publishFolder(
    folder,
    {
      what: 'checkpoint',
      // A folder of this name is one that the run skipped as damaged, or the same step saved again.
      existing: 'replace',
      fileSystem,
      bytesNeeded,
      async seal(partial, files) {
        const manifest: Manifest = { version: 1, step, files: {} }
        for (const { path, size } of files)
          Object.defineProperty(manifest.files, path, {
            value: { size, sha256: await sha256(fileSystem, join(partial, path)) },
            enumerable: true,
          })
        const path = join(partial, manifestName)
        await fileSystem.writeFile(path, `${JSON.stringify(manifest, null, 2)}\n`)
        await fileSystem.sync(path)
      },
    },
    async (partial) => {
      await write(partial)
      await fileSystem.writeFile(join(partial, stateName), JSON.stringify(state))
    },
  )
  run.damaged.delete(step)
  return { folder, notRemoved: await prune(run, step, keep) }
}

/**
 * The newest checkpoint whose manifest verifies, or null if the folder holds none.
 *
 * @throws CheckpointError if there are checkpoints and all are damaged
 */
export async function findCheckpoint(
  run: RunFolder,
  { signal }: { signal?: AbortSignal } = {},
): Promise<Checkpoint | null> {
  const steps = await run.checkpoints()
  const skipped: DamagedCheckpoint[] = []
  for (const step of steps) {
    signal?.throwIfAborted()
    const folder = run.checkpoint(step)
    try {
      const state = await verify(run.fileSystem, folder, step)
      return { step, folder, state, skipped }
    } catch (error) {
      if (isPolyloraError(error)) throw error
      skipped.push({ folder, reason: (error as Error).message })
      run.damaged.add(step)
    }
  }
  if (skipped.length === 0) return null
  const list = skipped.map(({ folder, reason }) => `${basename(folder)} (${reason})`).join('; ')
  throw new CheckpointError(`${run.path} has no checkpoint that can be used: ${list}`, {
    details: { path: run.path, skipped },
  })
}

/** Reads every file of a checkpoint and its state; throws a plain error that says what is damaged. */
async function verify(fileSystem: FileSystem, folder: string, step: number): Promise<Json> {
  const manifest = await readManifest(fileSystem, folder)
  if (manifest.step !== step) throw new Error(`its manifest is of step ${manifest.step}`)
  const present = new Map<string, number>()
  for (const { path, size } of await listFiles(fileSystem, folder)) present.set(path, size)
  for (const [path, { size, sha256: expected }] of Object.entries(manifest.files)) {
    const actual = present.get(path)
    if (actual === undefined) throw new Error(`${path} is missing`)
    if (actual !== size) throw new Error(`${path} has ${actual} bytes instead of ${size}`)
    if ((await sha256(fileSystem, join(folder, path))) !== expected)
      throw new Error(`the checksum of ${path} is wrong`)
  }
  if (!Object.hasOwn(manifest.files, stateName)) throw new Error(`${stateName} is missing`)
  return JSON.parse(await fileSystem.readText(join(folder, stateName), stateCap)) as Json
}

async function readManifest(fileSystem: FileSystem, folder: string): Promise<Manifest> {
  const path = join(folder, manifestName)
  const info = await fileSystem.inspect(path)
  if (info?.kind !== 'file') throw new Error(`${manifestName} is missing`)
  let manifest: Partial<Manifest> | null
  try {
    manifest = JSON.parse(await fileSystem.readText(path, manifestCap)) as Partial<Manifest> | null
  } catch (cause) {
    throw new Error(`${manifestName} cannot be read: ${(cause as Error).message}`, { cause })
  }
  const files: unknown = manifest?.files
  const whole =
    manifest?.version === 1 &&
    typeof files === 'object' &&
    files !== null &&
    Object.values(files).every(
      (file: unknown) =>
        typeof file === 'object' && file !== null && 'size' in file && 'sha256' in file,
    )
  if (!whole) throw new Error(`${manifestName} is not a manifest of version 1`)
  return manifest as Manifest
}

/** In pieces, so that the event loop stays free. */
async function sha256(fileSystem: FileSystem, path: string): Promise<string> {
  const hash = createHash('sha256')
  for await (const chunk of fileSystem.readChunks(path)) hash.update(chunk)
  return hash.digest('hex')
}

/** Removes what `step` has made superfluous: damaged checkpoints, and of the others all but the newest `keep`. */
async function prune(run: RunFolder, step: number, keep: number): Promise<DamagedCheckpoint[]> {
  const { fileSystem } = run
  const notRemoved: DamagedCheckpoint[] = []
  let kept = 0
  const steps = await run.checkpoints().catch((): number[] => [])
  for (const one of steps) {
    const isDamaged = run.damaged.has(one)
    // A folder above this step that is not known to be damaged is not ours to judge.
    if (!isDamaged && (one > step || ++kept <= Math.max(1, keep))) continue
    const folder = run.checkpoint(one)
    // Renamed first: a removal that is cut short never looks like a damaged checkpoint.
    const removed = unfinishedPath(folder, 'removed')
    try {
      await fileSystem.remove(removed)
      await fileSystem.rename(folder, removed)
      await fileSystem.remove(removed)
      run.damaged.delete(one)
    } catch (error) {
      notRemoved.push({ folder, reason: (error as Error).message })
    }
  }
  return notRemoved
}
