import { join } from 'node:path'
import { CheckpointError, ConfigError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import { requireOutside } from '../output-folder.js'
import { writeWhole } from './run-record.js'
import { inputsOf, type RecipeName, type StudyConfig } from './study-config.js'

/** What a folder holds, and what its runs were made from, once that is known. */
interface Marker {
  readonly holds: 'study' | RecipeName
  readonly from: string | null
}

const markerName = 'holds.json'
const lockName = '.lock'
const fileCap = 1 << 16

/**
 * The output folder of a study or a recipe while one process works in it. Files in it are written anew and removed, so only
 * a folder that is new or empty becomes one.
 */
export class StudyFolder implements Disposable {
  readonly path: string
  readonly #marker: Marker
  readonly #unlock: () => void

  private constructor(path: string, marker: Marker, unlock: () => void) {
    this.path = path
    this.#marker = marker
    this.#unlock = unlock
  }

  /** @throws ConfigError if it holds something else; CheckpointError if another process works in it */
  static async open(config: StudyConfig, holds: Marker['holds']): Promise<StudyFolder> {
    const { output } = config
    await requireOutside(output, inputsOf(config))
    await nodeFileSystem.makeFolder(output)
    const unlock = nodeFileSystem.lock(join(output, lockName))
    if (unlock === null)
      throw new CheckpointError(
        `${output} is in use by another process; wait until it ends, or choose another output folder`,
        { details: { path: output } },
      )
    try {
      return new StudyFolder(output, await readMarker(output, holds), unlock)
    } catch (error) {
      unlock()
      throw error
    }
  }

  /** Of a recipe, which has no plan. @throws ConfigError if its runs were made from something else */
  async requireSame(from: string): Promise<void> {
    if (this.#marker.from === from) return
    if (this.#marker.from !== null)
      throw new ConfigError(
        `${this.path} holds what was made from another model, corpus or configuration; choose another output folder`,
        { details: { path: this.path } },
      )
    await writeMarker(this.path, { ...this.#marker, from })
  }

  [Symbol.dispose](): void {
    this.#unlock()
  }
}

async function readMarker(output: string, holds: Marker['holds']): Promise<Marker> {
  const path = join(output, markerName)
  if ((await nodeFileSystem.inspect(path)) === null) {
    // A killed process may have left the beginning of the marker.
    const others = (await nodeFileSystem.list(output)).filter((name) => !name.startsWith('.'))
    if (others.length > 0)
      throw new ConfigError(
        `output: ${output} is not empty and holds no study; choose another folder`,
        { details: { path: output, key: 'output' } },
      )
    const marker = { holds, from: null }
    await writeMarker(output, marker)
    return marker
  }
  const marker = (await readJsonFile(path, fileCap)) as Marker | null
  if (marker?.holds === holds) return marker
  throw new ConfigError(
    `output: ${output} holds ${JSON.stringify(marker?.holds ?? null)}, not ${JSON.stringify(holds)}; choose another folder`,
    { details: { path: output, key: 'output' } },
  )
}

async function writeMarker(output: string, marker: Marker): Promise<void> {
  await writeWhole(join(output, markerName), `${JSON.stringify(marker)}\n`)
}
