import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'mocha'
import { FormatError } from '../../lib/errors.js'
import { ShardWriter, WriteError } from '../../lib/merge/shard-writer.js'
import { temporaryFolder } from '../temporary-folder.js'

describe('ShardWriter', () => {
  const at = temporaryFolder()
  const plan = [{ name: 'w', shape: [2] }]

  it('tells what the file system refuses from what the dtype does', async () => {
    const path = join(at('.'), 'model.safetensors')
    writeFileSync(path, 'not its own')
    const refused = new ShardWriter(at('.'), plan, 'f32')
    await assert.rejects(refused.write('w', Float32Array.of(1, 2)), (error) => {
      assert.ok(error instanceof WriteError)
      assert.match(error.message, /model\.safetensors cannot be written: EEXIST; check the folder/)
      assert.equal(error.details.error, 'EEXIST')
      return true
    })
    await refused.close()
    const tooLarge = new ShardWriter(at('.'), plan, 'f16')
    await assert.rejects(tooLarge.write('w', Float32Array.of(1, 1e6)), (error) => {
      return error instanceof FormatError && !(error instanceof WriteError)
    })
  })
})
