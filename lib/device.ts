import { DeviceError, DisposedError } from './errors.js'
import {
  loadNative,
  type DeviceInfo,
  type DeviceOptions,
  type DType,
  type NativeDevice,
  type NativeRecording,
  type NativeTensor,
  type OperationTime,
} from './native.js'

export type { DeviceInfo, DeviceOptions, DType, OperationTime }

/** Where a device kind was loaded from, or why it is not there. */
export interface Backend {
  readonly kind: string
  readonly file: string | null
  readonly reason: string | null
}

/** Every device kind that this build knows. */
export function backends(): Backend[] {
  return loadNative().backends()
}

/**
 * A device with its one queue: operations are checked and queued at once, run in order on threads of the device, and
 * never block the event loop. A failure while running is sticky: every later await rejects with the first cause until
 * the device is closed. An open device does not keep the process alive.
 */
export class Device {
  readonly kind: string
  /** Whether `record` may record. */
  readonly #records: boolean
  readonly #native: NativeDevice
  readonly #addon = loadNative()
  #closing: Promise<void> | null = null

  private constructor(kind: string, options: DeviceOptions) {
    this.kind = kind
    this.#native = this.#addon.openDevice(kind, options)
    this.#records = (options as DeviceOptions | null)?.recordings ?? true
  }

  /**
   * @param kind 'cpu'; 'auto' picks the fastest kind that is there
   * @throws ArgumentError for an option that is not allowed, DeviceError if the kind is not there
   */
  static open(kind = 'auto', options: DeviceOptions = {}): Device {
    return new Device(kind === 'auto' ? fastestKind() : kind, options)
  }

  /** The addon's handle. */
  get native(): NativeDevice {
    if (this.#closing !== null) throw new DisposedError(`the ${this.kind} device is closed`)
    return this.#native
  }

  get isClosed(): boolean {
    return this.#closing !== null
  }

  /** Threads, instruction set, and the memory in use now. */
  get info(): DeviceInfo {
    return this.#addon.describeDevice(this.native)
  }

  /**
   * Queues one operation of src/kernels.h. The fields of `args` are those of the operation's struct in camelCase;
   * optional ones are null, undefined or absent.
   *
   * @throws ArgumentError, ShapeError or DTypeError at once for arguments that do not fit
   */
  run(operation: string, args: object): void {
    this.#addon.run(this.native, operation, args)
  }

  /**
   * Records what `body` queues instead of queueing it, for a step that will come again with the same shapes: a replay
   * skips what JavaScript does for it, and on CUDA is one launch of a graph. Tensors that `body` makes must end in it;
   * what they and its operations use otherwise is kept alive. What changes from replay to replay has to be in tensors,
   * written before.
   *
   * @returns null if recordings are off, or if something in `body` cannot be recorded (a write, a read): then nothing
   *   was queued, and `body` must run as usual
   * @throws what `body` throws, and ArgumentError if a tensor that it made outlives it
   */
  record(body: () => void): Recording | null {
    if (!this.#records || !this.#addon.beginRecording(this.native)) return null
    try {
      body()
    } catch (error) {
      this.#addon.endRecording(this.native, false)
      if (error instanceof DeviceError && error.details.unsupported === 1) return null
      throw error
    }
    const native = this.#addon.endRecording(this.native, true)
    return native ? new Recording(native) : null
  }

  /** Memory with undefined contents, for `Tensor`. @throws OutOfMemoryError if the budget would be exceeded */
  allocate(dtype: DType, shape: readonly number[]): NativeTensor {
    return this.#addon.allocate(this.native, dtype, shape)
  }

  /** Resolves when everything queued so far has run. @throws DeviceError with the first failure */
  async synchronize(): Promise<void> {
    await this.#addon.synchronize(this.native)
  }

  /**
   * Turns the timing of operations on or off (at first it is off). Returns the operations that have run since it was last
   * turned on; what is queued but has not run is not among them, so synchronise first.
   */
  profile(on: boolean): OperationTime[] {
    return this.#addon.profile(this.native, on)
  }

  /** Gives memory that is cached for reuse back to the system, once the queue has passed its last use. */
  trim(): void {
    this.#addon.trim(this.native)
  }

  /**
   * Drops what is queued, waits for what runs, and frees all memory of the device. Its tensors and weights become
   * disposed, and awaits on it reject. Idempotent.
   */
  close(): Promise<void> {
    this.#closing ??= this.#addon.closeDevice(this.#native)
    return this.#closing
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Operations of a device that were put together once ({@link Device.record}). Whoever made it disposes of it. */
export class Recording {
  readonly #native: NativeRecording

  /** @internal */
  constructor(native: NativeRecording) {
    this.#native = native
  }

  /** Queues all of it. @throws DisposedError */
  replay(): void {
    loadNative().replayRecording(this.#native)
  }

  /** Replays that are queued still run. Idempotent. */
  dispose(): void {
    loadNative().disposeRecording(this.#native)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

function fastestKind(): string {
  const present = backends().filter(({ reason }) => reason === null)
  return present.some(({ kind }) => kind === 'cuda') ? 'cuda' : 'cpu'
}

/** {@link Device.open} as a function. */
export function openDevice(kind = 'auto', options: DeviceOptions = {}): Device {
  return Device.open(kind, options)
}
