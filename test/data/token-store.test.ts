import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { mix } from '../../lib/data/order.js'
import { TokenStore } from '../../lib/data/token-store.js'

describe('token store', () => {
  it('gives back what was added, from memory and from its file', async () => {
    // One chunk of 2^20 tokens stays in memory, the rest goes to the file; one sample spans both.
    const store = new TokenStore(1)
    const sample = (index: number) => {
      const length = 1 + (mix(index, 1) % 5000)
      return {
        inputIds: Int32Array.from({ length }, (_, t) => mix(index, t) >>> 1),
        labelMask: Uint8Array.from({ length }, (_, t) => mix(t, index) & 1),
      }
    }
    try {
      let numTokens = 0
      for (let index = 0; index < 700; ++index) {
        const added = sample(index)
        await store.add(added)
        numTokens += added.inputIds.length
      }
      assert.ok(numTokens > 1.5 * 2 ** 20, 'the file is in use')
      assert.equal(store.size, 700)
      assert.equal(store.numTokens, numTokens)
      for (let i = 0; i < 700; ++i) {
        const index = (i * 389) % 700
        const expected = sample(index)
        assert.equal(store.length(index), expected.inputIds.length)
        const { inputIds, labelMask } = await store.read(index)
        assert.deepEqual(inputIds, expected.inputIds)
        assert.deepEqual(labelMask, expected.labelMask)
      }
    } finally {
      await store.close()
    }
  })
})
