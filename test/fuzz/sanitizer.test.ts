import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { reportsOf, withoutReports } from './sanitizer.js'

describe('reports of ThreadSanitizer', () => {
  const report = (kind: string, ...stacks: string[][]) =>
    `==================\nWARNING: ThreadSanitizer: ${kind} (pid=7)\n${stacks
      .map(
        ([title, ...frames]) =>
          `  ${title}:\n${frames.map((one, i) => `    #${i} ${one}\n`).join('')}`,
      )
      .join('\n')}==================\n`
  const ours = 'polylora::Heap::usage() heap.cc:219 (polylora.node+0x8c1)'
  const node = 'node::Start(int, char**) <null> (node+0xd8)'
  const lock = 'pthread_mutex_lock <null> (libtsan.so.2+0x53)'
  const write = 'Write of size 8 at 0x7b04 by main thread'
  const read = 'Previous read of size 8 at 0x7b04 by thread T7'

  it('count where the addon touched what they are about', () => {
    for (const text of [
      report('data race', [write, node], [read, ours, node]),
      report('data race', [write, ours], [read, node]),
      report('heap-use-after-free', [write, ours, node]),
      report('lock-order-inversion', ['Mutex M1 acquired here', lock, ours, node]),
      'ThreadSanitizer:DEADLYSIGNAL\n==7==ERROR: ThreadSanitizer: BUS on unknown address\n',
    ])
      assert.equal(reportsOf(`noise\n${text}noise\n`).length, 1, text)
  })

  it('do not where Node touched it, below a call of the addon or not', () => {
    for (const text of [
      report('data race', [write, node], [read, node, ours]),
      report('data race', [write, node], [read, node], ['Mutex M1 created at', lock, ours]),
      report('lock-order-inversion', ['Mutex M1 acquired here', lock, node, ours]),
      'noise\n',
    ])
      assert.deepEqual(reportsOf(text), [], text)
  })

  it('leave what a process says by itself', () => {
    const one = report('data race', [write, node], [read, node])
    const counted = 'ThreadSanitizer: reported 2 warnings\n'
    assert.equal(
      withoutReports(`trained\n${one}${one}Error: ours\n${counted}`),
      'trained\nError: ours\n',
    )
    assert.equal(withoutReports('===\nfine\n===\n'), '===\nfine\n===\n')
  })
})
