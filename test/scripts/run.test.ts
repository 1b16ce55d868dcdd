import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { unitsNamed } from '../../scripts/ledger.mjs'
import { parseOptions, ScriptError, wholeNumber } from '../../scripts/run.mjs'

describe("the scripts' command lines", () => {
  const options = { only: { type: 'string' }, list: { type: 'boolean' } } as const
  const refuses = (run: () => unknown, sentence: RegExp) =>
    assert.throws(run, (error) => error instanceof ScriptError && sentence.test(error.message))

  it('are options that there are', () => {
    const { values } = parseOptions({ args: ['--only', 'race', '--list'], options })
    assert.deepEqual({ ...values }, { only: 'race', list: true })
    for (const args of [['--onyl', 'race'], ['race'], ['--only'], ['--list=1']])
      refuses(() => parseOptions({ args, options }), /; the options are --only, --list\.$/)
  })

  it('have whole numbers where they count', () => {
    assert.equal(wholeNumber('--jobs', '12', 1), 12)
    for (const text of ['0', '-1', '1.5', '', 'x', '1e3', '99999999999999999999'])
      refuses(() => wholeNumber('--jobs', text, 1), /^--jobs takes a whole number from 1, not "/)
  })

  it('name units that there are', () => {
    const units = [{ name: 'race: programs' }, { name: 'plain: programs' }]
    assert.deepEqual(unitsNamed(units, 'race'), [units[0]])
    assert.deepEqual(unitsNamed(units, ''), units)
    refuses(() => unitsNamed(units, 'rice'), /^no unit's name contains "rice"/)
  })
})
