import assert from 'node:assert/strict'
import { after, before, describe, it } from 'mocha'
import {
  ArgumentError,
  DisposedError,
  DTypeError,
  OutOfMemoryError,
  ShapeError,
} from '../lib/errors.js'
import {
  loadNative,
  type NativeDevice,
  type NativeFile,
  type NativeLock,
  type NativeTensor,
  type NativeWeight,
} from '../lib/native.js'
import { temporaryFolder } from './temporary-folder.js'

// Everything here is called with what the types forbid.
type Loose = Record<string, (...args: unknown[]) => unknown>

describe('native border', () => {
  const native = loadNative()
  const loose = native as unknown as Loose
  const inFolder = temporaryFolder()
  let device: NativeDevice
  let other: NativeDevice
  let tensor: NativeTensor
  let weight: NativeWeight
  let file: NativeFile
  let lock: NativeLock

  before(async () => {
    device = native.openDevice('cpu', { threads: 2 })
    other = native.openDevice('cpu', { threads: 1 })
    tensor = native.allocate(device, 'f32', [2, 3])
    weight = native.createWeight(device, { rows: 2, columns: 3, storage: 'f32', compute: 'f32' })
    native.run(device, 'fill', { y: tensor, value: 1 })
    const path = inFolder('a.safetensors')
    await native.writeSafetensors(
      path,
      [],
      [{ name: 'a', dtype: 'f32', shape: [2, 3], source: tensor }],
    )
    file = await native.openSafetensors(path)
    lock = native.lockFile(inFolder('a.lock'))!
  })

  after(async () => {
    native.closeSafetensors(file)
    native.unlockFile(lock)
    await native.closeDevice(device)
    await native.closeDevice(other)
  })

  const thrownBy = (body: () => unknown): unknown => {
    try {
      body()
    } catch (error) {
      return error
    }
    return undefined
  }

  // Each function with good arguments, and which of them are handles.
  const calls = (): Record<string, { args: unknown[]; handles: number[] }> => ({
    closeDevice: { args: [device], handles: [0] },
    describeDevice: { args: [device], handles: [0] },
    synchronize: { args: [device], handles: [0] },
    trim: { args: [device], handles: [0] },
    allocate: { args: [device, 'f32', [1]], handles: [0] },
    view: { args: [tensor, 0, [1], [1]], handles: [0] },
    disposeTensor: { args: [tensor], handles: [0] },
    writeTensor: { args: [tensor, new Float32Array(6)], handles: [0] },
    readTensor: { args: [tensor], handles: [0] },
    createWeight: {
      args: [device, { rows: 1, columns: 1, storage: 'f32', compute: 'f32' }],
      handles: [0],
    },
    disposeWeight: { args: [weight], handles: [0] },
    run: { args: [device, 'fill', { y: tensor, value: 0 }], handles: [0] },
    safetensorsEntries: { args: [file], handles: [0] },
    readSafetensors: { args: [file, 'a', tensor], handles: [0, 2] },
    readSafetensorsWeight: { args: [file, 'a', weight, 0], handles: [0, 2] },
    closeSafetensors: { args: [file], handles: [0] },
    unlockFile: { args: [lock], handles: [0] },
  })

  const rubbish = (): [string, unknown][] => [
    ['undefined', undefined],
    ['null', null],
    ['a number', 7],
    ['a string', 'tensor'],
    ['a boolean', true],
    ['a BigInt', 7n],
    ['a symbol', Symbol('x')],
    ['an object', {}],
    ['an array', []],
    ['a function', () => undefined],
    ['a proxy of a tensor', new Proxy(tensor, {})],
    ['an heir of a tensor', Object.create(tensor)],
    ['a copy of a tensor', { ...tensor }],
    ['a device', device],
    ['a tensor', tensor],
    ['a weight', weight],
    ['a file', file],
    ['a lock', lock],
    ['a Map', new Map()],
    ['a Buffer', Buffer.alloc(64)],
  ]

  it('refuses everything but its own kind of handle', () => {
    for (const [name, { args, handles }] of Object.entries(calls()))
      for (const position of handles)
        for (const [what, value] of rubbish()) {
          if (value === args[position]) continue
          const error = thrownBy(() => loose[name](...args.with(position, value)))
          assert.ok(error instanceof ArgumentError, `${name}(${what}) threw ${String(error)}`)
          assert.match(error.message, /must be a/)
        }
  })

  it('refuses missing arguments', () => {
    for (const name of Object.keys(native)) {
      if (['backends', 'injectFileFault', 'heldBytes'].includes(name)) continue
      const error = thrownBy(() => loose[name]())
      assert.ok(error instanceof ArgumentError, `${name}() threw ${String(error)}`)
    }
  })

  it('reads sizes as exact integers from 0 to 2^53 - 1', () => {
    const bad = [
      NaN,
      -1,
      0.5,
      2 ** 53,
      Infinity,
      -Infinity,
      '3',
      3n,
      null,
      undefined,
      {},
      [3],
      -2e-300,
    ]
    for (const value of bad) {
      assert.throws(() => loose.allocate(device, 'f32', [2, value]), ArgumentError)
      assert.throws(() => loose.view(tensor, value, [1], [1]), ArgumentError)
      assert.throws(() => loose.view(tensor, 0, [value], [1]), ArgumentError)
      assert.throws(() => loose.view(tensor, 0, [1], [value]), ArgumentError)
      assert.throws(
        () =>
          loose.createWeight(device, { rows: value, columns: 1, storage: 'f32', compute: 'f32' }),
        ArgumentError,
      )
      assert.throws(
        () => loose.run(device, 'weight_read', { weight, rowBegin: value, y: tensor }),
        ArgumentError,
      )
      assert.throws(() => loose.readSafetensorsWeight(file, 'a', weight, value), ArgumentError)
    }
    assert.throws(() => loose.allocate(device, 'f32', [2 ** 30, 2 ** 30]), ShapeError)
    assert.throws(() => loose.allocate(device, 'f32', [2 ** 52, 1, 1]), ShapeError)
    assert.throws(() => loose.allocate(device, 'f32', [2 ** 50]), OutOfMemoryError)
    assert.throws(() => loose.allocate(device, 'f32', [1, 1, 1, 1, 1]), ShapeError)
    assert.throws(() => loose.allocate(device, 'f32', new Array(2 ** 32 - 1)), ShapeError)
    assert.throws(
      () =>
        loose.createWeight(device, {
          rows: 2 ** 40,
          columns: 2 ** 40,
          storage: 'f32',
          compute: 'f32',
        }),
      ShapeError,
    )
    assert.throws(() => loose.allocate(device, 'f64', [1]), ArgumentError)
    // A zero beside sizes that would overflow is an empty tensor.
    native.disposeTensor(native.allocate(device, 'f32', [2 ** 52, 0, 2 ** 52]))
  })

  it('refuses views that leave their storage', () => {
    const good: [number, number[], number[]][] = [
      [0, [6], [1]],
      [0, [3, 2], [1, 3]],
      [5, [1], [2 ** 52]],
      [6, [0], [1]],
      [0, [100, 1], [0, 1]],
      [3, [], []],
    ]
    for (const [offset, shape, strides] of good)
      native.disposeTensor(native.view(tensor, offset, shape, strides))
    const bad: [number, number[], number[]][] = [
      [0, [7], [1]],
      [1, [6], [1]],
      [6, [1], [1]],
      [7, [0], [1]],
      [6, [], []],
      [0, [2, 3], [4, 1]],
      [0, [2], [2 ** 52]],
      [2 ** 52, [1], [1]],
      [0, [2 ** 40, 2], [2 ** 40, 1]],
      [0, [2 ** 40, 2 ** 40], [0, 0]],
      [0, [2, 3], [1]],
      [0, [1, 1, 1, 1, 1], [1, 1, 1, 1, 1]],
    ]
    for (const [offset, shape, strides] of bad)
      assert.throws(() => native.view(tensor, offset, shape, strides), ShapeError)
    // The bounds are the storage's: a view of a view may look back, but not out.
    const part = native.view(tensor, 4, [2], [1])
    assert.throws(() => native.view(part, 0, [3], [1]), ShapeError)
    native.disposeTensor(part)
  })

  it('throws Disposed for handles that are disposed or whose device is closed', async () => {
    const closed = native.openDevice('cpu', { threads: 1 })
    const orphan = native.allocate(closed, 'f32', [1])
    const orphanWeight = native.createWeight(closed, {
      rows: 1,
      columns: 1,
      storage: 'bf16',
      compute: 'bf16',
    })
    await native.closeDevice(closed)
    const gone = native.allocate(device, 'f32', [1])
    native.disposeTensor(gone)
    native.disposeTensor(gone)
    const goneWeight = native.createWeight(device, {
      rows: 1,
      columns: 1,
      storage: 'f32',
      compute: 'f32',
    })
    native.disposeWeight(goneWeight)
    native.disposeWeight(goneWeight)
    const goneFile = await native.openSafetensors(inFolder('a.safetensors'))
    native.closeSafetensors(goneFile)
    native.closeSafetensors(goneFile)
    for (const dead of [gone, orphan]) {
      assert.throws(() => native.view(dead, 0, [1], [1]), DisposedError)
      assert.throws(() => native.writeTensor(dead, new Float32Array(1)), DisposedError)
      assert.throws(() => native.readTensor(dead), DisposedError)
      assert.throws(() => native.run(device, 'fill', { y: dead, value: 0 }), DisposedError)
      assert.throws(() => native.readSafetensors(file, 'a', dead), DisposedError)
      assert.throws(
        () =>
          native.writeSafetensors(
            inFolder('never'),
            [],
            [{ name: 'x', dtype: 'f32', shape: [1], source: dead }],
          ),
        DisposedError,
      )
      native.disposeTensor(dead)
    }
    for (const dead of [goneWeight, orphanWeight]) {
      const args = { weight: dead, rowBegin: 0, y: tensor }
      assert.throws(() => native.run(device, 'weight_read', args), DisposedError)
      assert.throws(() => native.readSafetensorsWeight(file, 'a', dead, 0), DisposedError)
      native.disposeWeight(dead)
    }
    assert.throws(() => native.safetensorsEntries(goneFile), DisposedError)
    assert.throws(() => native.readSafetensors(goneFile, 'a', tensor), DisposedError)
    for (const call of [
      () => native.closeDevice(closed),
      () => native.describeDevice(closed),
      () => native.synchronize(closed),
      () => native.trim(closed),
      () => native.allocate(closed, 'f32', [1]),
      () => native.run(closed, 'fill', { y: tensor, value: 0 }),
    ])
      assert.throws(call, DisposedError)
  })

  it('sees what getters dispose while arguments are read', async () => {
    for (const victim of ['x', 'y']) {
      const x = native.allocate(device, 'f32', [4])
      const y = native.allocate(device, 'f32', [4])
      native.run(device, 'fill', { y: x, value: 2 })
      const args = {
        get x() {
          return x
        },
        get y() {
          native.disposeTensor(victim === 'x' ? x : y)
          return y
        },
      }
      assert.throws(() => native.run(device, 'copy', args), DisposedError)
      native.disposeTensor(x)
      native.disposeTensor(y)
    }
    const doomed = native.openDevice('cpu', { threads: 1 })
    const y = native.allocate(doomed, 'f32', [4])
    let closing: Promise<void> | undefined
    const args = {
      y,
      get value() {
        closing = native.closeDevice(doomed)
        return 1
      },
    }
    assert.throws(() => native.run(doomed, 'fill', args), DisposedError)
    await closing
    // An array whose length changes while it is read.
    const segments = [{ x: tensor, w: tensor }]
    const shrinking = new Proxy(segments, {})
    assert.throws(
      () => native.run(device, 'matmul', { layout: 'nt', segments: shrinking, y: tensor }),
      ArgumentError,
    )
    const own = new Error('from a getter')
    const throwing = {
      get y() {
        throw own
      },
    }
    assert.equal(
      thrownBy(() => native.run(device, 'fill', throwing)),
      own,
    )
    // A getter that runs operations itself.
    const nested = {
      y: tensor,
      get value() {
        native.run(device, 'fill', { y: tensor, value: 1 })
        return 3
      },
    }
    native.run(device, 'fill', nested)
    assert.deepEqual(new Float32Array(await native.readTensor(tensor)), new Float32Array(6).fill(3))
  })

  it('refuses detached, shared and resizable buffers, and wrong numbers of bytes', () => {
    const detached = new Float32Array(6)
    structuredClone(detached.buffer, { transfer: [detached.buffer] })
    const Resizable = ArrayBuffer as unknown as new (
      n: number,
      o: { maxByteLength: number },
    ) => ArrayBuffer
    const bad = [
      detached,
      new Float32Array(new SharedArrayBuffer(24)),
      new DataView(new SharedArrayBuffer(24)),
      new Float32Array(new Resizable(24, { maxByteLength: 48 })),
      new DataView(new Resizable(24, { maxByteLength: 48 })),
      new ArrayBuffer(24),
      [1, 2, 3, 4, 5, 6],
      'abcdefghijklmnopqrstuvwx',
    ]
    for (const bytes of bad) assert.throws(() => loose.writeTensor(tensor, bytes), ArgumentError)
    for (const bytes of [new Float32Array(5), new Float32Array(7), new Uint8Array(0)])
      assert.throws(() => native.writeTensor(tensor, bytes), ShapeError)
  })

  it('takes any view of the right size, and copies it before it returns', async () => {
    const values = Float32Array.of(1, 2, 3, 4, 5, 6)
    const padded = new Float32Array(8)
    padded.set(values, 1)
    const views = [
      values.slice(),
      new DataView(values.slice().buffer),
      new Uint8Array(values.slice().buffer),
      padded.subarray(1, 7),
      new BigUint64Array(values.slice().buffer),
    ]
    for (const view of views) {
      native.writeTensor(tensor, view)
      new Uint8Array(view.buffer).fill(0xff)
      assert.deepEqual(new Float32Array(await native.readTensor(tensor)), values)
    }
  })

  it('only reads and writes contiguous tensors', () => {
    const transposed = native.view(tensor, 0, [3, 2], [1, 3])
    assert.throws(() => native.readTensor(transposed), ShapeError)
    assert.throws(() => native.writeTensor(transposed, new Float32Array(6)), ShapeError)
    assert.throws(() => native.readSafetensors(file, 'a', transposed), ShapeError)
    native.disposeTensor(transposed)
  })

  it('refuses tensors and weights of another device', () => {
    const foreign = native.allocate(other, 'f32', [2, 3])
    const foreignWeight = native.createWeight(other, {
      rows: 2,
      columns: 3,
      storage: 'f32',
      compute: 'f32',
    })
    assert.throws(
      () => native.run(device, 'copy', { x: tensor, y: foreign }),
      /copy: y belongs to another device/,
    )
    assert.throws(
      () =>
        native.run(device, 'weight_update', { weight: foreignWeight, source: tensor, rowBegin: 0 }),
      /weight_update: weight belongs to another device/,
    )
    native.disposeTensor(foreign)
    native.disposeWeight(foreignWeight)
  })

  it('rejects shapes and dtypes that an operation cannot take', () => {
    const ints = native.allocate(device, 'i32', [2, 3])
    const long = native.allocate(device, 'f32', [7])
    assert.throws(
      () => native.run(device, 'add', { a: tensor, b: ints, alpha: 1, beta: 1, y: tensor }),
      DTypeError,
    )
    assert.throws(() => native.run(device, 'copy', { x: tensor, y: long }), ShapeError)
    assert.throws(() => native.readSafetensors(file, 'a', long), ShapeError)
    assert.throws(() => native.readSafetensors(file, 'a', ints), DTypeError)
    native.disposeTensor(ints)
    native.disposeTensor(long)
  })
})
