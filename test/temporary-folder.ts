import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** A folder for the tests of one `describe`, gone when they have run. */
export function temporaryFolder(): (name: string) => string {
  let folder: string
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-test-'))
  })
  after(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  return (name) => join(folder, name)
}
