/** The addon's raw border: the only file that touches it. One-to-one; handles are opaque; everything is checked there. */

import { createRequire } from 'node:module'
import { dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import { DeviceError, errorFromCode, type PolyloraErrorName, errorCodes } from './errors.js'

declare const tensorBrand: unique symbol
declare const weightBrand: unique symbol
declare const deviceBrand: unique symbol
declare const recordingBrand: unique symbol
declare const fileBrand: unique symbol
declare const lockBrand: unique symbol

/** A strided view of device memory; it shares reference-counted storage with its views. */
export interface NativeTensor {
  readonly [tensorBrand]: true
}
/** A packed [rows, columns] matrix. */
export interface NativeWeight {
  readonly [weightBrand]: true
}
export interface NativeDevice {
  readonly [deviceBrand]: true
}
/** Operations to be queued again as a whole; it keeps alive what they read and write. */
export interface NativeRecording {
  readonly [recordingBrand]: true
}
/** An opened safetensors file whose header has been validated. */
export interface NativeFile {
  readonly [fileBrand]: true
}
export interface NativeLock {
  readonly [lockBrand]: true
}

export type DType = 'f32' | 'bf16' | 'f16' | 'i32' | 'u8'

export interface DeviceOptions {
  index?: number
  /** CPU workers; default: the least of affinity and cgroup quota. */
  threads?: number
  /** Highest instruction set allowed. CPU: portable, avx2, avx512, avx512-bf16. CUDA: sm_80, or the device's own. */
  instructionSet?: string
  /** Bytes; default: what the cgroup or the machine leaves. */
  memoryBudget?: number
  /** Whether steps whose shapes stay the same are put together once and replayed; default true. Results are the same. */
  recordings?: boolean
}

export interface DeviceInfo {
  kind: string
  name: string
  threads: number
  instructionSet: string
  memoryBudget: number
  memoryUsed: number
  memoryReserved: number
  memoryPeak: number
  queueDepth: number
  /** Replays of recordings that have run, and those of them that were one launch of a CUDA graph. */
  replays: number
  graphReplays: number
}

export interface OperationTime {
  operation: string
  count: number
  seconds: number
}

export interface SafetensorsEntry {
  name: string
  /** As the file spells it: F32, BF16, … */
  dtype: string
  shape: number[]
  /** Bytes from the start of the file. */
  begin: number
  end: number
}

export interface NativeSafetensorsSource {
  name: string
  dtype: DType
  shape: readonly number[]
  source: NativeTensor | NativeWeight
}

export interface NativeAddon {
  /** Every device kind this build knows: the file it came from, or why it is not there. */
  backends(): { kind: string; file: string | null; reason: string | null }[]
  /** For tests: loads a device's library from an absolute path and returns the kind that it adds. */
  addBackend(file: string): string

  openDevice(kind: string, options: DeviceOptions): NativeDevice
  /** Drops what is queued, waits for what runs, frees everything; handles of the device become disposed. */
  closeDevice(device: NativeDevice): Promise<void>
  describeDevice(device: NativeDevice): DeviceInfo
  /** Resolves when everything queued before has finished; rejects with the first failure. */
  synchronize(device: NativeDevice): Promise<void>
  /** Turns the timing of operations on or off; returns what ran since it was last turned on. */
  profile(device: NativeDevice, on: boolean): OperationTime[]
  /** Gives cached memory back to the system. */
  trim(device: NativeDevice): void

  /** Contents are undefined. Throws OutOfMemory at once if the budget would be exceeded. */
  allocate(device: NativeDevice, dtype: DType, shape: readonly number[]): NativeTensor
  /** offset in elements from the tensor's first element; refused if any element would lie outside its storage. */
  view(
    tensor: NativeTensor,
    offset: number,
    shape: readonly number[],
    strides: readonly number[],
  ): NativeTensor
  /** Idempotent. Work already queued still sees the memory. */
  disposeTensor(tensor: NativeTensor): void
  /** Contiguous tensors only. The bytes are copied before the call returns; their number must be exact. */
  writeTensor(tensor: NativeTensor, bytes: ArrayBufferView): void
  /** Contiguous tensors only. */
  readTensor(tensor: NativeTensor): Promise<ArrayBuffer>

  createWeight(
    device: NativeDevice,
    options: { rows: number; columns: number; storage: 'f32' | 'bf16'; compute: 'f32' | 'bf16' },
  ): NativeWeight
  disposeWeight(weight: NativeWeight): void

  /** Queues one operation of src/kernels.h; fields are the struct's in camelCase; optional ones null or absent. */
  run(device: NativeDevice, operation: string, args: object): void

  /** From here on operations are kept instead of queued; false: this device cannot, and nothing changes. */
  beginRecording(device: NativeDevice): boolean
  /** Undefined without `keeps`, or where something was asked for that cannot be recorded: it is dropped. Refused if a tensor that was made meanwhile is still there. */
  endRecording(device: NativeDevice, keeps: boolean): NativeRecording | undefined
  /** Queues all of it as one operation. */
  replayRecording(recording: NativeRecording): void
  /** Idempotent. Replays already queued still run. */
  disposeRecording(recording: NativeRecording): void

  openSafetensors(path: string): Promise<NativeFile>
  safetensorsEntries(file: NativeFile): {
    entries: SafetensorsEntry[]
    metadata: [string, string][]
  }
  /** Reads the named tensor into a contiguous tensor of the same number of elements, converting the dtype. */
  readSafetensors(file: NativeFile, name: string, tensor: NativeTensor): Promise<void>
  /** Reads the named [n, columns] tensor into rows rowBegin … of a weight. */
  readSafetensorsWeight(
    file: NativeFile,
    name: string,
    weight: NativeWeight,
    rowBegin: number,
  ): Promise<void>
  closeSafetensors(file: NativeFile): void
  /** Writes path.tmp, syncs it, renames it to path and syncs the folder; on failure nothing is left behind. Entries are
   * tensors (contiguous) or whole weights, converted to `dtype` on the way out. Returns the file's size in bytes. */
  writeSafetensors(
    path: string,
    metadata: readonly (readonly [string, string])[],
    entries: readonly NativeSafetensorsSource[],
  ): Promise<number>

  /** Swaps what two names stand for, in one step; false if the file system cannot do that. */
  exchangePaths(a: string, b: string): Promise<boolean>

  /**
   * An advisory lock on the folder that is there, or else on a file, created if need be; held until released or the
   * process ends; null if another holds it.
   */
  lockFile(path: string): NativeLock | null
  unlockFile(lock: NativeLock): void

  /**
   * For tests: the `nth` system call named `call` (open, read, write, sync, rename, unlink, syncFolder) that the file
   * functions make from now on fails with `error` (an errno name), or transfers one byte if `error` is 'short', or is
   * interrupted once if it is 'EINTR'; null undoes it.
   */
  injectFileFault(fault: { call: string; nth: number; error: string } | null): void

  /**
   * For tests: the `nth` time from now on that a CPU device takes memory fails; 0: none does.
   *
   * @returns how often memory was taken since this was called last
   */
  injectAllocationFault(nth: number): number
  /** For tests: bytes that the CPU devices of this process hold, in all threads, in use or not. */
  heldBytes(): number
}

/** The addon throws plain errors with one of these codes. */
const nameByCode: Readonly<Record<string, PolyloraErrorName>> = {
  Argument: 'ArgumentError',
  Shape: 'ShapeError',
  DType: 'DTypeError',
  Disposed: 'DisposedError',
  OutOfMemory: 'OutOfMemoryError',
  Device: 'DeviceError',
  Format: 'FormatError',
  Io: 'FormatError',
}

/** The typed error for what the addon threw; anything else is returned as it is. */
function typed(error: unknown): unknown {
  if (!(error instanceof Error)) return error
  const { code, details } = error as { code?: unknown; details?: Record<string, unknown> }
  const name = typeof code === 'string' ? nameByCode[code] : undefined
  if (name === undefined) return error
  return errorFromCode(errorCodes[name], error.message, { details }) ?? error
}

type AnyFunction = (...args: unknown[]) => unknown

function wrap(raw: AnyFunction): AnyFunction {
  return (...args) => {
    let result: unknown
    try {
      result = raw(...args)
    } catch (error) {
      throw typed(error)
    }
    // Not by instanceof, which is a call: without stack for it, a handle that was made would be lost.
    if ((result as object | null | undefined)?.constructor !== Promise) return result
    return (result as Promise<unknown>).catch((error: unknown) => {
      throw typed(error)
    })
  }
}

let loaded: NativeAddon | undefined

/**
 * The addon, loaded on first use: from build/Release or prebuilds, whether this file runs from lib/ or dist/.
 *
 * @throws DeviceError if it is missing or cannot be loaded; `details` has `file` (null if none was found) and `reason`
 */
export function loadNative(): NativeAddon {
  if (loaded !== undefined) return loaded
  const require = createRequire(import.meta.url)
  const root = dirname(dirname(fileURLToPath(import.meta.url)))
  let file: string | null = null
  let raw: Record<string, AnyFunction>
  try {
    file = (require('node-gyp-build') as { path(folder: string): string }).path(root)
    raw = require(file) as Record<string, AnyFunction>
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message.trim() : String(cause)
    throw new DeviceError(
      file === null
        ? `no native addon was found for this platform in ${root}: ${reason}`
        : `the native addon ${file} could not be loaded: ${reason}`,
      { details: { file, reason }, cause },
    )
  }
  const wrapped: Record<string, AnyFunction> = {}
  for (const [name, value] of Object.entries(raw)) wrapped[name] = wrap(value)
  loaded = wrapped as unknown as NativeAddon
  return loaded
}
