import assert from 'node:assert/strict'
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'mocha'
import { FormatError } from '../lib/errors.js'
import { readConfig } from '../lib/models/index.js'
import { Tokenizer } from '../lib/text/index.js'
import { closeDevice } from './fuzz/kind.js'
import { fileParts } from './fuzz/files.js'
import { Random } from './random.js'
import { characterTokenizer } from './text/helpers.js'

// A slice of npm run test:fuzz, in this process; what it found is below.
describe('hostile files', function () {
  this.timeout(180_000)
  let folder: string

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-hostile-'))
  })

  after(async () => {
    await closeDevice()
    rmSync(folder, { recursive: true, force: true })
  })

  // The other codecs of Parquet are left to the whole.
  const parts = fileParts().filter(({ name }) => !/(snappy|zstd|brotli|encodings|lz4)/.test(name))
  for (const [index, part] of parts.entries())
    it(`end in typed errors: ${part.name.slice('file '.length)}`, async () => {
      // Tokenizers and templates start workers, Parquet a worker for each file.
      const isSlow = /tokenizer|template|model |parquet/.test(part.name)
      await part.run({
        index,
        random: new Random(500 + index),
        folder,
        note: () => undefined,
        // Other tests have left memory to collect, and other processes may run.
        slowness: 2,
        calls: isSlow ? 2 : 60,
      })
    })

  it('refuses a config.json that is a pipe, without waiting for a writer', async () => {
    const pipe = join(folder, 'config.json')
    execFileSync('mkfifo', [pipe])
    await assert.rejects(
      readConfig(folder),
      (error) => error instanceof FormatError && error.details.file === pipe,
    )
    rmSync(pipe)
  })

  it('names the folder of a template that does not parse', async () => {
    writeFileSync(join(folder, 'tokenizer.json'), JSON.stringify(characterTokenizer()))
    writeFileSync(join(folder, 'chat_template.jinja'), '{{')
    const tokenizer = await Tokenizer.load(folder)
    await assert.rejects(
      tokenizer.applyChatTemplate([{ role: 'user', content: 'a' }]),
      (error) =>
        error instanceof FormatError &&
        error.message.startsWith(folder) &&
        /does not parse/.test(error.message),
    )
    await tokenizer.dispose()
  })
})
