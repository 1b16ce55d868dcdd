import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { problemsOfOrder } from './durability.js'

describe('the order of syncs', () => {
  const good = [
    'mkdir /a failed',
    'create /a/.lock',
    'mkdir /a/.it.partial',
    'create /a/.it.partial/weights',
    'write /a/.it.partial/weights',
    'sync /a/.it.partial/weights',
    'sync /a/.it.partial',
    'rename /a/it from /a/.it.partial',
    'sync /a',
    'rename /a/.old.removed from /a/old',
    'unlink /a/.old.removed/weights',
    'rmdir /a/.old.removed',
  ]

  it('is right where files come before folders, and folders before their new name', () => {
    assert.deepEqual(problemsOfOrder(good), [])
  })

  it('is wrong without any one of the syncs, or with one too early', () => {
    // Each with the call that it must come after.
    for (const [sync, change] of [
      ['sync /a/.it.partial/weights', 'write /a/.it.partial/weights'],
      ['sync /a/.it.partial', 'create /a/.it.partial/weights'],
      ['sync /a', 'rename /a/it from /a/.it.partial'],
    ]) {
      const without = good.filter((call) => call !== sync)
      assert.equal(problemsOfOrder(without).length, 1, `without ${sync}`)
      const early = without.toSpliced(without.indexOf(change), 0, sync)
      assert.equal(problemsOfOrder(early).length, 1, `with ${sync} too early`)
    }
    assert.deepEqual(problemsOfOrder([...good, 'write /a/it/weights']), [
      'what was written to /a/it/weights was never synced',
    ])
  })
})
