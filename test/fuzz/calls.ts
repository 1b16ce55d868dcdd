/** Every export of the addon, called with arguments that are right but for one thing, or wrong throughout. */

import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { NativeAddon } from '../../lib/native.js'
import { operationArguments, operationNames } from './operations.js'
import { chance, type Part, pick, type Round } from './part.js'
import { hostilePaths, isPlain, problemWith, sideEffect } from './values.js'
import { loose, native, World } from './world.js'

const callsOfPart = 10_000
const callsOfRound = 250

/** Good arguments of each export. */
const exports: Record<keyof NativeAddon, (world: World) => unknown[]> = {
  backends: () => [],
  // Loading a library runs it, so none is hostile that is one.
  addBackend: ({ path, folder, random }) => [pick(random, [path, ...hostilePaths(folder)])],
  openDevice: ({ random }) => [
    'cpu',
    pick(random, [
      undefined,
      {},
      { threads: 2 },
      { index: 0, threads: 1, instructionSet: 'portable', memoryBudget: 1 << 20 },
    ]),
  ],
  closeDevice: ({ device, other, random }) => [pick(random, [device, other])],
  describeDevice: ({ device }) => [device],
  synchronize: ({ device }) => [device],
  profile: ({ device, random }) => [device, chance(random, 0.5)],
  trim: ({ device }) => [device],
  allocate: ({ device, random }) => [
    device,
    pick(random, ['f32', 'bf16', 'f16', 'i32', 'u8']),
    sizes(random),
  ],
  view: (world) => [world.tensor('f32', [4, 5]), world.random.integer(5), [2, 3], [5, 1]],
  disposeTensor: (world) => [world.tensor('f32', [2, 3])],
  writeTensor: (world) => [
    world.tensor('f32', [2, 3]),
    pick(world.random, [
      new Float32Array(6),
      new DataView(new ArrayBuffer(30), 3, 24),
      Buffer.alloc(24),
      new BigUint64Array(3),
    ]),
  ],
  readTensor: (world) => [world.tensor('f32', [2, 3])],
  createWeight: ({ device, random }) => {
    const storage = pick(random, ['f32', 'bf16'])
    return [
      device,
      { rows: 1 + random.integer(70), columns: 1 + random.integer(70), storage, compute: storage },
    ]
  },
  disposeWeight: (world) => [world.weight(2, 3)],
  run: (world) => {
    const operation = pick(world.random, operationNames)
    return [world.device, operation, operationArguments(operation, world)]
  },
  beginRecording: ({ device }) => [device],
  endRecording: (world) => {
    const { device, random } = world
    const y = world.tensor('f32', [2, 3])
    native.beginRecording(device)
    native.run(device, 'fill', { y, value: 2 })
    // What is made meanwhile outlives it.
    if (chance(random, 0.3)) world.tensor('f32', [5])
    return [device, chance(random, 0.7)]
  },
  replayRecording: (world) => [world.recording()],
  disposeRecording: (world) => [world.recording()],
  openSafetensors: ({ path, folder, random }) => [
    chance(random, 0.3) ? pick(random, hostilePaths(folder)) : path,
  ],
  safetensorsEntries: ({ file }) => [file],
  readSafetensors: (world) => [
    world.file,
    'a',
    world.tensor(pick(world.random, ['f32', 'bf16', 'f16']), [2, 3]),
  ],
  readSafetensorsWeight: (world) => [world.file, 'a', world.weight(3, 3), world.random.integer(2)],
  closeSafetensors: ({ file }) => [file],
  writeSafetensors: (world) => {
    const { random, folder } = world
    const path = chance(random, 0.2)
      ? pick(random, hostilePaths(folder))
      : join(folder, 'written.safetensors')
    const entries = [
      { name: 'a', dtype: 'f32', shape: [3, 2], source: world.tensor('f32', [2, 3]) },
      { name: 'b', dtype: 'bf16', shape: [2, 2], source: world.weight(2, 2) },
      { name: 'c', dtype: 'i32', shape: [], source: world.tensor('i32', [1]) },
    ]
    return [
      path,
      [
        ['format', 'pt'],
        ['key', 'value'],
      ],
      entries.slice(0, random.integer(4)),
    ]
  },
  lockFile: ({ folder, random }) => [
    chance(random, 0.3)
      ? pick(random, hostilePaths(folder))
      : join(folder, `${random.integer(9)}.lock`),
  ],
  unlockFile: (world) => [world.lock()],
  exchangePaths: ({ folder }) => {
    const paths = ['left', 'right'].map((name) => join(folder, name))
    for (const path of paths) writeFileSync(path, path)
    return paths
  },
  injectAllocationFault: ({ random }) => [random.integer(4)],
  heldBytes: () => [],
  injectFileFault: ({ random }) => [
    {
      call: pick(random, ['open', 'read', 'write', 'sync', 'rename', 'unlink', 'syncFolder']),
      nth: random.integer(3),
      error: pick(random, ['ENOSPC', 'EIO', 'EINTR', 'short']),
    },
  ],
}

const sizes = (random: World['random']) =>
  Array.from({ length: random.integer(5) }, () => random.integer(6))

/** A copy of `value` in which one thing, at any depth, is hostile. */
export function mutated(
  world: World,
  value: unknown,
  args: readonly unknown[],
  device = world.device,
): unknown {
  const { random } = world
  if (isPlain(value) && chance(random, 0.85)) {
    const copy = (Array.isArray(value) ? [...(value as unknown[])] : { ...value }) as Record<
      string,
      unknown
    >
    const key = pick(
      random,
      Object.keys(value).concat(Array.isArray(value) && value.length > 0 ? [] : ['unknown']),
    )
    const how = random.next()
    if (how < 0.7) copy[key] = mutated(world, copy[key], args, device)
    else if (how < 0.8) Reflect.deleteProperty(copy, key)
    else if (how < 0.95) {
      const held = copy[key]
      const act = sideEffect(world, args)
      const get = () => {
        act()
        return held
      }
      Object.defineProperty(copy, key, { get, enumerable: true, configurable: true })
    } else copy[pick(random, ['extra', '__proto__', '7', ''])] = world.hostile()
    return chance(random, 0.05) ? new Proxy(copy, {}) : copy
  }
  if (typeof value === 'object' && value !== null && world.facts.has(value) && chance(random, 0.7))
    return world.twisted(value, device)
  if (typeof value === 'number' && chance(random, 0.3))
    return pick(random, [value + 1, value - 1, -value, value / 2, 1e6 * value])
  return world.hostile()
}

function hostileTuple(world: World, good: readonly unknown[]): unknown[] {
  const { random } = world
  const how = random.next()
  if (how < 0.1) return [...good]
  if (how < 0.15) return Array.from({ length: random.integer(6) }, () => world.hostile())
  if (how < 0.2) return good.slice(0, random.integer(good.length + 1))
  const args = [...good, ...(how < 0.25 ? [world.hostile()] : [])]
  const at = random.integer(Math.max(1, args.length))
  args[at] = mutated(world, args[at], args)
  if (args.length > 1 && chance(random, 0.2)) args[(at + 1) % args.length] = world.hostile()
  return args
}

/** Those that answer by a promise, which is lost, and its rejection with it, where the stack ends before it is heard. */
const asynchronous: readonly string[] = [
  'closeDevice',
  'synchronize',
  'readTensor',
  'openSafetensors',
  'readSafetensors',
  'readSafetensorsWeight',
  'writeSafetensors',
  'exchangePaths',
]

/** Calls with so little stack left that anything on the way may overflow it. */
function atEdgeOfStack(call: () => unknown): unknown {
  try {
    return atEdgeOfStack(call)
  } catch (error) {
    if (error instanceof RangeError) return call()
    throw error
  }
}

/** Rejections are looked at when the round ends, so that calls meet work that is still under way. */
class Pending {
  readonly #promises: Promise<unknown>[] = []
  readonly #problems: string[] = []

  add(world: World, name: string, promise: Promise<unknown>): void {
    const settled = promise.then(
      (value) => world.own(name, value),
      (error: unknown) => {
        const problem = problemWith(error)
        if (problem !== null) this.#problems.push(`${name} rejected with ${problem}`)
      },
    )
    this.#promises.push(settled)
  }

  async settle(): Promise<void> {
    await Promise.all(this.#promises)
    if (this.#problems.length > 0) throw new Error(this.#problems.join('\n'))
  }
}

async function round(
  name: keyof NativeAddon,
  { random, folder, note, calls = callsOfRound }: Round,
): Promise<void> {
  let world = await World.create(random, folder)
  const pending = new Pending()
  for (let i = 0; i < calls; ++i) {
    // Devices and files that a call has closed are opened again.
    if (i % 50 === 49) {
      await pending.settle()
      await world.end()
      world = await World.create(random, folder)
    }
    const args = hostileTuple(world, goodArguments(name, world))
    note(() => `${name}(${world.describeAll(args)})`)
    try {
      const call = () => loose[name](...args)
      const isAtEdge = !asynchronous.includes(name) && chance(random, 0.01)
      world.mayHaveLost ||= isAtEdge
      const result = world.own(name, isAtEdge ? atEdgeOfStack(call) : call())
      if (result instanceof Promise) pending.add(world, name, result)
    } catch (error) {
      const problem = problemWith(error)
      if (problem !== null)
        throw new Error(`${name}(${world.describeAll(args)}) threw ${problem}`, { cause: error })
    }
  }
  await pending.settle()
  await world.end()
}

/** Good arguments, where the world still has what they need. */
function goodArguments(name: keyof NativeAddon, world: World): unknown[] {
  try {
    return exports[name](world)
  } catch (error) {
    // An earlier call closed the device.
    if (problemWith(error) !== null) throw error
    return [world.device]
  }
}

/** @throws if the addon has an export without a generator, or the other way round */
export function callParts(): Part[] {
  const missing = Object.keys(native).filter((name) => !Object.hasOwn(exports, name))
  const gone = Object.keys(exports).filter((name) => !Object.hasOwn(native, name))
  if (missing.length + gone.length > 0)
    throw new Error(
      `test/fuzz/calls.ts has no arguments for ${missing.join(', ') || 'none'}, and has some for ${gone.join(', ') || 'none'} that the addon lacks`,
    )
  return (Object.keys(exports) as (keyof NativeAddon)[]).map((name) => ({
    name: `call ${name}`,
    rounds: callsOfPart / callsOfRound,
    run: (context) => round(name, context),
  }))
}
