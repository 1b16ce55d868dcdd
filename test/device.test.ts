import assert from 'node:assert/strict'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { Worker } from 'node:worker_threads'
import { describe, it } from 'mocha'
import { backends, Device, openDevice } from '../lib/device.js'
import { ArgumentError, DeviceError, DisposedError, OutOfMemoryError } from '../lib/errors.js'
import { loadNative } from '../lib/native.js'
import { Tensor } from '../lib/tensor.js'
import { Weight } from '../lib/weight.js'
import { deviceVariants } from './devices.js'

const root = fileURLToPath(new URL('..', import.meta.url))
const MiB = 2 ** 20

/** Runs a program that imports the library, and returns how it ended. */
async function runProgram(code: string) {
  const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', code], {
    cwd: root,
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let output = ''
  let errors = ''
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (errors += text))
  const [exitCode, signal] = (await once(child, 'close')) as [number | null, string | null]
  return { exitCode, signal, output, errors }
}

const prelude = `
  import { Device } from './lib/device.ts'
  import { Tensor } from './lib/tensor.ts'
  const device = Device.open('cpu', { threads: 2 })
  const x = Tensor.full(device, [1024, 1024], 1)
  const y = Tensor.empty(device, [1024, 1024])
  const work = (times) => {
    for (let i = 0; i < times; ++i)
      device.run('matmul', { layout: 'nt', segments: [{ x: x.native, w: x.native }], y: y.native })
  }
`

/** Queues products that take some time altogether. */
function queueWork(device: Device, x: Tensor, y: Tensor, times: number): void {
  for (let i = 0; i < times; ++i)
    device.run('matmul', {
      layout: 'nt',
      segments: [{ x: x.native, w: x.native }],
      y: y.native,
    })
}

describe('device', () => {
  it('times operations while asked to, from nothing each time', async () => {
    await using device = Device.open('cpu', { threads: 1 })
    using x = Tensor.full(device, [200, 200], 1)
    using y = Tensor.empty(device, [200, 200])
    queueWork(device, x, y, 2)
    await device.synchronize()
    assert.deepEqual(device.profile(true), [], 'it is off at first')
    const started = performance.now()
    queueWork(device, x, y, 3)
    await device.synchronize()
    const elapsed = (performance.now() - started) / 1000
    const [only, ...others] = device.profile(false)
    assert.deepEqual(others, [])
    assert.equal(only.operation, 'matmul')
    assert.equal(only.count, 3)
    assert.ok(only.seconds > 0 && only.seconds <= elapsed, `${only.seconds} s of ${elapsed} s`)
    queueWork(device, x, y, 1)
    await device.synchronize()
    assert.deepEqual(device.profile(true), [only], 'what ran while it was off is not there')
    await device.synchronize()
    assert.deepEqual(device.profile(false), [])
  })

  it('says where each backend is, or why it is not there', () => {
    const all = backends()
    const cpu = all.find(({ kind }) => kind === 'cpu')
    assert.ok(cpu?.file?.endsWith('.node') === true)
    assert.equal(cpu?.reason, null)
    for (const { file, reason } of all) assert.equal(file === null, reason !== null)
  })

  it('describes itself', async () => {
    const device = openDevice('cpu', { threads: 3, memoryBudget: 64 * MiB })
    const { info } = device
    assert.equal(info.kind, 'cpu')
    assert.ok(info.name.length > 0)
    assert.equal(info.threads, 3)
    assert.equal(info.memoryBudget, 64 * MiB)
    assert.equal(info.memoryUsed, 0)
    assert.ok(['portable', 'avx2', 'avx512', 'avx512-bf16'].includes(info.instructionSet))
    await device.close()
    const defaults = Device.open()
    assert.ok(defaults.info.threads >= 1)
    assert.ok(defaults.info.memoryBudget > 256 * MiB)
    await defaults.close()
  })

  it('refuses options by name', () => {
    const bad: [unknown, RegExp][] = [
      [{ threads: 0 }, /threads is 0, must be an integer from 1 to 1024/],
      [{ threads: 1.5 }, /threads is 1.5/],
      [{ threads: '2' }, /threads is "2"/],
      [{ threads: 1025 }, /threads is 1025/],
      [{ instructionSet: 'avx1024' }, /avx1024/],
      [{ instructionSet: 'avx512-bf16-and-more' }, /instructionSet is/],
      [{ instructionSet: '' }, /instructionSet is/],
      [{ instructionSet: 'avx2\0' }, /instructionSet is/],
      [{ memoryBudget: 0 }, /memoryBudget is 0/],
      [{ memoryBudget: -1 }, /memoryBudget is -1/],
      [{ memoryBudget: NaN }, /memoryBudget is NaN|memoryBudget is nan/],
      [{ recordings: 'no' }, /recordings is "no"/],
      [{ index: 1 }, /index is 1; there is one CPU device/],
      [{ thread: 2 }, /no field "thread"; allowed are index, threads/],
      [7, /options is 7/],
    ]
    for (const [options, message] of bad)
      assert.throws(
        () => Device.open('cpu', options as object),
        (error) => error instanceof ArgumentError && message.test(error.message),
      )
    assert.throws(() => Device.open('gpu'), /no device kind "gpu"; known are cpu/)
    assert.throws(() => Device.open('cuda'), DeviceError)
  })

  const cuda = deviceVariants().find(({ kind }) => kind.startsWith('cuda'))
  if (cuda === undefined)
    it('(skipped: no CUDA device is there, and the emulated one was not built)')
  else
    it(`holds a ${cuda.kind} device to the first tier, and to nothing that it is not`, async () => {
      const device = Device.open(cuda.kind, { instructionSet: 'sm_80' })
      assert.equal(device.info.instructionSet, 'sm_80')
      await device.close()
      for (const instructionSet of ['sm_75', 'avx2'])
        assert.throws(
          () => Device.open(cuda.kind, { instructionSet }),
          (error) =>
            error instanceof ArgumentError &&
            error.message.includes(`instructionSet is ${instructionSet}, allowed on`),
        )
    })

  it('keeps within its budget, and says what was needed', async () => {
    const device = Device.open('cpu', { threads: 1, memoryBudget: 16 * MiB })
    const held = Tensor.empty(device, [3 * MiB])
    assert.throws(
      () => Tensor.empty(device, [2 * MiB]),
      (error) =>
        error instanceof OutOfMemoryError &&
        /8\.0 MiB .*needed.*budget of 16\.0 MiB, 12\.0 MiB are in use/.test(error.message),
    )
    assert.throws(() => Weight.create(device, { rows: 4096, columns: 4096 }), OutOfMemoryError)
    // Scratch counts too: the operation is not queued.
    held.release()
    // What is cached makes way for what is needed now.
    const again = Tensor.empty(device, [4 * MiB])
    again.release()
    for (let i = 0; i < 40; ++i) Tensor.zeros(device, [MiB / 8 + i * 4096]).release()
    await device.synchronize()
    assert.equal(device.info.memoryUsed, 0)
    assert.ok(device.info.memoryReserved <= 16 * MiB)
    assert.equal(device.info.memoryPeak, 16 * MiB)
    await device.close()
  })

  it('counts the copies that wait in the queue', async () => {
    const device = Device.open('cpu', { threads: 1, memoryBudget: 64 * MiB })
    const x = Tensor.zeros(device, [1024, 1024])
    const y = Tensor.zeros(device, [1024, 1024])
    const target = Tensor.empty(device, [2 * MiB])
    const data = new Float32Array(2 * MiB).fill(7)
    queueWork(device, x, y, 8)
    let refused = 0
    for (let i = 0; i < 20; ++i)
      try {
        target.write(data)
      } catch (error) {
        assert.ok(error instanceof OutOfMemoryError)
        ++refused
      }
    assert.ok(refused > 0)
    assert.deepEqual(new Set(await target.read()), new Set([7]))
    await device.close()
  })

  it('frees what the garbage collector finds', async function () {
    const collect = (globalThis as { gc?: () => void }).gc
    if (collect === undefined) {
      console.log('      skipped: Node runs without --expose-gc')
      this.skip()
    }
    const device = Device.open('cpu', { threads: 1 })
    const forget = () => {
      for (let i = 0; i < 100; ++i) Tensor.zeros(device, [1000]).view([10, 100])
      Weight.create(device, { rows: 64, columns: 64 })
    }
    forget()
    assert.ok(device.info.memoryUsed >= 100 * 4000)
    for (let i = 0; i < 50 && device.info.memoryUsed > 0; ++i) {
      collect()
      await sleep(5)
    }
    assert.equal(device.info.memoryUsed, 0)
    await device.close()
  })

  it('closes devices that the garbage collector finds', async function () {
    const collect = (globalThis as { gc?: () => void }).gc
    if (collect === undefined) {
      console.log('      skipped: Node runs without --expose-gc')
      this.skip()
    }
    const held = loadNative().heldBytes()
    const threads = () =>
      Number(/Threads:\s+(\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))![1])
    const before = threads()
    const forget = () => {
      for (let i = 0; i < 4; ++i) {
        const device = Device.open('cpu', { threads: 4 })
        const x = Tensor.zeros(device, [512, 512])
        queueWork(device, x, x.clone(), 5)
      }
    }
    forget()
    assert.ok(threads() > before)
    for (let i = 0; i < 200 && threads() > before; ++i) {
      collect()
      await sleep(10)
    }
    assert.ok(threads() <= before, `${String(threads())} threads, ${String(before)} before`)
    assert.ok(loadNative().heldBytes() <= held)
  })

  it('lets V8 know what forgotten tensors hold', async () => {
    const device = Device.open('cpu', { threads: 1, memoryBudget: 8192 * MiB })
    for (let i = 0; i < 256; ++i) {
      Tensor.empty(device, [4 * MiB])
      await sleep(0)
    }
    // 4 GiB, were nothing collected.
    assert.ok(device.info.memoryUsed < 2048 * MiB, String(device.info.memoryUsed))
    await device.close()
  })

  it('keeps the first failure, skips what follows, and works again when reopened', async () => {
    const device = Device.open('cpu', { threads: 2 })
    const source = Tensor.full(device, [4, 2], 5)
    const indices = Tensor.from(device, Int32Array.of(0, 99))
    const y = Tensor.full(device, [2, 2], 1)
    const untouched = Tensor.full(device, [3], 1)
    const early = untouched.read()
    device.run('gather_rows', { source: source.native, indices: indices.native, y: y.native })
    untouched.fill(2)
    const late = untouched.read()
    indices.write(Int32Array.of(0, -1))
    device.run('gather_rows', { source: source.native, indices: indices.native, y: y.native })
    const synchronized = device.synchronize()
    assert.deepEqual(await early, new Float32Array(3).fill(1))
    const isFirst = (error: unknown) =>
      error instanceof DeviceError && /gather_rows/.test(error.message) && /99/.test(error.message)
    await assert.rejects(late, isFirst)
    await assert.rejects(synchronized, isFirst)
    await assert.rejects(device.synchronize(), isFirst)
    await assert.rejects(y.read(), isFirst)
    // Memory is still managed.
    y.release()
    device.trim()
    await device.close()
    const again = Device.open('cpu', { threads: 2 })
    assert.deepEqual(await Tensor.full(again, [2], 3).read(), Float32Array.of(3, 3))
    await again.close()
  })

  it('drops what is queued when it closes', async () => {
    const device = Device.open('cpu', { threads: 2 })
    const x = Tensor.full(device, [1024, 1024], 1)
    const y = Tensor.empty(device, [1024, 1024])
    queueWork(device, x, y, 4000)
    const reading = assert.rejects(y.read(), /closed/)
    const waiting = assert.rejects(device.synchronize(), /closed/)
    const start = performance.now()
    const closing = device.close()
    assert.equal(device.close(), closing)
    assert.ok(device.isClosed)
    await closing
    // 4000 products of 1024³ take more than ten seconds on any machine with few threads.
    assert.ok(performance.now() - start < 5000)
    await reading
    await waiting
    assert.throws(() => device.info, DisposedError)
    assert.throws(() => x.fill(1), DisposedError)
    assert.throws(() => Tensor.empty(device, [1]), DisposedError)
    assert.throws(() => y.view([-1]), DisposedError)
    x.release()
    y.release()
  })

  it('runs operations in order, whatever is released meanwhile', async () => {
    const device = Device.open('cpu', { threads: 2 })
    const sum = Tensor.zeros(device, [1000])
    let expected = 0
    for (let i = 1; i <= 500; ++i) {
      // Each of these takes the memory of the one before.
      const term = Tensor.full(device, [1000], i)
      device.run('add', {
        a: sum.native,
        b: term.native,
        alpha: 1,
        beta: 1,
        y: sum.native,
      })
      term.release()
      expected += i
    }
    assert.deepEqual(new Set(await sum.read()), new Set([expected]))
    assert.ok(device.info.memoryUsed <= 4096)
    await device.close()
  })

  it('bounds its queue', async function () {
    this.timeout(60_000)
    const device = Device.open('cpu', { threads: 1 })
    const x = Tensor.full(device, [1024, 1024], 1)
    const y = Tensor.empty(device, [1024, 1024])
    queueWork(device, x, y, 300)
    const small = Tensor.empty(device, [1])
    const args = { y: small.native, value: 1 }
    let queued = 0
    assert.throws(
      () => {
        for (; queued < 2 ** 22; ++queued) device.run('fill', args)
      },
      (error) => error instanceof DeviceError && /queue is full/.test(error.message),
    )
    assert.ok(device.info.queueDepth >= 2 ** 18)
    assert.throws(() => small.write(Float32Array.of(1)), /queue is full/)
    await assert.rejects(small.read(), /queue is full/)
    small.release()
    await device.close()
  })

  it('leaves the event loop free while it works', async () => {
    const device = Device.open('cpu', { threads: 1 })
    const x = Tensor.full(device, [1024, 1024], 1)
    const y = Tensor.empty(device, [1024, 1024])
    queueWork(device, x, y, 20)
    const delays = monitorEventLoopDelay({ resolution: 1 })
    let turns = 0
    const timer = setInterval(() => ++turns, 1)
    delays.enable()
    const start = performance.now()
    await y.read()
    const took = performance.now() - start
    delays.disable()
    clearInterval(timer)
    await device.close()
    // One product of 20 takes longer than the median turn of the loop.
    assert.ok(turns > 10, `${String(turns)} turns in ${took.toFixed(0)} ms`)
    assert.ok(delays.percentile(50) / 1e6 < Math.max(took / 20, 5))
  })
})

describe('process', function () {
  this.timeout(60_000)

  it('exits while a device is open and idle', async () => {
    const result = await runProgram(`${prelude}
      work(2)
      await device.synchronize()
      console.log('end')`)
    assert.deepEqual([result.exitCode, result.output], [0, 'end\n'], result.errors)
  })

  it('exits with work queued that nobody waits for', async () => {
    const result = await runProgram(`${prelude}
      work(5000)
      console.log('end')`)
    assert.deepEqual([result.exitCode, result.output], [0, 'end\n'], result.errors)
  })

  it('stays alive for a read', async () => {
    const result = await runProgram(`${prelude}
      work(3)
      y.read().then((values) => console.log(values[0], values.length))`)
    assert.deepEqual([result.exitCode, result.output], [0, '1024 1048576\n'], result.errors)
  })

  it('can exit in the middle of work', async () => {
    for (const delay of [0, 1, 30, 100]) {
      const result = await runProgram(`${prelude}
        work(5000)
        y.read().catch(() => {})
        device.synchronize().catch(() => {})
        ${delay === 0 ? 'process.exit(3)' : `setTimeout(() => process.exit(3), ${String(delay)})`}`)
      assert.deepEqual([result.exitCode, result.signal], [3, null], result.errors)
      assert.equal(result.errors, '')
    }
  })

  it('can exit while a device closes, and while a file is written', async () => {
    const closing = await runProgram(`${prelude}
      work(500)
      device.close()
      process.exit(4)`)
    assert.deepEqual([closing.exitCode, closing.errors], [4, ''])
    const writing = await runProgram(`${prelude}
      import { writeSafetensors } from './lib/safetensors.ts'
      import { mkdtempSync, readdirSync, rmSync } from 'node:fs'
      import { tmpdir } from 'node:os'
      const folder = mkdtempSync(tmpdir() + '/polylora-test-')
      process.on('exit', () => rmSync(folder, { recursive: true }))
      work(500)
      writeSafetensors(folder + '/a', [], [{ name: 'y', source: y }]).catch(() => {})
      setTimeout(() => process.exit(5), 50)`)
    assert.deepEqual([writing.exitCode, writing.errors], [5, ''])
  })

  it('dies of an uncaught error as usual', async () => {
    const result = await runProgram(`${prelude}
      work(500)
      throw new Error('on purpose')`)
    assert.equal(result.exitCode, 1)
    assert.match(result.errors, /on purpose/)
  })

  it('gives trimmed memory back to the system, in the order of the queue', async () => {
    // Alone in a process, so that nothing else moves its resident size.
    const result = await runProgram(`${prelude}
      import { readFileSync } from 'node:fs'
      import { scope } from './lib/scope.ts'
      const resident = () =>
        Number(/VmRSS:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024
      const before = resident()
      const big = Tensor.full(device, [48 * 2 ** 20], 1)
      await device.synchronize()
      const grown = resident() - before
      // Still in use by what is queued when it is given back.
      const last = scope(() => {
        work(20)
        const rows = big.slice(0, 0, 2 ** 20).view([1024, 1024])
        device.run('copy', { x: rows.native, y: y.native })
        return big.slice(0, 48 * 2 ** 20 - 1, 48 * 2 ** 20)
      })
      const value = last.read()
      const usedBefore = device.info.memoryUsed
      last.release()
      big.release()
      const freed = usedBefore - device.info.memoryUsed
      const reserved = device.info.memoryReserved
      device.trim()
      const trimmed = reserved - device.info.memoryReserved
      const values = [(await value)[0], (await y.read())[7]]
      await device.synchronize()
      console.log(JSON.stringify({ grown, freed, trimmed, values, left: resident() - before }))`)
    assert.equal(result.errors, '')
    const { grown, freed, trimmed, values, left } = JSON.parse(result.output) as Record<
      'grown' | 'freed' | 'trimmed' | 'left',
      number
    > & { values: number[] }
    assert.deepEqual([freed, trimmed, values], [192 * MiB, 192 * MiB, [1, 1]])
    // Node's own heap moves by some megabytes.
    assert.ok(grown > 170 && left < 40, result.output)
  })
})

describe('worker threads', function () {
  this.timeout(60_000)

  const addon = backends().find(({ kind }) => kind === 'cpu')!.file!
  const start = (body: string) =>
    new Worker(
      `const { parentPort } = require('node:worker_threads')
       const native = require(${JSON.stringify(addon)})
       const device = native.openDevice('cpu', { threads: 2 })
       const x = native.allocate(device, 'f32', [512, 512])
       const y = native.allocate(device, 'f32', [512, 512])
       native.run(device, 'fill', { y: x, value: 1 })
       const work = (times) => {
         for (let i = 0; i < times; ++i)
           native.run(device, 'matmul', { layout: 'nt', segments: [{ x, w: x }], y })
       }
       ${body}`,
      { eval: true },
    )

  it('can each load the addon', async () => {
    const workers = Array.from({ length: 3 }, () =>
      start(`work(2)
        native.readTensor(y).then((buffer) => {
          parentPort.postMessage(new Float32Array(buffer)[5])
        })`),
    )
    const results = await Promise.all(
      workers.map(async (worker) => {
        const exit = once(worker, 'exit')
        const [value] = (await once(worker, 'message')) as [number]
        const [code] = (await exit) as [number]
        return [value, code]
      }),
    )
    assert.deepEqual(results, Array(3).fill([512, 0]))
  })

  it('can be terminated while they work, and leave no bytes behind', async () => {
    const held = loadNative().heldBytes()
    for (let round = 0; round < 6; ++round) {
      const worker = start(`work(20000)
        native.readTensor(y).catch(() => {})
        native.synchronize(device).catch(() => {})
        parentPort.postMessage('started')
        ${round % 2 === 0 ? '' : 'for (;;) work(1)'}`)
      worker.on('error', () => undefined)
      await once(worker, 'message')
      if (round > 1) await sleep(10 * round)
      await worker.terminate()
      assert.ok(loadNative().heldBytes() <= held)
    }
    // This thread's devices are none the wiser.
    const device = Device.open('cpu', { threads: 1 })
    assert.deepEqual(await Tensor.full(device, [2], 1).read(), Float32Array.of(1, 1))
    await device.close()
  })

  it('can be terminated while a device closes', async () => {
    const worker = start(`work(2000)
      native.closeDevice(device)
      parentPort.postMessage('closing')`)
    await once(worker, 'message')
    await worker.terminate()
  })
})
