import assert from 'node:assert/strict'
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { after, afterEach, before, describe, it } from 'mocha'
import { Device } from '../lib/device.js'
import {
  ArgumentError,
  DisposedError,
  DTypeError,
  FormatError,
  isPolyloraError,
  ShapeError,
} from '../lib/errors.js'
import { loadNative } from '../lib/native.js'
import { SafetensorsFile, writeSafetensors, type SafetensorsSource } from '../lib/safetensors.js'
import { Scope } from '../lib/scope.js'
import { Tensor, type DType } from '../lib/tensor.js'
import { Weight } from '../lib/weight.js'
import { Random } from './random.js'
import { safetensorsBytes } from './safetensors-bytes.js'
import { temporaryFolder } from './temporary-folder.js'

describe('safetensors', () => {
  const inFolder = temporaryFolder()
  let device: Device
  before(() => {
    device = Device.open('cpu', { threads: 2 })
  })
  after(async () => {
    assert.equal(device.info.memoryUsed, 0)
    await device.close()
  })

  const values = (count: number, seed: number) => new Random(seed).normal(count)

  describe('reading', () => {
    // Longer than one piece of the reader's, in every dtype.
    const rows = 1500
    const columns = 901
    let path: string
    let floats: Float32Array
    before(async () => {
      path = inFolder('large.safetensors')
      floats = values(rows * columns, 5)
      const scope = new Scope()
      const source = Tensor.from(device, floats, [rows, columns])
      const ints = Tensor.from(device, Int32Array.of(1, -2, 3))
      const pending = writeSafetensors(
        path,
        [['format', 'pt']],
        [
          { name: 'f32', source },
          { name: 'bf16', source, dtype: 'bf16' },
          { name: 'f16', source, dtype: 'f16' },
          { name: 'i32', source: ints },
          { name: 'scalar', source: Tensor.full(device, [], 0.5) },
        ],
      )
      scope.end()
      await pending
    })

    it('converts between the float dtypes, and only between them', async () => {
      const file = await SafetensorsFile.open(path)
      for (const stored of ['f32', 'bf16', 'f16'] as const)
        for (const wanted of ['f32', 'bf16', 'f16'] as const) {
          using target = Tensor.empty(device, [rows * columns], wanted)
          await file.readTensor(stored, target)
          // The device's own conversions, one after the other.
          const scope = new Scope()
          const expected = Tensor.from(device, floats).clone(stored).clone(wanted).read()
          scope.end()
          assert.deepEqual(await target.read(), await expected, `${stored} as ${wanted}`)
        }
      using ints = Tensor.empty(device, [3], 'i32')
      await file.readTensor('i32', ints)
      assert.deepEqual(await ints.read(), Int32Array.of(1, -2, 3))
      using threeFloats = Tensor.empty(device, [3])
      await assert.rejects(file.readTensor('i32', threeFloats), DTypeError)
      using scalar = Tensor.empty(device, [1, 1])
      await file.readTensor('scalar', scalar)
      assert.equal(await scalar.item(), 0.5)
      file.close()
    })

    it('reads into rows of a weight', async () => {
      const file = await SafetensorsFile.open(path)
      for (const storage of ['f32', 'bf16'] as const)
        for (const stored of ['f32', 'bf16', 'f16'] as const) {
          using weight = Weight.create(device, { rows: rows + 77, columns, storage })
          await file.readWeight(stored, weight, 45)
          using got = weight.read(45, rows)
          const scope = new Scope()
          const expected = Tensor.from(device, floats).clone(stored).clone(storage).readFloats()
          scope.end()
          assert.deepEqual(await got.readFloats(), await expected)
          using before = weight.read(0, 45)
          using behind = weight.read(45 + rows, 32)
          assert.deepEqual(
            new Set([...(await before.readFloats()), ...(await behind.readFloats())]),
            new Set([0]),
          )
        }
      file.close()
    })

    it('refuses what does not fit', async () => {
      const file = await SafetensorsFile.open(path)
      using wrong = Tensor.empty(device, [5])
      await assert.rejects(file.readTensor('f32', wrong), ShapeError)
      await assert.rejects(file.readTensor('none', wrong), /has no tensor "none"/)
      using weight = Weight.create(device, { rows, columns })
      await assert.rejects(file.readWeight('f32', weight, 1), ShapeError)
      await assert.rejects(file.readWeight('i32', weight), DTypeError)
      await assert.rejects(file.readWeight('scalar', weight), ShapeError)
      await assert.rejects(file.readWeight('f32', weight, -1), ArgumentError)
      using other = Weight.create(device, { rows, columns: columns - 1 })
      await assert.rejects(file.readWeight('f32', other), ShapeError)
      file.close()
      file.close()
      await assert.rejects(file.readTensor('f32', wrong), DisposedError)
      const unsupported = inFolder('f64.safetensors')
      writeFileSync(
        unsupported,
        safetensorsBytes({ a: { dtype: 'F64', shape: [5], bytes: new Float64Array(5) } }),
      )
      const doubles = await SafetensorsFile.open(unsupported)
      await assert.rejects(doubles.readTensor('a', wrong), /dtype F64; F32, BF16, F16, I32 and U8/)
      doubles.close()
    })

    it('finishes reads whose file or tensor is given up meanwhile', async () => {
      const file = await SafetensorsFile.open(path)
      const target = Tensor.empty(device, [rows, columns])
      const reading = file.readTensor('f32', target)
      file.close()
      target.release()
      await reading
    })

    it('reports a file that shrinks', async () => {
      const shrinking = inFolder('shrinking.safetensors')
      writeFileSync(shrinking, readFileSync(path))
      const file = await SafetensorsFile.open(shrinking)
      truncateSync(shrinking, statSync(path).size - 1_000_000)
      using target = Tensor.empty(device, [rows, columns], 'f16')
      await assert.rejects(file.readTensor('f16', target), (error) => {
        assert.ok(error instanceof FormatError)
        assert.match(error.message, /ended at byte \d+, \d+ bytes early/)
        return true
      })
      file.close()
    })

    it('never holds a whole tensor', async () => {
      const file = await SafetensorsFile.open(path)
      const small = Device.open('cpu', { threads: 1, memoryBudget: 40 * 2 ** 20 })
      using weight = Weight.create(small, { rows: rows * 4, columns, storage: 'bf16' })
      for (let i = 0; i < 4; ++i) await file.readWeight('f32', weight, i * rows)
      await small.close()
      file.close()
    })

    it('ends when the device is closed', async () => {
      const file = await SafetensorsFile.open(path)
      const closing = Device.open('cpu', { threads: 1 })
      const x = Tensor.full(closing, [1024, 1024], 1)
      const y = Tensor.empty(closing, [1024, 1024])
      const target = Tensor.empty(closing, [rows, columns], 'bf16')
      for (let i = 0; i < 500; ++i)
        closing.run('matmul', {
          layout: 'nt',
          segments: [{ x: x.native, w: x.native }],
          y: y.native,
        })
      const reading = assert.rejects(file.readTensor('f32', target), /closed/)
      const writing = assert.rejects(
        writeSafetensors(inFolder('closed'), [], [{ name: 'x', source: x }]),
        /closed/,
      )
      await new Promise((resolve) => setTimeout(resolve, 20))
      await closing.close()
      await reading
      await writing
      assert.ok(!existsSync(inFolder('closed')) && !existsSync(inFolder('closed.tmp')))
      file.close()
    })
  })

  describe('writing', () => {
    const sourcesOf = (scope: Scope): SafetensorsSource[] => {
      const weight = Weight.create(device, { rows: 5, columns: 3, storage: 'bf16' })
      weight.update(Tensor.from(device, values(15, 6), [5, 3]))
      scope.own({
        release: () => {
          weight.dispose()
        },
      })
      return [
        { name: 'u', source: Tensor.from(device, Uint8Array.of(1, 2, 3)) },
        { name: 'z', source: Tensor.from(device, values(6, 7), [2, 3]) },
        { name: 'weight', source: weight },
        { name: 'weight.f16', source: weight, dtype: 'f16' },
        { name: 'weight.f32', source: weight, dtype: 'f32', shape: [15] },
        { name: 'a', source: Tensor.from(device, values(4, 8)), dtype: 'bf16', shape: [2, 2] },
        { name: 'i', source: Tensor.from(device, Int32Array.of(-5)) },
        { name: 'empty', source: Tensor.zeros(device, [0, 4]) },
      ]
    }

    it('sorts by alignment and name, pads the header, and reads back', async () => {
      const path = inFolder('written.safetensors')
      const scope = new Scope()
      const sources = sourcesOf(scope)
      const writing = writeSafetensors(
        path,
        new Map([
          ['format', 'pt'],
          ['ü"\n', '\\'],
        ]),
        sources,
      )
      const expected = await (async () => {
        const tensors = [values(6, 7), values(4, 8), values(15, 6)].map((v) =>
          Tensor.from(device, v),
        )
        const [z, a, weight] = [
          tensors[0].read(),
          tensors[1].clone('bf16').read(),
          tensors[2].clone('bf16'),
        ]
        const pending = [
          z,
          a,
          weight.read(),
          weight.clone('f16').read(),
          weight.clone('f32').read(),
        ] as const
        scope.end()
        return Promise.all(pending)
      })()
      const size = await writing
      const bytes = readFileSync(path)
      assert.equal(bytes.length, size)
      const headerBytes = Number(bytes.readBigUInt64LE())
      assert.equal(headerBytes % 8, 0)
      const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerBytes)) as Record<
        string,
        { dtype: string; shape: number[]; data_offsets: [number, number] }
      >
      assert.deepEqual(header.__metadata__, { format: 'pt', 'ü"\n': '\\' })
      delete header.__metadata__
      assert.deepEqual(
        Object.entries(header).map(([name, { dtype, shape }]) => [name, dtype, shape]),
        [
          ['empty', 'F32', [0, 4]],
          ['i', 'I32', [1]],
          ['weight.f32', 'F32', [15]],
          ['z', 'F32', [2, 3]],
          ['a', 'BF16', [2, 2]],
          ['weight', 'BF16', [5, 3]],
          ['weight.f16', 'F16', [5, 3]],
          ['u', 'U8', [3]],
        ],
      )
      const data = (name: string) => {
        const [begin, end] = header[name].data_offsets
        return new Uint8Array(bytes.subarray(8 + headerBytes + begin, 8 + headerBytes + end))
      }
      const raw = (array: ArrayBufferView) =>
        new Uint8Array(array.buffer, array.byteOffset, array.byteLength)
      const [z, a, weight, weightF16, weightF32] = expected
      for (const [name, array] of Object.entries({
        z,
        a,
        weight,
        'weight.f16': weightF16,
        'weight.f32': weightF32,
        u: Uint8Array.of(1, 2, 3),
        i: Int32Array.of(-5),
      }))
        assert.deepEqual(data(name), raw(array), name)
      const file = await SafetensorsFile.open(path)
      assert.deepEqual(
        [...file.metadata],
        [
          ['format', 'pt'],
          ['ü"\n', '\\'],
        ],
      )
      file.close()
    })

    it('has the same bytes for the same values', async () => {
      const texts: Buffer[] = []
      for (const name of ['one', 'two']) {
        const scope = new Scope()
        const sources = sourcesOf(scope)
        const writing = writeSafetensors(
          inFolder(name),
          [],
          name === 'one' ? sources : sources.toReversed(),
        )
        scope.end()
        await writing
        texts.push(readFileSync(inFolder(name)))
      }
      assert.deepEqual(texts[0], texts[1])
    })

    it('refuses entries that cannot be written', async () => {
      using x = Tensor.zeros(device, [2, 3])
      using transposed = x.transpose()
      const to = (entries: SafetensorsSource[], metadata: [string, string][] = []) =>
        writeSafetensors(inFolder('refused'), metadata, entries)
      await assert.rejects(
        to([
          { name: 'x', source: x },
          { name: 'x', source: x },
        ]),
        /"x" twice/,
      )
      await assert.rejects(to([{ name: '__metadata__', source: x }]), /reserved/)
      await assert.rejects(to([{ name: 'x', source: x, shape: [5] }]), ShapeError)
      await assert.rejects(to([{ name: 'x', source: x, dtype: 'i32' }]), DTypeError)
      await assert.rejects(to([{ name: 'x', source: x, dtype: 'f64' as DType }]), ArgumentError)
      await assert.rejects(to([{ name: 'x', source: transposed }]), /not contiguous/)
      await assert.rejects(
        to(
          [],
          [
            ['a', '1'],
            ['a', '2'],
          ],
        ),
        /"a" twice/,
      )
      await assert.rejects(to([], [['a', 1 as never]]), ArgumentError)
      assert.ok(!existsSync(inFolder('refused')))
    })

    describe('when the system fails', () => {
      const native = loadNative()
      afterEach(() => {
        native.injectFileFault(null)
      })
      let folder: string
      const target = () => join(folder, 'model.safetensors')
      const write = async (fill: number, size = 3_000_000) => {
        const scope = new Scope()
        const writing = writeSafetensors(
          target(),
          [],
          [{ name: 'x', source: Tensor.full(device, [size], fill) }],
        )
        scope.end()
        return writing
      }
      const isWhole = async (fill: number) => {
        const file = await SafetensorsFile.open(target())
        using x = Tensor.empty(device, [file.entry('x').shape[0]])
        await file.readTensor('x', x)
        file.close()
        assert.deepEqual(new Set(await x.read()), new Set([fill]))
      }
      before(() => {
        folder = inFolder('faults')
        mkdirSync(folder)
      })

      it('leaves the older file and nothing else, whichever call fails', async () => {
        await write(1)
        const calls: [string, number, string][] = [
          ['open', 1, 'ENOSPC'],
          ['open', 1, 'EACCES'],
          ['write', 1, 'ENOSPC'],
          ['write', 2, 'EIO'],
          ['write', 3, 'EDQUOT'],
          ['write', 5, 'ENOSPC'],
          ['sync', 1, 'EIO'],
          ['rename', 1, 'EACCES'],
        ]
        for (const [call, nth, error] of calls) {
          native.injectFileFault({ call, nth, error })
          await assert.rejects(write(2), (thrown) => {
            assert.ok(isPolyloraError(thrown), String(thrown))
            assert.ok(thrown.message.includes(target()))
            assert.match(thrown.message, /12000\d\d\d bytes are needed/)
            assert.equal(thrown.details.error, error)
            assert.ok(Number(thrown.details.bytesNeeded) > 12_000_000)
            return true
          })
          native.injectFileFault(null)
          assert.deepEqual(readdirSync(folder), ['model.safetensors'])
          await isWhole(1)
        }
      })

      it('says so when the folder cannot be synced; the new file is whole', async () => {
        native.injectFileFault({ call: 'syncFolder', nth: 1, error: 'EIO' })
        await assert.rejects(write(3), /could not be synced/)
        assert.deepEqual(readdirSync(folder), ['model.safetensors'])
        await isWhole(3)
      })

      it('carries on after interruptions and short writes and reads', async () => {
        let fill = 4
        for (const call of ['open', 'write', 'sync', 'rename', 'syncFolder'])
          for (const error of call === 'write' ? ['EINTR', 'short'] : ['EINTR'])
            for (const nth of call === 'write' ? [1, 2, 3, 4] : [1]) {
              native.injectFileFault({ call, nth, error })
              await write(++fill)
              native.injectFileFault(null)
              await isWhole(fill)
            }
        for (const error of ['EINTR', 'short'])
          for (const nth of [1, 2, 3, 5]) {
            native.injectFileFault({ call: 'read', nth, error })
            await isWhole(fill)
          }
        native.injectFileFault({ call: 'read', nth: 4, error: 'EIO' })
        await assert.rejects(isWhole(fill), /could not be read: Input\/output error/)
      })

      it('says why for the usual reasons', async () => {
        await assert.rejects(
          writeSafetensors(inFolder('nowhere/model.safetensors'), [], []),
          /nowhere\/model.safetensors.tmp could not be created: No such file/,
        )
        mkdirSync(join(folder, 'is-a-folder'))
        await assert.rejects(
          writeSafetensors(join(folder, 'is-a-folder'), [], []),
          /could not be put in place/,
        )
        assert.deepEqual(readdirSync(folder).toSorted(), ['is-a-folder', 'model.safetensors'])
        // A link that waits under the temporary name is not followed.
        writeFileSync(inFolder('precious'), 'precious')
        symlinkSync(inFolder('precious'), join(folder, 'trap.tmp'))
        await assert.rejects(writeSafetensors(join(folder, 'trap'), [], []), FormatError)
        assert.equal(readFileSync(inFolder('precious'), 'utf8'), 'precious')
      })

      it('knows only real faults', () => {
        for (const fault of [
          { call: 'fsync', nth: 1, error: 'EIO' },
          { call: 'write', nth: 1, error: 'EWHAT' },
          { call: 'write', nth: -1, error: 'EIO' },
        ])
          assert.throws(() => native.injectFileFault(fault), ArgumentError)
      })
    })
  })
})
