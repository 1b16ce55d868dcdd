import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'mocha'
import { endingParts } from './fuzz/endings.js'
import { Random } from './random.js'

// One of the 50 and more of npm run test:fuzz.
describe('processes and workers that end in mid-step', function () {
  this.timeout(60_000)
  let folder: string

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-endings-'))
  })

  after(() => {
    rmSync(folder, { recursive: true, force: true })
  })

  for (const [index, part] of endingParts().entries())
    it(`end with the expected code: ${part.name.slice('end '.length)}`, async () => {
      await part.run({
        index,
        random: new Random(700 + index),
        folder,
        note: () => undefined,
        slowness: 1,
        calls: 1,
      })
    })
})
