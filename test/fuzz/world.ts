/** Devices, and handles in every state that a handle can be in. */

import { join } from 'node:path'
import { inspect } from 'node:util'
import { DisposedError, isPolyloraError } from '../../lib/errors.js'
import {
  loadNative,
  type DType,
  type NativeDevice,
  type NativeFile,
  type NativeRecording,
  type NativeTensor,
  type NativeWeight,
} from '../../lib/native.js'
import type { Random } from '../random.js'
import { pick } from './part.js'
import { hostileNumbers, hostileObjects, hostileStrings, isPlain } from './values.js'

export const native = loadNative()
/** The same functions, to be called with what their types forbid. */
export const loose = native as unknown as Record<string, (...args: unknown[]) => unknown>

const memoryBudget = 1 << 26
export const bytesOfDtype: Readonly<Record<DType, number>> = {
  f32: 4,
  bf16: 2,
  f16: 2,
  i32: 4,
  u8: 1,
}

export interface TensorFacts {
  readonly dtype: DType
  readonly shape: readonly number[]
  readonly strides: readonly number[]
}

/** The highest instruction sets that the processor has, and those below. */
const instructionSets = ['portable', 'avx2', 'avx512', 'avx512-bf16'].filter((instructionSet) => {
  try {
    void native.closeDevice(native.openDevice('cpu', { threads: 1, instructionSet }))
    return true
  } catch {
    return false
  }
})

export class World {
  readonly random: Random
  readonly folder: string
  readonly device: NativeDevice
  readonly other: NativeDevice
  readonly path: string
  readonly facts = new WeakMap<object, TensorFacts>()
  readonly #names = new Map<unknown, string>()
  readonly #owned: [dispose: string, handle: unknown][] = []
  readonly handles: object[] = []
  file!: NativeFile
  /** Whether a call ran out of stack, perhaps with a handle in its hands, which is left to the garbage collector. */
  mayHaveLost = false

  private constructor(random: Random, folder: string) {
    this.random = random
    this.folder = folder
    this.device = this.#open('device')
    this.other = this.#open('another device')
    this.path = join(folder, 'world.safetensors')
  }

  static async create(random: Random, folder: string): Promise<World> {
    const world = new World(random, folder)
    await world.#fill()
    return world
  }

  #open(name: string): NativeDevice {
    const { random } = this
    return this.own(
      'openDevice',
      native.openDevice('cpu', {
        threads: 1 + random.integer(3),
        instructionSet: pick(random, instructionSets),
        memoryBudget,
      }),
      name,
    )
  }

  async #fill(): Promise<void> {
    const closed = native.openDevice('cpu', { threads: 1, memoryBudget })
    const ofClosed = native.allocate(closed, 'f32', [2, 3])
    const weightOfClosed = this.weight(3, 5, closed)
    await native.closeDevice(closed)
    this.name(closed, 'a closed device')
    this.name(ofClosed, 'a tensor of a closed device')
    this.name(weightOfClosed, 'a weight of a closed device')

    const tensor = this.tensor('f32', [2, 3])
    this.name(native.allocate(this.device, 'f32', [2, 3]), 'a disposed tensor')
    native.disposeTensor(this.handles.at(-1) as NativeTensor)
    this.tensor('f32', [2, 3], this.other)
    for (const [dtype, ...shape] of [
      ['f32', 3, 2],
      ['f32', 257],
      ['f32'],
      ['f32', 0, 3],
      ['f32', 2, 3, 4],
      ['f32', 2, 2, 2, 3],
      ['i32', 4],
      ['i32', 1],
      ['bf16', 3, 5],
      ['f16', 7],
      ['u8', 9],
    ] as [DType, ...number[]][])
      this.tensor(dtype, shape)
    this.view(tensor, 0, [3, 2], [1, 3])
    this.view(tensor, 4, [2], [1])
    this.view(tensor, 1, [5, 5], [0, 0])
    this.weight(3, 5)
    this.weight(2, 3)
    this.weight(4, 4, this.other)
    native.disposeWeight(this.weight(3, 5))
    this.name(this.handles.at(-1), 'a disposed weight')

    await native.writeSafetensors(
      this.path,
      [['format', 'pt']],
      [
        { name: 'a', dtype: 'f32', shape: [2, 3], source: tensor },
        { name: 'scalar', dtype: 'bf16', shape: [], source: this.tensor('f32', []) },
      ],
    )
    this.file = this.own('openSafetensors', await native.openSafetensors(this.path), 'a file')
    const closedFile = await native.openSafetensors(this.path)
    native.closeSafetensors(closedFile)
    this.name(closedFile, 'a closed file')
    this.lock()
    const unlocked = this.lock()
    native.unlockFile(unlocked as never)
    this.name(unlocked, 'a lock that was released')
    await native.synchronize(this.device)
  }

  recording(): NativeRecording {
    const y = this.tensor('f32', [2, 3])
    native.beginRecording(this.device)
    native.run(this.device, 'fill', { y, value: 2 })
    return this.own('endRecording', native.endRecording(this.device, true)!, 'a recording')
  }

  lock(): unknown {
    const path = join(this.folder, `${this.handles.length}.lock`)
    return this.own('lockFile', native.lockFile(path), 'a lock')
  }

  tensor(dtype: DType, shape: readonly number[], device = this.device): NativeTensor {
    const tensor = native.allocate(device, dtype, shape)
    const owner = device === this.device ? '' : ' of another device'
    this.own('allocate', tensor, `a tensor ${dtype} [${shape.join(', ')}]${owner}`)
    const strides = shape.map((_, i) => shape.slice(i + 1).reduce((a, b) => a * b, 1))
    this.facts.set(tensor, { dtype, shape, strides })
    native.run(device, 'fill', { y: tensor, value: 1 })
    return tensor
  }

  view(tensor: NativeTensor, offset: number, shape: number[], strides: number[]): NativeTensor {
    const view = native.view(tensor, offset, shape, strides)
    this.own(
      'view',
      view,
      `a view [${shape.join(', ')}] at ${offset} with strides [${strides.join(', ')}] of ${this.describe(tensor)}`,
    )
    this.facts.set(view, { dtype: this.facts.get(tensor)!.dtype, shape, strides })
    return view
  }

  weight(rows: number, columns: number, device = this.device): NativeWeight {
    const storage = pick(this.random, ['f32', 'bf16'] as const)
    const compute = storage === 'f32' ? 'f32' : pick(this.random, ['f32', 'bf16'] as const)
    const weight = native.createWeight(device, { rows, columns, storage, compute })
    return this.own('createWeight', weight, `a weight [${rows}, ${columns}] ${storage}`)
  }

  name<T>(handle: T, name: string): T {
    this.#names.set(handle, name)
    if (typeof handle === 'object' && handle !== null) this.handles.push(handle)
    return handle
  }

  /** What export `made` returned; the end of the world disposes of it. */
  own<T>(made: string, handle: T, name?: string): T {
    const disposal = {
      openDevice: 'closeDevice',
      allocate: 'disposeTensor',
      view: 'disposeTensor',
      createWeight: 'disposeWeight',
      endRecording: 'disposeRecording',
      openSafetensors: 'closeSafetensors',
      lockFile: 'unlockFile',
    }[made]
    if (disposal === undefined || typeof handle !== 'object' || handle === null) return handle
    if (handle instanceof Promise) return handle
    this.#owned.push([disposal, handle])
    return name === undefined ? handle : this.name(handle, name)
  }

  get isClosed(): boolean {
    try {
      native.describeDevice(this.device)
      return false
    } catch {
      return true
    }
  }

  /** @throws if bytes of an open device are still in use when everything is disposed of */
  async end(): Promise<void> {
    native.injectFileFault(null)
    native.injectAllocationFault(0)
    const devices = this.#owned.flatMap(([how, handle]) => (how === 'closeDevice' ? [handle] : []))
    for (const device of devices as NativeDevice[]) endRecording(device)
    for (const [how, handle] of this.#owned) if (how !== 'closeDevice') loose[how](handle)
    if (this.mayHaveLost) {
      globalThis.gc?.()
      await new Promise((resolve) => setTimeout(resolve, 1))
    }
    const problems: string[] = []
    for (const device of devices as NativeDevice[]) {
      try {
        const used = native.describeDevice(device).memoryUsed
        if (used !== 0) problems.push(`${used} bytes are in use after everything was disposed of`)
        await native.closeDevice(device)
      } catch (error) {
        if (!(error instanceof DisposedError)) throw error
      }
    }
    if (problems.length > 0) throw new Error(problems.join('; '))
  }

  describe(value: unknown): string {
    const name = this.#names.get(value)
    if (name !== undefined) return name
    try {
      return inspect(value, {
        showProxy: true,
        depth: 3,
        maxArrayLength: 8,
        maxStringLength: 60,
        breakLength: Infinity,
      })
    } catch {
      return 'something that cannot be shown'
    }
  }

  /** Arguments in words, handles by their names. */
  describeAll(values: readonly unknown[]): string {
    const named = (value: unknown, depth: number): unknown => {
      if (this.#names.has(value)) return { [inspect.custom]: () => `<${this.#names.get(value)!}>` }
      if (depth > 3 || !isPlain(value)) return value
      const copy: Record<string, unknown> | unknown[] = Array.isArray(value) ? [] : {}
      for (const [key, property] of Object.entries(Object.getOwnPropertyDescriptors(value)).slice(
        0,
        16,
      ))
        if (key !== 'length' || !Array.isArray(value))
          Object.defineProperty(
            copy,
            key,
            'value' in property
              ? { ...property, value: named(property.value, depth + 1) }
              : property,
          )
      return copy
    }
    return values.map((value) => this.describe(named(value, 0))).join(', ')
  }

  /** A value that is wrong nearly everywhere. */
  hostile(): unknown {
    const { random } = this
    const kind = random.next()
    if (kind < 0.25) return pick(random, this.handles)
    if (kind < 0.5) return pick(random, hostileNumbers)
    if (kind < 0.6) return pick(random, hostileStrings)
    return pick(random, hostileObjects)(this)
  }

  /** A tensor that differs from `tensor` in one thing. */
  twisted(tensor: object, device: NativeDevice): NativeTensor {
    const { random } = this
    const { dtype, shape, strides } = this.facts.get(tensor)!
    const at = random.integer(Math.max(1, shape.length))
    const changed = (value: number) => shape.map((size, i) => (i === at ? value : size))
    const like = tensor as NativeTensor
    const size = shape[at] ?? 1
    const ways: (() => NativeTensor)[] = [
      () => this.tensor(pick(random, ['f32', 'bf16', 'f16', 'i32', 'u8']), shape, device),
      () => this.tensor(dtype, changed(size + 1), device),
      () => this.tensor(dtype, changed(Math.max(0, size - 1)), device),
      () => this.tensor(dtype, changed(0), device),
      () => this.tensor(dtype, shape.slice(1), device),
      () => this.tensor(dtype, [1, ...shape].slice(0, 4), device),
      () => this.tensor(dtype, shape, this.other),
      () =>
        this.view(
          like,
          0,
          [...shape],
          strides.map(() => 0),
        ),
      () => this.view(like, 0, [...shape].reverse(), [...strides].reverse()),
      () =>
        this.view(
          like,
          0,
          changed(Math.ceil(size / 2)),
          strides.map((stride, i) => (i === at ? 2 * stride : stride)),
        ),
      () =>
        this.view(like, size > 1 ? (strides[at] ?? 1) : 0, changed(Math.max(0, size - 1)), [
          ...strides,
        ]),
      () => {
        const gone = this.tensor(dtype, shape, device)
        native.disposeTensor(gone)
        return gone
      },
    ]
    try {
      return pick(random, ways)()
    } catch (error) {
      if (isPolyloraError(error)) return like
      throw error
    }
  }
}

/** One that a call began and no call ended keeps what it names. */
function endRecording(device: NativeDevice): void {
  try {
    native.endRecording(device, false)
  } catch (error) {
    if (!isPolyloraError(error)) throw error
  }
}
