import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { philox } from './random.js'

describe("the tests' own Philox4x32-10", () => {
  // The known answers of Random123 (Salmon et al. 2011).
  const ones = 0xffffffff
  for (const [counter, key, expected] of [
    [[0, 0, 0, 0], [0, 0], '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    [[ones, ones, ones, ones], [ones, ones], '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    [
      [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344],
      [0xa4093822, 0x299f31d0],
      'd16cfe09 94fdcceb 5001e420 24126ea1',
    ],
  ] as const)
    it(`gives the known answer ${expected}`, () => {
      const words = philox([...counter], key[0], key[1])
      assert.equal(words.map((word) => word.toString(16).padStart(8, '0')).join(' '), expected)
    })
})
