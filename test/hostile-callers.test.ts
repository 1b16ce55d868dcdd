import assert from 'node:assert/strict'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { after, before, describe, it } from 'mocha'
import { ArgumentError, FormatError, ShapeError } from '../lib/errors.js'
import { loadNative, type NativeDevice } from '../lib/native.js'
import { callParts } from './fuzz/calls.js'
import { operationParts } from './fuzz/operations.js'
import { Random } from './random.js'

// A slice of npm run test:fuzz, in this process; what it found is below.
describe('hostile callers', function () {
  this.timeout(180_000)
  const native = loadNative()
  const loose = native as unknown as Record<string, (...args: unknown[]) => unknown>
  const started = process.cwd()
  let folder: string
  let device: NativeDevice

  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'polylora-hostile-'))
    // Some hostile strings are good paths: what they write stays within the folder, '../a' too.
    mkdirSync(join(folder, 'here'))
    process.chdir(join(folder, 'here'))
    device = native.openDevice('cpu', { threads: 1, memoryBudget: 1 << 24 })
  })

  after(async () => {
    await native.closeDevice(device)
    process.chdir(started)
    rmSync(folder, { recursive: true, force: true })
  })

  for (const [title, parts] of [
    ['get typed errors from every export', callParts],
    ['get typed errors from every operation, or from its stream', operationParts],
  ] as const)
    it(title, async () => {
      for (const [index, part] of parts().entries())
        await part.run({
          index,
          random: new Random(300 + index),
          folder,
          note: () => undefined,
          slowness: 1,
          calls: 40,
        })
    })

  it('cannot make a weight whose size overflows', () => {
    // 2^62 elements of 4 bytes are 0 bytes modulo 2^64.
    const huge = { rows: 2 ** 31, columns: 2 ** 31, storage: 'f32', compute: 'f32' } as const
    assert.throws(() => native.createWeight(device, huge), ShapeError)
    assert.equal(native.describeDevice(device).memoryUsed, 0)
  })

  it('cannot have more keys enumerated than V8 can hold', () => {
    const text: unknown = new String('x'.repeat(2 ** 28))
    const bytes = Object.assign(new Uint8Array(2 ** 28), {
      y: native.allocate(device, 'f32', [1]),
      value: 1,
    })
    for (const value of [text, bytes, new Proxy(bytes, {})]) {
      assert.throws(() => loose.openDevice('cpu', value), /options has no field "0"/)
      assert.throws(() => loose.createWeight(device, value), /options has no field "0"/)
    }
    assert.throws(() => native.run(device, 'fill', bytes), /fill has no field "0"/)
    native.disposeTensor(bytes.y)
  })

  it('get messages of a sentence, however long the names are that they give', async () => {
    const long = 'é'.repeat(1e6)
    for (const call of [() => loose.lockFile(long), () => loose.openSafetensors(long)])
      assert.throws(
        call,
        (error) => error instanceof ArgumentError && /1 to 4095 bytes/.test(error.message),
      )
    const path = join(folder, 'a.safetensors')
    await native.writeSafetensors(path, [], [])
    const file = await native.openSafetensors(path)
    const tensor = native.allocate(device, 'f32', [1])
    assert.throws(
      () => native.readSafetensors(file, long, tensor),
      (error) =>
        error instanceof FormatError &&
        error.message.length <= 1000 &&
        error.message.startsWith(path),
    )
    native.disposeTensor(tensor)
    native.closeSafetensors(file)
  })
})
