/** Values that no function expects, and what a call that gets them may throw. */

import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { types } from 'node:util'
import { isPolyloraError } from '../../lib/errors.js'
import { chance, pick } from './part.js'
import { loose, type World } from './world.js'

/** An array or an object whose fields a generator made. */
export function isPlain(value: unknown): value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null || types.isProxy(value)) return false
  if (Array.isArray(value)) return value.length < 1000
  return Object.getPrototypeOf(value) === Object.prototype && Object.keys(value).length > 0
}

/** What the getters and traps of hostile objects throw; it must come back as it was. */
export class OwnError extends Error {}

export const hostileNumbers: readonly number[] = [
  NaN,
  Infinity,
  -Infinity,
  0,
  -0,
  -1,
  0.5,
  1,
  2,
  5e-324,
  1e-45,
  1e39,
  -1e39,
  1.7976931348623157e308,
  2 ** 16,
  2 ** 31 - 1,
  2 ** 31,
  2 ** 32 - 1,
  2 ** 32,
  2 ** 52,
  2 ** 53 - 1,
  2 ** 53,
  2 ** 63,
  2 ** 64,
  -(2 ** 31),
  -(2 ** 63),
]

export const hostileStrings: readonly string[] = [
  '',
  'a',
  'f32',
  'cpu',
  'cuda',
  'nt',
  'a\0b',
  '\0',
  '\ud800',
  '__proto__',
  'toString',
  '../a',
  'x'.repeat(300),
  '🜚'.repeat(70_000),
  'no/such/folder/a',
]

type ResizableBuffer = new (bytes: number, options: { maxByteLength: number }) => ArrayBuffer
const Resizable = ArrayBuffer as unknown as ResizableBuffer
// Not among the types of Node.
const wasm = (
  globalThis as unknown as {
    WebAssembly: { Memory: new (options: object) => { buffer: ArrayBuffer } }
  }
).WebAssembly

export const hostileObjects: readonly ((world: World) => unknown)[] = [
  () => undefined,
  () => null,
  () => true,
  () => 1n,
  () => -1n,
  () => 1n << 64n,
  () => (1n << 64n) - 1n,
  () => Symbol('hostile'),
  () => () => undefined,
  () => Date,
  () => ({}),
  () => [],
  () => Object.create(null) as unknown,
  () => new Date(0),
  () => new Map([[1, 2]]),
  () => /x/g,
  () => Promise.resolve(1),
  () => new Array<number>(2 ** 32 - 1),
  () => Object.assign([1, 2], { [2 ** 31]: 3 }),
  () => Array.from({ length: 70_000 }, () => 1),
  () => [[[[[[]]]]]],
  () => [, 1], // eslint-disable-line no-sparse-arrays
  () => new String('x'.repeat(2 ** 28)),
  () => new Number(3),
  () => Buffer.alloc(24),
  () => new Float32Array(6),
  () => new Float64Array(3),
  () => new BigInt64Array(3),
  () => new Uint8ClampedArray(24),
  () => new Uint8Array(2 ** 22),
  () => new DataView(new ArrayBuffer(24)),
  () => new ArrayBuffer(24),
  () => new SharedArrayBuffer(24),
  () => new Float32Array(new SharedArrayBuffer(24)),
  () => new Float32Array(new Resizable(24, { maxByteLength: 48 })),
  () => new DataView(new Resizable(24, { maxByteLength: 48 })),
  () => detached(new Float32Array(6)),
  () => detached(new DataView(new ArrayBuffer(24))),
  () => new Float32Array(new wasm.Memory({ initial: 1 }).buffer, 0, 6),
  ({ random, handles }) => new Proxy(pick(random, handles), {}),
  ({ random, handles }) => Object.create(pick(random, handles)) as unknown,
  ({ random, handles }) => ({ ...pick(random, handles) }),
  () => throwingProxy({}),
  () => throwingProxy([1, 2]),
  () => throwingProxy(() => undefined),
  () => {
    const { proxy, revoke } = Proxy.revocable({}, {})
    revoke()
    return proxy
  },
  () => Object.freeze({ y: 1, value: 2 }),
  () => ({ valueOf: () => 3, toString: () => 'f32', [Symbol.toPrimitive]: () => 3 }),
]

function detached<T extends ArrayBufferView>(view: T): T {
  structuredClone(view.buffer, { transfer: [view.buffer as ArrayBuffer] })
  return view
}

function throwingProxy(target: object): object {
  const trap = (): never => {
    throw new OwnError('a trap')
  }
  return new Proxy(target, {
    get: trap,
    has: trap,
    ownKeys: trap,
    getPrototypeOf: trap,
    getOwnPropertyDescriptor: trap,
  })
}

/** Something that a getter can do to a call that reads it. */
export function sideEffect(world: World, args: readonly unknown[]): () => void {
  const { random } = world
  const values = args.flatMap(function flatten(value): unknown[] {
    return isPlain(value) ? Object.values(value).slice(0, 9).flatMap(flatten) : [value]
  })
  const attempt = (name: string, ...rest: unknown[]) => {
    try {
      const result = world.own(name, loose[name](...rest))
      if (result instanceof Promise) result.catch(() => undefined)
    } catch {
      // What comes of it is not what is looked at.
    }
  }
  return pick(random, [
    () => {
      throw new OwnError('a getter')
    },
    () => {
      for (const value of values) attempt('disposeTensor', value)
    },
    () => {
      for (const value of values) attempt('disposeWeight', value)
    },
    () => {
      for (const value of values) attempt('closeSafetensors', value)
    },
    () => {
      for (const value of values)
        if (ArrayBuffer.isView(value) && value.buffer instanceof ArrayBuffer)
          try {
            detached(value)
          } catch {
            /* Some cannot be detached. */
          }
    },
    () => attempt('closeDevice', chance(random, 0.1) ? world.device : args[0]),
    () => attempt('trim', world.device),
    () => attempt('allocate', world.device, 'f32', [1 << 12]),
    () => attempt('run', world.device, 'fill', { y: pick(random, world.handles), value: 1 }),
    () => attempt('synchronize', world.device),
    () => (globalThis as { gc?: () => void }).gc?.(),
  ])
}

/** Whether `error` is one that a hostile call may end in. */
export function problemWith(error: unknown): string | null {
  if (error instanceof OwnError) return null
  if (error instanceof TypeError && error.message.includes('proxy that has been revoked'))
    return null
  if (error instanceof RangeError && error.message === 'Maximum call stack size exceeded')
    return null
  if (!isPolyloraError(error)) return `not a typed error: ${String(error)}`
  const { message } = error
  if (message.length < 10 || message.length > 1500)
    return `a message of ${message.length} characters: ${message.slice(0, 200)}`
  // What N-API says of itself names neither the value nor what is allowed.
  if (
    /^(Invalid argument|An? .* was expected|A call into JavaScript failed|Unknown failure)/i.test(
      message,
    )
  )
    return `a message that names nothing: ${message}`
  return null
}

/** A folder with things that are no files, for paths. */
export function hostilePaths(folder: string): string[] {
  const directory = join(folder, 'directory.safetensors')
  mkdirSync(directory, { recursive: true })
  const empty = join(folder, 'empty.safetensors')
  writeFileSync(empty, '')
  return [
    directory,
    empty,
    join(folder, 'missing'),
    join(empty, 'within'),
    join(folder, 'x'.repeat(300)),
    '/proc/self/none/a',
  ]
}
