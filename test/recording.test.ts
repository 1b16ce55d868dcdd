import assert from 'node:assert/strict'
import { it } from 'mocha'
import type { Device } from '../lib/device.js'
import { ArgumentError, DisposedError, OutOfMemoryError } from '../lib/errors.js'
import { Repeated } from '../lib/repeated.js'
import { scope } from '../lib/scope.js'
import { Tensor } from '../lib/tensor.js'
import { assertSameBits } from './compare.js'
import { forEachDevice } from './devices.js'
import { Random } from './random.js'

const shape = [37, 41]
const size = shape[0] * shape[1]

/** y = softmax(x + softmax(x)) by way of tensors that end with it. */
function compute(x: Tensor, y: Tensor): void {
  const { device } = x
  scope(() => {
    const [first, sum] = [Tensor.empty(device, shape), Tensor.empty(device, shape)]
    device.run('softmax', { x: x.native, scale: 1, y: first.native })
    const terms = { a: x.native, b: first.native, alpha: 1, beta: 1 }
    device.run('add', { ...terms, y: sum.native })
    device.run('softmax', { x: sum.native, scale: 1, y: y.native })
  })
}

/** A device's x and y for `compute`, and what it gives when nothing is recorded. */
function setUp(device: Device) {
  const x = Tensor.empty(device, shape)
  const y = Tensor.zeros(device, shape)
  const plain = async (values: Float32Array) => {
    x.write(values)
    compute(x, y)
    return y.readFloats()
  }
  const dispose = () => {
    x.release()
    y.release()
  }
  return { x, y, plain, [Symbol.dispose]: dispose }
}

forEachDevice('Device.record', (context) => {
  const random = new Random(41)
  const draw = () => random.normal(size)

  it('queues nothing, and each replay gives the bits of what it stands for', async () => {
    const { device } = context
    using ends = setUp(device)
    const { x, y, plain } = ends
    using recording = device.record(() => {
      compute(x, y)
    })!
    assert.deepEqual(await y.readFloats(), new Float32Array(size))
    const before = device.info.replays
    for (let i = 0; i < 3; i++) {
      const values = draw()
      const expected = await plain(values)
      x.write(values)
      y.fill(0)
      recording.replay()
      assertSameBits(await y.readFloats(), expected)
    }
    assert.equal(device.info.replays - before, 3)
    if (device.kind.startsWith('cuda')) assert.ok(device.info.graphReplays >= 3)
  })

  it('launches one by one what does not go into a graph', async function () {
    const { device } = context
    if (device.kind !== 'cuda-emulated') {
      this.test!.title += ' (skipped: only the emulator can be told what does not)'
      return this.skip()
    }
    using ends = setUp(device)
    const { x, y, plain } = ends
    const values = draw()
    const expected = await plain(values)
    process.env.POLYLORA_EMULATOR_UNCAPTURED = 'add'
    try {
      const { replays, graphReplays } = device.info
      using recording = device.record(() => {
        compute(x, y)
      })!
      for (let i = 0; i < 2; i++) {
        y.fill(0)
        recording.replay()
        assertSameBits(await y.readFloats(), expected)
      }
      assert.deepEqual(
        [device.info.replays - replays, device.info.graphReplays - graphReplays],
        [2, 0],
      )
    } finally {
      delete process.env.POLYLORA_EMULATOR_UNCAPTURED
    }
  })

  it('times the operations of a replay when it is asked to', async () => {
    const { device } = context
    using ends = setUp(device)
    using recording = device.record(() => {
      compute(ends.x, ends.y)
    })!
    await device.synchronize()
    device.profile(true)
    ends.x.fill(1)
    recording.replay()
    await device.synchronize()
    const counts = device.profile(false).map(({ operation, count }) => `${operation} ${count}`)
    assert.deepEqual(counts.sort(), ['add 1', 'fill 1', 'softmax 2'])
  })

  it('has memory of its own, which nothing made later shares', async () => {
    const { device } = context
    using ends = setUp(device)
    const { x, y, plain } = ends
    const values = draw()
    const expected = await plain(values)
    const { memoryUsed } = device.info
    using recording = device.record(() => {
      compute(x, y)
    })!
    assert.equal(device.info.memoryUsed, memoryUsed)
    const others = Array.from({ length: 20 }, (_, i) => Tensor.full(device, shape, i))
    x.write(values)
    recording.replay()
    assertSameBits(await y.readFloats(), expected)
    for (const [i, other] of others.entries()) {
      assert.deepEqual(await other.readFloats(), new Float32Array(size).fill(i))
      other.release()
    }
  })

  it('keeps alive what it reads and writes', async () => {
    const { device } = context
    const values = draw()
    const x = Tensor.empty(device, shape)
    const y = Tensor.empty(device, shape)
    const seen = y.view(shape)
    const recording = device.record(() => {
      compute(x, y)
    })!
    x.write(values)
    compute(x, y)
    const expected = await seen.readFloats()
    x.release()
    y.release()
    const others = Array.from({ length: 20 }, () => Tensor.full(device, shape, NaN))
    seen.fill(0)
    recording.replay()
    assertSameBits(await seen.readFloats(), expected)
    recording.dispose()
    for (const tensor of [seen, ...others]) tensor.release()
  })

  it('is null where the body writes or reads, or recordings are off', async () => {
    const { device } = context
    using ends = setUp(device)
    const { x, y, plain } = ends
    const values = draw()
    const expected = await plain(values)
    y.fill(0)
    const write = device.record(() => {
      x.write(values)
      compute(x, y)
    })
    const read = device.record(() => {
      compute(x, y)
      y.readFloats().catch(() => undefined)
    })
    const wait = device.record(() => {
      device.synchronize().catch(() => undefined)
    })
    assert.deepEqual([write, read, wait], [null, null, null])
    assert.deepEqual(await y.readFloats(), new Float32Array(size), 'nothing was queued')
    assertSameBits(await plain(values), expected)
    const off = context.open({ recordings: false })
    using other = setUp(off)
    const body = () => {
      compute(other.x, other.y)
    }
    assert.equal(off.record(body), null)
    await off.close()
  })

  it('refuses a tensor that outlives it, a recording in it, and what the body throws', async () => {
    const { device } = context
    using ends = setUp(device)
    const { x, y, plain } = ends
    const kept: Tensor[] = []
    const outliving = () =>
      device.record(() => {
        kept.push(Tensor.full(device, [5], 1))
      })
    assert.throws(outliving, (error: Error) => {
      assert.ok(error instanceof ArgumentError)
      assert.match(error.message, /allocated while recording are in use at its end/)
      return true
    })
    for (const tensor of kept) tensor.release()
    const nested = () =>
      device.record(() => {
        device.record(() => undefined)
      })
    assert.throws(nested, ArgumentError)
    const own = new Error('of the body')
    const throwing = () =>
      device.record(() => {
        compute(x, y)
        throw own
      })
    assert.throws(throwing, own)
    const values = draw()
    const expected = await plain(values)
    using recording = device.record(() => {
      compute(x, y)
    })!
    recording.replay()
    assertSameBits(await y.readFloats(), expected)
  })

  it('fits into the budget or throws', async () => {
    const device = context.open({ memoryBudget: 40 << 20 })
    using x = Tensor.full(device, [1 << 20], 1)
    const body = () => {
      scope(() => void Tensor.full(device, [20 << 20], 2))
    }
    assert.throws(() => device.record(body), OutOfMemoryError)
    const within = () => {
      scope(() => void x.copyFrom(Tensor.full(device, [1 << 20], 3)))
    }
    const recording = device.record(within)!
    recording.replay()
    assert.equal((await x.readFloats())[77], 3)
    const whole = () => void Tensor.full(device, [27 << 18], 4).release()
    assert.throws(whole, OutOfMemoryError, 'its memory is its own')
    recording.dispose()
    whole()
    await device.close()
  })

  it('ends when it is disposed of, and with its device', async () => {
    const device = context.open()
    using ends = setUp(device)
    const { x, y, plain } = ends
    const values = draw()
    const expected = await plain(values)
    y.fill(0)
    const record = () =>
      device.record(() => {
        compute(x, y)
      })!
    const recording = record()
    recording.replay()
    recording.dispose()
    recording.dispose()
    assertSameBits(await y.readFloats(), expected, 'what was queued still runs')
    assert.throws(() => {
      recording.replay()
    }, DisposedError)
    const other = record()
    other.replay()
    await device.close()
    assert.throws(() => {
      other.replay()
    }, DisposedError)
    other.dispose()
  })
})

forEachDevice('Repeated', (context) => {
  it('replays from the second time on, and runs as usual what cannot be recorded', async () => {
    const { device } = context
    using x = Tensor.full(device, [3], 1)
    const double = { a: x.native, b: x.native, alpha: 1, beta: 1, y: x.native }
    let runs = 0
    const work = new Repeated(device, () => {
      runs++
      device.run('add', double)
    })
    const { replays } = device.info
    for (let i = 0; i < 5; i++) work.run()
    assert.deepEqual(await x.readFloats(), new Float32Array(3).fill(32))
    assert.deepEqual([runs, device.info.replays - replays], [2, 4])
    work.dispose()
    const writing = new Repeated(device, () => {
      runs++
      x.write(Float32Array.of(runs, 0, 0))
    })
    for (let i = 0; i < 3; i++) writing.run()
    assert.equal(runs, 2 + 4, 'once more for the attempt to record')
    assert.equal((await x.readFloats())[0], 6)
    writing.dispose()
  })
})
