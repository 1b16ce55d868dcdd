import assert from 'node:assert/strict'
import { Philox } from '../lib/philox.js'
import { philox } from './random.js'

describe('Philox of the statistics', () => {
  it('gives the words of Philox4x32-10', () => {
    for (const [seed, stream] of [
      [0, 0],
      [7, 3],
      [2 ** 40 + 5, 2 ** 31 + 1],
    ]) {
      const random = new Philox(seed, stream)
      for (let block = 0; block < 50; block++)
        assert.deepEqual(
          [random.word(), random.word(), random.word(), random.word()],
          philox([block, 0, stream, 0], seed >>> 0, Math.floor(seed / 2 ** 32)),
        )
    }
  })

  it('draws whole numbers evenly and permutes', () => {
    const random = new Philox(1)
    const counts = new Array<number>(7).fill(0)
    for (let i = 0; i < 70_000; i++) counts[random.below(7)]++
    // 5 standard deviations of 93.
    for (const count of counts) assert.ok(Math.abs(count - 10_000) < 465, String(counts))
    const list = random.shuffle(Array.from({ length: 100 }, (_, i) => i))
    assert.notDeepEqual(
      list,
      [...list].sort((a, b) => a - b),
    )
    assert.deepEqual(
      [...list].sort((a, b) => a - b),
      Array.from({ length: 100 }, (_, i) => i),
    )
  })
})
