import assert from 'node:assert/strict'
import { Writable } from 'node:stream'
import { formatBytes, formatDuration, Progress } from '../../lib/cli/progress.js'

class Capture extends Writable {
  text = ''
  columns = 100
  readonly isTTY: boolean

  constructor(isTTY: boolean) {
    super()
    this.isTTY = isTTY
  }

  override _write(chunk: Buffer, _encoding: string, done: () => void): void {
    this.text += chunk.toString()
    done()
  }

  // What a terminal has and cli-progress asks for.
  cursorTo(): void {
    this.text += '\r'
  }

  clearLine(): void {}
}

describe('progress', () => {
  it('is plain lines where there is no terminal, at most one an interval, and the last', () => {
    const stream = new Capture(false)
    let time = 0
    const progress = new Progress('step', { stream: stream, now: () => time })
    for (let step = 11; step <= 20; step++) {
      progress.update(step, 20, [`loss ${(30 / step).toFixed(2)}`, '100 tokens/s'])
      time += 400
    }
    progress.message('saved')
    progress.stop()
    assert.deepEqual(stream.text.split('\n'), [
      'step 11/20, loss 2.73, 100 tokens/s',
      'step 14/20, loss 2.14, 100 tokens/s, 2 s left',
      'step 17/20, loss 1.76, 100 tokens/s, 1 s left',
      'step 20/20, loss 1.50, 100 tokens/s',
      'saved',
      '',
    ])
  })

  it('is a bar on a terminal, with messages above it', () => {
    const stream = new Capture(true)
    let time = 0
    const progress = new Progress('step', { stream: stream, now: () => time })
    progress.message('before')
    progress.update(1, 4, ['loss 2.5'])
    time = 60_000
    progress.update(2, 4, ['loss 1.5'])
    progress.message('above')
    progress.update(4, 4, ['loss 1.25'])
    progress.stop()
    progress.stop()
    assert.ok(stream.text.startsWith('before\n'))
    assert.match(stream.text, /step .* 1\/4, loss 2\.5/)
    assert.match(stream.text, /above\n/)
    assert.match(stream.text, /2\/4, loss 1\.5, 2 min 0 s left/)
    assert.match(stream.text, /4\/4, loss 1\.25/)
    assert.doesNotMatch(stream.text, /undefined|NaN|Infinity/)
  })

  it('formats durations and bytes', () => {
    assert.deepEqual([0.4, 59.6, 185, 7640].map(formatDuration), [
      '0 s',
      '1 min 0 s',
      '3 min 5 s',
      '2 h 7 min',
    ])
    assert.deepEqual([12, 1536, 24 * 2 ** 30].map(formatBytes), ['12 B', '1.5 KiB', '24.0 GiB'])
  })
})
