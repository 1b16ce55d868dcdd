import type { Device } from './device.js'
import { ArgumentError, DisposedError, DTypeError, ShapeError } from './errors.js'
import { loadNative, type DType, type NativeTensor } from './native.js'
import { Scope } from './scope.js'

export type { DType }

/** What a tensor reads into and is written from; bf16 and f16 travel as their bits. */
export type TensorData = Float32Array | Int32Array | Uint16Array | Uint8Array

const bytesPerElement: Readonly<Record<DType, number>> = { f32: 4, bf16: 2, f16: 2, i32: 4, u8: 1 }

/**
 * A strided view of device memory with at most four dimensions. Views share their storage, which is freed when the
 * last tensor that refers to it is.
 *
 * Ownership is counted. A new tensor has one owner: the current `Scope`, or its maker where there is none. `retain`
 * adds an owner, `release` takes one away, and at none the tensor is disposed; memory is reused at once, because
 * everything that touches it runs in the order of the queue. A forgotten tensor is freed with its handle by the garbage
 * collector, at some time.
 */
export class Tensor {
  readonly device: Device
  readonly dtype: DType
  readonly shape: readonly number[]
  /** In elements. */
  readonly strides: readonly number[]
  #native: NativeTensor | null
  #owners = 1

  private constructor(
    device: Device,
    native: NativeTensor,
    dtype: DType,
    shape: readonly number[],
    strides: readonly number[],
  ) {
    this.device = device
    this.dtype = dtype
    this.shape = shape
    this.strides = strides
    this.#native = native
    Scope.adopt(this)
  }

  /** Contents are undefined. @throws OutOfMemoryError, ShapeError */
  static empty(device: Device, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    const copy = [...shape]
    return new Tensor(device, device.allocate(dtype, copy), dtype, copy, contiguousStrides(copy))
  }

  static full(
    device: Device,
    shape: readonly number[],
    value: number,
    dtype: DType = 'f32',
  ): Tensor {
    const tensor = Tensor.empty(device, shape, dtype)
    device.run('fill', { y: tensor.native, value })
    return tensor
  }

  static zeros(device: Device, shape: readonly number[], dtype: DType = 'f32'): Tensor {
    return Tensor.full(device, shape, 0, dtype)
  }

  /**
   * A tensor with the given values in C order, which are copied before this returns.
   *
   * @param dtype default: f32 for Float32Array and arrays of numbers, i32 for Int32Array, u8 for Uint8Array. Float32Array
   *   and arrays of numbers are converted to any dtype; a Uint16Array holds the bits of bf16 or f16, which must be named.
   */
  static from(
    device: Device,
    data: TensorData | readonly number[],
    shape: readonly number[] = [data.length],
    dtype?: DType,
  ): Tensor {
    const target = dtype ?? defaultDType(data)
    const values = Array.isArray(data) ? fromNumbers(data, target) : (data as TensorData)
    const tensor = Tensor.empty(device, shape, target)
    try {
      if (values instanceof Float32Array && target !== 'f32') {
        const source = Tensor.from(device, values, shape)
        tensor.copyFrom(source)
        if (Scope.current === null) source.release()
      } else tensor.write(values)
    } catch (error) {
      if (Scope.current === null) tensor.release()
      throw error
    }
    return tensor
  }

  /** The addon's handle. @throws DisposedError */
  get native(): NativeTensor {
    if (this.#native === null) throw new DisposedError(`${this.toString()} is disposed`)
    return this.#native
  }

  get isDisposed(): boolean {
    return this.#native === null
  }

  get rank(): number {
    return this.shape.length
  }

  /** Number of elements. */
  get size(): number {
    return this.shape.reduce((product, size) => product * size, 1)
  }

  get byteLength(): number {
    return this.size * bytesPerElement[this.dtype]
  }

  get isContiguous(): boolean {
    let stride = 1
    for (let i = this.rank - 1; i >= 0; --i) {
      if (this.shape[i] === 0) return true
      if (this.shape[i] !== 1 && this.strides[i] !== stride) return false
      stride *= this.shape[i]
    }
    return true
  }

  /**
   * The same elements in another shape, without a copy; one size may be -1.
   *
   * @throws ShapeError if the number of elements differs, or the strides do not allow it
   */
  view(shape: readonly number[]): Tensor {
    const target = inferSize(shape, this.size, this)
    const strides = viewStrides(this.shape, this.strides, target)
    if (strides === null)
      throw new ShapeError(
        `${this.toString()} with strides [${this.strides.join(', ')}] cannot be viewed as [${target.join(', ')}] without a copy`,
      )
    return this.#share(0, target, strides)
  }

  /** Elements begin … end - 1 of one dimension; a view. */
  slice(dim: number, begin: number, end: number): Tensor {
    const d = this.#dimension(dim)
    const size = this.shape[d]
    if (
      !Number.isInteger(begin) ||
      !Number.isInteger(end) ||
      begin < 0 ||
      end < begin ||
      end > size
    )
      throw new ShapeError(
        `slice ${String(begin)} … ${String(end)} does not lie within dimension ${String(d)} of ${this.toString()}`,
      )
    const shape = [...this.shape]
    shape[d] = end - begin
    return this.#share(end > begin ? begin * this.strides[d] : 0, shape, [...this.strides])
  }

  /** Two dimensions exchanged; a view. */
  transpose(dim0 = -2, dim1 = -1): Tensor {
    const [a, b] = [this.#dimension(dim0), this.#dimension(dim1)]
    const shape = [...this.shape]
    const strides = [...this.strides]
    ;[shape[a], shape[b]] = [shape[b], shape[a]]
    ;[strides[a], strides[b]] = [strides[b], strides[a]]
    return this.#share(0, shape, strides)
  }

  /** Overwrites this tensor with `source`: the same shape, any strides, converting the dtype. */
  copyFrom(source: Tensor): this {
    this.device.run('copy', { x: source.native, y: this.native })
    return this
  }

  /** A contiguous copy. */
  clone(dtype: DType = this.dtype): Tensor {
    const source = this.native
    const copy = Tensor.empty(this.device, this.shape, dtype)
    this.device.run('copy', { x: source, y: copy.native })
    return copy
  }

  fill(value: number): this {
    this.device.run('fill', { y: this.native, value })
    return this
  }

  /**
   * The elements in C order, once the queue has got here. bf16 and f16 are returned as their bits.
   *
   * @throws DeviceError with the first failure of the device
   */
  async read(): Promise<TensorData> {
    const buffer = await this.#contiguousBytes(this.dtype)
    switch (this.dtype) {
      case 'f32':
        return new Float32Array(buffer)
      case 'i32':
        return new Int32Array(buffer)
      case 'u8':
        return new Uint8Array(buffer)
      default:
        return new Uint16Array(buffer)
    }
  }

  /** As `read`, converted to float32 first. */
  async readFloats(): Promise<Float32Array> {
    return new Float32Array(await this.#contiguousBytes('f32'))
  }

  /** As `read`; i32 only. */
  async readInts(): Promise<Int32Array> {
    if (this.dtype !== 'i32')
      throw new DTypeError(`readInts needs an i32 tensor, not ${this.toString()}`)
    return new Int32Array(await this.#contiguousBytes('i32'))
  }

  /** The only element. */
  async item(): Promise<number> {
    if (this.size !== 1) throw new ShapeError(`item needs one element, not ${this.toString()}`)
    const values = this.dtype === 'i32' ? await this.readInts() : await this.readFloats()
    return values[0]
  }

  /** Overwrites all elements, in C order; contiguous tensors only. `data` is copied before this returns. */
  write(data: TensorData): this {
    if (!matches(data, this.dtype))
      throw new DTypeError(`${this.toString()} cannot be written from a ${nameOf(data)}`)
    if (data.length !== this.size)
      throw new ShapeError(
        `${this.toString()} has ${String(this.size)} elements, but ${String(data.length)} were given`,
      )
    loadNative().writeTensor(this.native, data)
    return this
  }

  /** Takes this tensor out of the innermost scope that owns it: the caller is its owner now. */
  detach(): this {
    return Scope.detach(this)
  }

  /** Adds an owner. */
  retain(): this {
    if (this.#native === null) throw new DisposedError(`${this.toString()} is disposed`)
    this.#owners++
    return this
  }

  /**
   * Takes away an ownership that is the caller's own, never a scope's (`Scope.discard` does that); at none the tensor is
   * disposed. Nothing happens to a disposed tensor.
   */
  release(): void {
    if (this.#native === null || --this.#owners > 0) return
    const native = this.#native
    this.#native = null
    loadNative().disposeTensor(native)
  }

  /** {@link release} under the name that says who owns it: use it where this is the only owner. */
  dispose(): void {
    this.release()
  }

  [Symbol.dispose](): void {
    this.release()
  }

  toString(): string {
    return `${this.dtype} tensor [${this.shape.join(', ')}]`
  }

  #share(offset: number, shape: number[], strides: number[]): Tensor {
    const native = loadNative().view(this.native, offset, shape, strides)
    return new Tensor(this.device, native, this.dtype, shape, strides)
  }

  async #contiguousBytes(dtype: DType): Promise<ArrayBuffer> {
    if (dtype === this.dtype && this.isContiguous) return loadNative().readTensor(this.native)
    const inner = new Scope()
    let pending: Promise<ArrayBuffer>
    try {
      pending = loadNative().readTensor(this.clone(dtype).native)
    } finally {
      inner.end()
    }
    return pending
  }

  #dimension(dim: number): number {
    const d = dim < 0 ? dim + this.rank : dim
    if (!Number.isInteger(d) || d < 0 || d >= this.rank)
      throw new ShapeError(`${this.toString()} has no dimension ${String(dim)}`)
    return d
  }
}

/** A tensor of one dimension: i32 or f32, as its values. */
export function vector(device: Device, values: Int32Array | Float32Array): Tensor {
  return Tensor.from(device, values, [values.length])
}

/** Strides of C order. */
export function contiguousStrides(shape: readonly number[]): number[] {
  const strides = new Array<number>(shape.length)
  let stride = 1
  for (let i = shape.length - 1; i >= 0; --i) {
    strides[i] = stride
    stride *= Math.max(shape[i], 1)
  }
  return strides
}

function inferSize(shape: readonly number[], size: number, tensor: Tensor): number[] {
  const holes = shape.filter((s) => s === -1).length
  const known = shape.reduce((product, s) => (s === -1 ? product : product * s), 1)
  const target = shape.map((s) => (s === -1 ? size / known : s))
  if (
    holes > 1 ||
    target.some((s) => !Number.isInteger(s) || s < 0) ||
    target.reduce((product, s) => product * s, 1) !== size
  )
    throw new ShapeError(`${tensor.toString()} cannot be viewed as [${shape.join(', ')}]`)
  return target
}

/**
 * The strides that show the same elements in another shape, or null: each run of dimensions that lie contiguously in
 * memory can be cut anew.
 */
function viewStrides(
  shape: readonly number[],
  strides: readonly number[],
  target: readonly number[],
): number[] | null {
  if (target.includes(0)) return contiguousStrides(target)
  const dims = shape.map((_, d) => d).filter((d) => shape[d] !== 1)
  const result = contiguousStrides(target)
  let t = target.length - 1
  while (dims.length > 0) {
    const last = dims.pop()!
    let count = shape[last]
    while (dims.length > 0 && strides[dims.at(-1)!] === strides[last] * count)
      count *= shape[dims.pop()!]
    let covered = 1
    for (; t >= 0 && covered < count; --t) {
      result[t] = covered * strides[last]
      covered *= target[t]
    }
    if (covered !== count) return null
  }
  return result
}

function defaultDType(data: TensorData | readonly number[]): DType {
  if (data instanceof Int32Array) return 'i32'
  if (data instanceof Uint8Array) return 'u8'
  if (data instanceof Uint16Array)
    throw new ArgumentError('a Uint16Array holds the bits of bf16 or f16: name the dtype')
  if (data instanceof Float32Array || Array.isArray(data)) return 'f32'
  throw new ArgumentError(
    `tensor data must be a Float32Array, Int32Array, Uint16Array, Uint8Array or an array of numbers, not ${nameOf(data)}`,
  )
}

function fromNumbers(data: readonly number[], dtype: DType): TensorData {
  const bad = data.findIndex((value) => typeof value !== 'number')
  if (bad >= 0) throw new ArgumentError(`element ${String(bad)} of the data is not a number`)
  if (dtype !== 'i32' && dtype !== 'u8') return Float32Array.from(data)
  const values = dtype === 'i32' ? Int32Array.from(data) : Uint8Array.from(data)
  const lost = data.findIndex((value, i) => values[i] !== value)
  if (lost >= 0)
    throw new ArgumentError(
      `element ${String(lost)} of the data, ${String(data[lost])}, is not an ${dtype}`,
    )
  return values
}

function matches(data: TensorData, dtype: DType): boolean {
  switch (dtype) {
    case 'f32':
      return data instanceof Float32Array
    case 'i32':
      return data instanceof Int32Array
    case 'u8':
      return data instanceof Uint8Array
    default:
      return data instanceof Uint16Array
  }
}

function nameOf(value: unknown): string {
  if (value === null) return 'null'
  return typeof value === 'object' ? (value.constructor?.name ?? 'object') : typeof value
}
