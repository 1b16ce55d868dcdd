import type { Device } from './device.js'
import { DisposedError, ShapeError } from './errors.js'
import { loadNative, type NativeWeight } from './native.js'
import { Tensor } from './tensor.js'

export interface WeightOptions {
  /** Output features, or the size of the vocabulary. */
  readonly rows: number
  /** Input features. */
  readonly columns: number
  /** How the elements are kept. Default: f32. */
  readonly storage?: 'f32' | 'bf16'
  /** f32: float32 products; bf16: both operands rounded to bf16, float32 accumulation. Default: f32. */
  readonly compute?: 'f32' | 'bf16'
}

/**
 * A [rows, columns] matrix in the layout that the device's products like best. Its elements are zero until updated. It
 * belongs to whoever made it: no scope ends it.
 */
export class Weight {
  readonly device: Device
  readonly rows: number
  readonly columns: number
  readonly storage: 'f32' | 'bf16'
  readonly compute: 'f32' | 'bf16'
  #native: NativeWeight | null

  private constructor(device: Device, options: WeightOptions) {
    const { rows, columns, storage = 'f32', compute = 'f32' } = options
    this.device = device
    this.rows = rows
    this.columns = columns
    this.storage = storage
    this.compute = compute
    this.#native = loadNative().createWeight(device.native, { rows, columns, storage, compute })
  }

  /** @throws OutOfMemoryError, ShapeError, ArgumentError */
  static create(device: Device, options: WeightOptions): Weight {
    return new Weight(device, options)
  }

  /** The addon's handle. @throws DisposedError */
  get native(): NativeWeight {
    if (this.#native === null) throw new DisposedError(`${this.toString()} is disposed`)
    return this.#native
  }

  get isDisposed(): boolean {
    return this.#native === null
  }

  /** Rows rowBegin … become `source`: f32, bf16 or f16 [n, columns], widened or rounded to the storage. */
  update(source: Tensor, rowBegin = 0): this {
    this.device.run('weight_update', { weight: this.native, source: source.native, rowBegin })
    return this
  }

  /** A copy of rows rowBegin … rowBegin + n, exactly as stored (bf16 storage widens to f32). */
  read(rowBegin = 0, n = this.rows - rowBegin, dtype: 'f32' | 'bf16' = 'f32'): Tensor {
    if (!(rowBegin >= 0 && n >= 0 && rowBegin + n <= this.rows))
      throw new ShapeError(
        `rows ${String(rowBegin)} … ${String(rowBegin + n)} do not lie within ${this.toString()}`,
      )
    void this.native
    return this.readInto(Tensor.empty(this.device, [n, this.columns], dtype), rowBegin)
  }

  /** As `read`, into an f32 or bf16 tensor [n, columns], which is returned. */
  readInto(y: Tensor, rowBegin = 0): Tensor {
    this.device.run('weight_read', { weight: this.native, rowBegin, y: y.native })
    return y
  }

  /** Frees it once the queue has passed its last use. Idempotent. */
  dispose(): void {
    if (this.#native === null) return
    const native = this.#native
    this.#native = null
    loadNative().disposeWeight(native)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  toString(): string {
    return `${this.storage} weight [${String(this.rows)}, ${String(this.columns)}]`
  }
}
