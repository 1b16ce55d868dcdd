import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { ArgumentError, DisposedError, DTypeError, ShapeError } from '../lib/errors.js'
import { Scope, scope } from '../lib/scope.js'
import { contiguousStrides, type DType, Tensor, type TensorData } from '../lib/tensor.js'
import { forEachDevice } from './devices.js'
import { Random } from './random.js'

/** The elements of a strided view in C order, index by index. */
function gather(
  data: ArrayLike<number>,
  offset: number,
  shape: readonly number[],
  strides: readonly number[],
) {
  const out: number[] = []
  const walk = (dim: number, at: number) => {
    if (dim === shape.length) out.push(data[at])
    else for (let i = 0; i < shape[dim]; ++i) walk(dim + 1, at + i * strides[dim])
  }
  walk(0, offset)
  return out
}

const plain = (data: TensorData) => Array.from<number>(data)

forEachDevice('tensor', (context) => {
  const within = <T>(body: () => T): T => {
    const inner = new Scope()
    try {
      return body()
    } finally {
      inner.end()
    }
  }

  it('holds what it was given, in every dtype', async () => {
    const { device } = context
    const cases: [TensorData | number[], number, string | undefined, number[]][] = [
      [Float32Array.of(1.5, -2, 3e38), 3, undefined, [1.5, -2, Math.fround(3e38)]],
      [Int32Array.of(-1, 2 ** 31 - 1), 2, undefined, [-1, 2 ** 31 - 1]],
      [Uint8Array.of(0, 255), 2, undefined, [0, 255]],
      [Uint16Array.of(0x3f80, 0xffff), 2, 'bf16', [0x3f80, 0xffff]],
      [Uint16Array.of(0x3c00), 1, 'f16', [0x3c00]],
      [[1, 2.25], 2, undefined, [1, 2.25]],
      [[1, -7], 2, 'i32', [1, -7]],
      [[0, 9], 2, 'u8', [0, 9]],
      [[1, -2.5], 2, 'bf16', [0x3f80, 0xc020]],
      [Float32Array.of(1, -2.5, 65504), 3, 'f16', [0x3c00, 0xc100, 0x7bff]],
    ]
    for (const [data, size, dtype, expected] of cases) {
      using tensor = Tensor.from(device, data, [size], dtype as never)
      assert.deepEqual(plain(await tensor.read()), expected)
      assert.equal(tensor.toString(), `${tensor.dtype} tensor [${String(size)}]`)
    }
  })

  it('copies what it is given before it returns', async () => {
    const data = Float32Array.of(1, 2, 3)
    using tensor = Tensor.from(context.device, data)
    data.fill(9)
    assert.deepEqual(tensor.shape, [3])
    assert.deepEqual(plain(await tensor.read()), [1, 2, 3])
    tensor.write(data)
    data.fill(5)
    assert.deepEqual(plain(await tensor.read()), [9, 9, 9])
  })

  it('refuses data that does not fit', () => {
    const { device } = context
    assert.throws(() => Tensor.from(device, Float32Array.of(1), [2]), ShapeError)
    assert.throws(() => Tensor.from(device, Uint16Array.of(1)), ArgumentError)
    assert.throws(
      () => Tensor.from(device, [1.5], [1], 'i32'),
      /element 0 of the data, 1.5, is not an i32/,
    )
    assert.throws(() => Tensor.from(device, [256], [1], 'u8'), ArgumentError)
    assert.throws(() => Tensor.from(device, ['1'] as never), ArgumentError)
    assert.throws(() => Tensor.from(device, new Float64Array(1) as never), /not Float64Array/)
    assert.throws(() => Tensor.from(device, Int32Array.of(1), [1], 'f32'), DTypeError)
    assert.throws(() => Tensor.from(device, [1], [1, 1, 1, 1, 1]), ShapeError)
    assert.throws(() => Tensor.empty(device, [-1]), ArgumentError)
    using ints = Tensor.zeros(device, [2], 'i32')
    assert.throws(() => ints.write(new Float32Array(2)), DTypeError)
    assert.throws(() => ints.write(new Int32Array(3)), ShapeError)
  })

  it('reads any strides', async () => {
    const data = new Random(1).normal(3 * 5 * 7)
    using tensor = Tensor.from(context.device, data, [3, 5, 7])
    const views = within(() => {
      const make = [
        tensor.transpose(),
        tensor.transpose(0, 2),
        tensor.slice(1, 1, 4),
        tensor.slice(2, 2, 3).transpose(0, 1),
        tensor.slice(0, 2, 2),
        tensor.slice(-1, 3, 7).slice(0, 1, 3).transpose(-3, -1),
      ]
      return make.map((view) => view.retain())
    })
    for (const view of views) {
      // Where a view begins is known from its first element.
      const offset = view.size === 0 ? 0 : data.indexOf((await view.read())[0])
      assert.deepEqual(plain(await view.read()), gather(data, offset, view.shape, view.strides))
      view.release()
    }
  })

  it('views the same elements in any shape that the strides allow', async () => {
    const random = new Random(2)
    const { device } = context
    const shapes = (size: number): number[] => {
      const shape: number[] = []
      let rest = size
      while (shape.length < 4 && (rest > 1 || random.integer(2) === 0)) {
        const divisors = Array.from({ length: rest }, (_, i) => i + 1).filter((d) => rest % d === 0)
        const factor = shape.length === 3 ? rest : divisors[random.integer(divisors.length)]
        shape.push(factor)
        rest /= factor
      }
      return rest === 1 ? shape : [size]
    }
    let possible = 0
    let impossible = 0
    for (let i = 0; i < 300; ++i) {
      const inner = new Scope()
      const base = Tensor.empty(device, [4, 3, 6, 2])
      let source = base
      if (random.integer(2)) source = source.slice(random.integer(4), 0, 1 + random.integer(2))
      if (random.integer(2)) source = source.transpose(random.integer(4), random.integer(4))
      const target = shapes(source.size)
      const indices = Int32Array.from({ length: 144 }, (_, k) => k)
      const order = gather(indices, 0, source.shape, source.strides)
      let view: Tensor | null = null
      try {
        view = source.view(target)
      } catch (error) {
        assert.ok(error instanceof ShapeError)
      }
      if (view !== null) {
        ++possible
        assert.deepEqual(gather(indices, 0, view.shape, view.strides), order)
      } else {
        ++impossible
        // There are no such strides: those that the elements' places imply do not give all elements.
        const strides = target.map((_, d) => {
          const step = target.slice(d + 1).reduce((product, n) => product * n, 1)
          return target[d] === 1 ? 0 : order[step] - order[0]
        })
        assert.notDeepEqual(gather(indices, order[0], target, strides), order)
      }
      inner.end()
    }
    assert.ok(possible > 50 && impossible > 20, `${String(possible)}, ${String(impossible)}`)
    using tensor = Tensor.from(device, Int32Array.of(1, 2, 3, 4, 5, 6), [2, 3])
    using inferred = tensor.view([3, -1])
    assert.deepEqual(inferred.shape, [3, 2])
    assert.deepEqual(plain(await inferred.read()), [1, 2, 3, 4, 5, 6])
    for (const shape of [[4], [-1, -1], [0, -1], [-2, -3], [1.5, 4], [7, -1]])
      assert.throws(() => tensor.view(shape), ShapeError)
    for (const [dim, begin, end] of [
      [2, 0, 1],
      [-3, 0, 1],
      [0, 1, 0],
      [0, -1, 1],
      [0, 0, 3],
      [0.5, 0, 1],
      [0, NaN, 1],
    ])
      assert.throws(() => tensor.slice(dim, begin, end), ShapeError)
    assert.throws(() => tensor.transpose(0, 2), ShapeError)
  })

  it('writes through a view, and copies between strides and dtypes', async () => {
    const { device } = context
    using tensor = Tensor.zeros(device, [3, 4])
    within(() => {
      tensor.slice(1, 1, 3).fill(2)
      tensor.slice(0, 2, 3).write(Float32Array.of(5, 6, 7, 8))
    })
    assert.deepEqual(plain(await tensor.read()), [0, 2, 2, 0, 0, 2, 2, 0, 5, 6, 7, 8])
    within(() =>
      tensor
        .transpose()
        .slice(0, 0, 1)
        .copyFrom(Tensor.from(device, [1, 2, 3], [1, 3])),
    )
    assert.deepEqual(plain(await tensor.read()), [1, 2, 2, 0, 2, 2, 2, 0, 3, 6, 7, 8])
    using half = within(() => tensor.transpose().clone('bf16').retain())
    assert.deepEqual([half.shape, half.isContiguous, half.dtype], [[4, 3], true, 'bf16'])
    assert.deepEqual(plain(await half.readFloats()), [1, 2, 3, 2, 2, 6, 2, 2, 7, 0, 0, 8])
    within(() => {
      assert.throws(() => tensor.transpose().write(new Float32Array(12)), ShapeError)
    })
    assert.throws(() => tensor.copyFrom(half), ShapeError)
  })

  it('converts between any two dtypes that allow it, to nearest and to even', async () => {
    const { device } = context
    const cases: [DType, number[], DType, number[]][] = [
      // The bits of bf16 and f16, the elements of the others.
      [
        'f32',
        [1 + 2 ** -8, 1 + 3 * 2 ** -8, -2.5, Infinity],
        'bf16',
        [0x3f80, 0x3f82, 0xc020, 0x7f80],
      ],
      [
        'f32',
        [1 + 2 ** -11, 1 + 3 * 2 ** -11, 65520, 2 ** -25, 3 * 2 ** -25],
        'f16',
        [0x3c00, 0x3c02, 0x7c00, 0, 2],
      ],
      ['f32', [-2.75, 2.75, 3e9, -3e9, NaN, 0], 'i32', [-2, 2, 2 ** 31 - 1, -(2 ** 31), 0, 0]],
      ['f32', [-1, 0.99, 1.5, 255.5, 256, NaN], 'u8', [0, 0, 1, 255, 255, 0]],
      ['bf16', [0x3f80, 0xc020, 0x7f80, 0x0001], 'f32', [1, -2.5, Infinity, 2 ** -133]],
      ['bf16', [0x3f80, 0xc020, 0x477f, 0x4780], 'f16', [0x3c00, 0xc100, 0x7bf8, 0x7c00]],
      ['bf16', [0x3f80, 0x7fc1, 0x8000], 'bf16', [0x3f80, 0x7fc1, 0x8000]],
      ['f16', [0x3c00, 0xc100, 0x7c00, 0x0001], 'f32', [1, -2.5, Infinity, 2 ** -24]],
      ['f16', [0x3c00, 0xc100, 0x3c04, 0x3c0c], 'bf16', [0x3f80, 0xc020, 0x3f80, 0x3f82]],
      ['f16', [0x3c00, 0x7e01, 0x8000], 'f16', [0x3c00, 0x7e01, 0x8000]],
      ['i32', [-3, 2 ** 24 + 1, 7], 'f32', [-3, 2 ** 24, 7]],
      ['i32', [-3, 0, 255, 256, 2 ** 31 - 1], 'u8', [0, 0, 255, 255, 255]],
      ['i32', [-3, 2 ** 31 - 1], 'i32', [-3, 2 ** 31 - 1]],
      ['u8', [0, 7, 255], 'f32', [0, 7, 255]],
      ['u8', [0, 7, 255], 'i32', [0, 7, 255]],
      ['u8', [0, 7, 255], 'u8', [0, 7, 255]],
    ]
    for (const [from, values, to, expected] of cases) {
      const data = {
        f32: Float32Array,
        bf16: Uint16Array,
        f16: Uint16Array,
        i32: Int32Array,
        u8: Uint8Array,
      }
      using source = Tensor.from(device, data[from].from(values), [values.length], from)
      using converted = source.clone(to)
      assert.deepEqual(plain(await converted.read()), expected, `${from} to ${to}`)
    }
    using bytes = Tensor.zeros(device, [1], 'u8')
    using half = Tensor.zeros(device, [1], 'f16')
    for (const [from, to] of [
      [bytes, half],
      [half, bytes],
    ])
      assert.throws(() => to.copyFrom(from), DTypeError)
  })

  it('is filled in every dtype with what its value rounds to, once', async () => {
    const { device } = context
    for (const [dtype, value, expected] of [
      ['f32', 0.1, Math.fround(0.1)],
      ['bf16', -2.5, 0xc020],
      ['bf16', 1 + 2 ** -8 + 2 ** -40, 0x3f81],
      ['f16', 65504, 0x7bff],
      // By way of float32 it would be a tie, and fall to 1.
      ['f16', 1 + 2 ** -11 + 2 ** -40, 0x3c01],
      ['i32', -7, -7],
      ['u8', 200, 200],
    ] as const) {
      using tensor = Tensor.full(device, [2, 3], value, dtype)
      assert.deepEqual(plain(await tensor.read()), new Array(6).fill(expected), dtype)
    }
  })

  it('reads a single element as a number', async () => {
    const { device } = context
    using float = Tensor.full(device, [], 2.5)
    using int = Tensor.full(device, [1, 1], -3, 'i32')
    using two = Tensor.zeros(device, [2])
    assert.equal(await float.item(), 2.5)
    assert.equal(await int.item(), -3)
    await assert.rejects(two.item(), ShapeError)
    await assert.rejects(two.readInts(), DTypeError)
  })

  it('has tensors without elements', async () => {
    using empty = Tensor.zeros(context.device, [3, 0, 2])
    assert.equal(empty.size, 0)
    assert.ok(empty.isContiguous)
    assert.equal((await empty.read()).length, 0)
    using view = empty.view([0])
    using transposed = empty.transpose()
    assert.equal((await view.readFloats()).length, 0)
    assert.equal((await transposed.readFloats()).length, 0)
    empty.write(new Float32Array(0))
  })

  it('lives until its last owner has released it', async () => {
    const tensor = Tensor.full(context.device, [2], 1)
    assert.equal(tensor.retain(), tensor)
    tensor.release()
    assert.deepEqual(plain(await tensor.read()), [1, 1])
    const view = tensor.view([1, 2])
    tensor.dispose()
    assert.ok(tensor.isDisposed)
    for (const use of [
      () => tensor.native,
      () => tensor.view([2]),
      () => tensor.fill(1),
      () => tensor.retain(),
      () => tensor.write(new Float32Array(2)),
      () => tensor.clone(),
    ])
      assert.throws(use, DisposedError)
    await assert.rejects(tensor.read(), DisposedError)
    tensor.release()
    tensor[Symbol.dispose]()
    // The storage has an owner left.
    assert.deepEqual(plain(await view.read()), [1, 1])
    view.release()
  })

  it('keeps what a read needs', async () => {
    const tensor = Tensor.full(context.device, [1000], 4)
    const reading = tensor.read()
    tensor.release()
    // Takes its memory.
    const next = Tensor.full(context.device, [1000], 5)
    assert.deepEqual(new Set(await reading), new Set([4]))
    next.release()
  })
})

forEachDevice('scope', (context) => {
  const make = () => Tensor.zeros(context.device, [1])

  it('releases what was made in it', () => {
    const made: Tensor[] = []
    const result = scope(() => {
      made.push(make(), make())
      scope(() => made.push(make()))
      assert.deepEqual(
        made.map((tensor) => tensor.isDisposed),
        [false, false, true],
      )
      return 7
    })
    assert.equal(result, 7)
    assert.ok(made.every((tensor) => tensor.isDisposed))
    assert.equal(Scope.current, null)
  })

  it('keeps its result and what it is told to, for the enclosing scope', () => {
    let kept: Tensor
    let other: Tensor
    {
      using outer = new Scope()
      const single = scope(() => make())
      const { a, b } = scope(() => ({ a: make(), b: null, c: 3 }))
      const list = scope(() => [make(), make()])
      other = scope((keep) => {
        kept = keep(make())
        return kept.view([1, 1])
      })
      assert.equal(b, null)
      for (const tensor of [single, a, ...list, kept!, other]) assert.ok(!tensor.isDisposed)
      assert.equal(Scope.current, outer)
      outer.keep(kept!)
    }
    assert.ok(other.isDisposed)
    assert.ok(!kept!.isDisposed)
    kept!.release()
    const free = scope(() => make())
    assert.ok(!free.isDisposed)
    free.release()
  })

  it('ends with an exception, and ends the scopes inside it', () => {
    const made: Tensor[] = []
    const outer = new Scope()
    made.push(make())
    new Scope()
    made.push(make())
    assert.throws(
      () =>
        scope(() => {
          made.push(make())
          throw new RangeError('out')
        }),
      RangeError,
    )
    outer.end()
    outer.end()
    assert.equal(Scope.current, null)
    assert.ok(made.every((tensor) => tensor.isDisposed))
    assert.throws(() => outer.keep(made[0]), ArgumentError)
  })

  it('counts owners beside its own', () => {
    const tensor = scope(() => {
      const inner = make()
      inner.retain()
      return { hidden: [inner] }
    }).hidden[0]
    assert.ok(!tensor.isDisposed)
    tensor.release()
    assert.ok(tensor.isDisposed)
  })

  it('gives tensors up early, away, and takes them over', () => {
    using outer = new Scope()
    const early = make()
    early.retain()
    Scope.discard(early)
    assert.ok(!early.isDisposed)
    early.release()
    assert.ok(early.isDisposed)
    Scope.discard(early)
    const mine = scope(() => make().detach())
    const adopted = scope(() => {
      Scope.adopt(mine.retain())
      return mine
    })
    assert.equal(adopted, mine)
    assert.equal(Scope.adopt(null), null)
    outer.end()
    assert.ok(!mine.isDisposed)
    mine.release()
    assert.ok(mine.isDisposed)
  })

  it('refuses to be asynchronous', async () => {
    let made: Tensor
    assert.throws(
      () =>
        scope(async () => {
          made = make()
          await Promise.resolve()
        }),
      /returned a promise/,
    )
    assert.ok(made!.isDisposed)
    assert.equal(Scope.current, null)
    await Promise.resolve()
  })
})

describe('contiguousStrides', () => {
  it('are those of C order', () => {
    assert.deepEqual(contiguousStrides([]), [])
    assert.deepEqual(contiguousStrides([5]), [1])
    assert.deepEqual(contiguousStrides([2, 3, 4]), [12, 4, 1])
    assert.deepEqual(contiguousStrides([2, 0, 4]), [4, 4, 1])
  })
})
