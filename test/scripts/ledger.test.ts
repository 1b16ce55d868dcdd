import assert from 'node:assert/strict'
import { appendFileSync } from 'node:fs'
import { describe, it } from 'mocha'
import { type Entry, Ledger, runUnit } from '../../scripts/ledger.mjs'
import { temporaryFolder } from '../temporary-folder.js'

describe('the ledger of long tests', () => {
  const at = temporaryFolder()
  const entry = (unit: string, failed = 0): Entry => ({
    unit,
    passed: 1 - failed,
    failed,
    skipped: 0,
    seconds: 2,
    cpuSeconds: 1,
  })

  it('remembers what went well, for the same sources', () => {
    const open = (key: string, fresh = false) => new Ledger(at('ledger.jsonl'), key, { fresh })
    const first = open('one')
    first.add(entry('faults'))
    first.add(entry('fuzz', 1))
    appendFileSync(at('ledger.jsonl'), '{"key":"one","unit":"torn","pas')
    assert.deepEqual(open('one').find('faults'), entry('faults'))
    for (const unit of ['fuzz', 'torn', 'endurance'])
      assert.equal(open('one').find(unit), undefined)
    assert.equal(open('two').find('faults'), undefined)
    assert.equal(open('one', true).find('faults'), undefined)
  })

  it('takes the last word on a unit', () => {
    const path = at('last.jsonl')
    const ledger = new Ledger(path, 'one', { fresh: true })
    ledger.add(entry('fuzz', 1))
    ledger.add(entry('fuzz'))
    ledger.add(entry('faults'))
    ledger.add(entry('faults', 1))
    const again = new Ledger(path, 'one')
    assert.deepEqual([again.find('fuzz'), again.find('faults')], [entry('fuzz'), undefined])
  })

  it('runs a unit until it has gone well', async () => {
    const ledger = new Ledger(at('run.jsonl'), 'one')
    const endings = [{ failed: 1 }, new Error('no processor'), { passed: 3, skipped: 1 }]
    const counts: (readonly number[])[] = []
    const lines: string[] = []
    for (let i = 0; i < 4; i++) {
      const { passed, failed, skipped } = await runUnit(
        {
          name: 'unit',
          run() {
            const ending = endings.shift()!
            return ending instanceof Error ? Promise.reject(ending) : Promise.resolve(ending)
          },
        },
        ledger,
        (line) => lines.push(line),
      )
      counts.push([passed, failed, skipped])
    }
    assert.deepEqual(counts, [
      [0, 1, 0],
      [0, 1, 0],
      [3, 0, 1],
      [3, 0, 1],
    ])
    assert.deepEqual(
      lines.map((line) => line.trim()),
      ['✘ unit (0 s)', 'Error: no processor', '✘ unit (0 s)', '✔ unit (0 s)'],
    )
  })
})
