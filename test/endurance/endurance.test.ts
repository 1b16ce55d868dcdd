import assert from 'node:assert/strict'
import { execFile } from 'node:child_process'
import { loadavg } from 'node:os'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'

/** `npm run test:endurance` takes the numbers of steps that count; `npm test` a slice, with bounds to match. */
const full = process.env.POLYLORA_FULL === '1'
const child = fileURLToPath(new URL('./child.mjs', import.meta.url))

interface Sample {
  step: number
  resident: number
  heap: number
  device: number
  files: number
  handles: number
}

async function measure(steps: number, size: 'tiny' | 'demo') {
  const args = ['--expose-gc', child, String(steps), size]
  const { stdout } = await promisify(execFile)(process.execPath, args)
  const result = JSON.parse(stdout) as {
    delay: { p50: number; p99: number; max: number }
    samples: Sample[]
  }
  const [first, last] = [
    result.samples.find(({ step }) => step >= steps / 10)!,
    result.samples.at(-1)!,
  ]
  const growth = last.resident / first.resident - 1
  // The inputs of the last batch's shape are kept and vary with it; a tensor lost at every step would come to more.
  const deviceGrowth = last.device / first.device - 1
  if (full) {
    const mib = (bytes: number) => `${(bytes / 2 ** 20).toFixed(1)} MiB`
    const { p50, p99, max } = result.delay
    console.log(
      `      ${size}, steps ${first.step} and ${last.step}: resident ${mib(first.resident)} and ${mib(last.resident)} ` +
        `(${(100 * growth).toFixed(2)}%), device ${mib(first.device)} and ${mib(last.device)}, heap ${mib(first.heap)} ` +
        `and ${mib(last.heap)}, files ${first.files} and ${last.files}, handles ${first.handles} and ${last.handles}; ` +
        `event loop delay p50 ${p50.toFixed(2)} ms, p99 ${p99.toFixed(2)} ms, max ${max.toFixed(1)} ms ` +
        `(load ${loadavg()[0].toFixed(1)})`,
    )
  }
  return { ...result, first, last, growth, deviceGrowth }
}

describe('endurance', function () {
  this.timeout(full ? 3 * 3600_000 : 180_000)

  it('training neither grows nor leaves anything open', async () => {
    const { first, last, growth, deviceGrowth } = await measure(full ? 10_000 : 300, 'tiny')
    assert.ok(Math.abs(deviceGrowth) < 0.005, `device memory grew by ${100 * deviceGrowth}%`)
    assert.equal(last.files, first.files)
    assert.equal(last.handles, first.handles)
    // A few hundred steps are too few for V8 to settle.
    assert.ok(growth < (full ? 0.02 : 0.1), `resident memory grew by ${100 * growth}%`)
  })

  it('the event loop is free while the demo trains, and memory stays', async function () {
    if (!full) {
      console.log(
        '      skipped: npm run test:endurance does this, on a machine with nothing else to do',
      )
      this.skip()
    }
    const { delay, growth, deviceGrowth } = await measure(2000, 'demo')
    assert.ok(Math.abs(deviceGrowth) < 0.005, `device memory grew by ${100 * deviceGrowth}%`)
    assert.ok(growth < 0.02, `resident memory grew by ${100 * growth}%`)
    assert.ok(delay.p99 < 10, `the event loop's p99 is ${delay.p99} ms`)
  })
})
