import { accessSync, constants, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** Where small files that need not last are synced at once; the disk's folder if the system has no such place. */
export function memoryFolder(): string {
  try {
    accessSync('/dev/shm', constants.W_OK | constants.X_OK)
    return '/dev/shm'
  } catch {
    return tmpdir()
  }
}

/**
 * A folder for the tests of one `describe`, gone when they have run.
 *
 * @param parent memoryFolder() for tests that sync hundreds of small files
 */
export function temporaryFolder(parent = tmpdir()): (name: string) => string {
  let folder: string
  before(() => {
    folder = mkdtempSync(join(parent, 'polylora-test-'))
  })
  after(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  return (name) => join(folder, name)
}
