import type { Device } from '../device.js'
import { ArgumentError } from '../errors.js'
import type { RotaryTable } from '../ops/rope.js'
import { Scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { ConfigFields } from './config-fields.js'

export interface RopeConfig {
  readonly theta: number
  readonly scaling: RopeScaling | null
}

export type RopeScaling =
  | { readonly kind: 'linear'; readonly factor: number }
  | {
      readonly kind: 'llama3'
      readonly factor: number
      readonly lowFrequencyFactor: number
      readonly highFrequencyFactor: number
      readonly originalMaxPositions: number
    }

/** Reads `rope_parameters` (transformers 5), or `rope_theta` with `rope_scaling` and its old key `type`. */
export function readRopeConfig(fields: ConfigFields, defaultTheta: number): RopeConfig {
  const flatTheta = fields.number('rope_theta', defaultTheta)
  const legacy = fields.object('rope_scaling')
  const nested = fields.object('rope_parameters') ?? legacy
  if (!nested) return { theta: flatTheta, scaling: null }
  const theta = nested.number('rope_theta', flatTheta)
  nested.only('partial_rotary_factor', [1])
  const kindKey = nested.has('rope_type') ? 'rope_type' : 'type'
  const kind = nested.string(kindKey, 'default')
  if (kind === 'default') return { theta, scaling: null }
  if (kind !== 'linear' && kind !== 'llama3')
    throw nested.error(kindKey, kind, '"default", "linear" or "llama3"')
  const factor = nested.number('factor')
  if (kind === 'linear') return { theta, scaling: { kind, factor } }
  const scaling = {
    kind,
    factor,
    lowFrequencyFactor: nested.number('low_freq_factor'),
    highFrequencyFactor: nested.number('high_freq_factor'),
    originalMaxPositions: nested.integer('original_max_position_embeddings', undefined, {
      max: 1 << 27,
    }),
  } as const
  if (scaling.highFrequencyFactor <= scaling.lowFrequencyFactor)
    throw nested.error(
      'high_freq_factor',
      scaling.highFrequencyFactor,
      `a number above low_freq_factor (${scaling.lowFrequencyFactor})`,
    )
  return { theta, scaling }
}

/**
 * Inverse frequencies of the head's pairs, float32 [headDim / 2]: theta^(-2i / headDim), then the scaling. Rounded to
 * float32 where transformers rounds, so that long positions agree.
 */
export function inverseFrequencies(headDim: number, { theta, scaling }: RopeConfig): Float32Array {
  return Float32Array.from({ length: headDim / 2 }, (_, i) => {
    const frequency = Math.fround(1 / Math.fround(theta ** ((2 * i) / headDim)))
    if (!scaling) return frequency
    if (scaling.kind === 'linear') return frequency / scaling.factor
    const { factor, lowFrequencyFactor: low, highFrequencyFactor: high } = scaling
    const wavelength = (2 * Math.PI) / frequency
    const original = scaling.originalMaxPositions
    if (wavelength < original / high) return frequency
    if (wavelength > original / low) return frequency / factor
    const smooth = (original / wavelength - low) / (high - low)
    return ((1 - smooth) * frequency) / factor + smooth * frequency
  })
}

/** The rotary table of one model, grown when a longer sequence comes. */
export class Rotary {
  readonly #device: Device
  readonly #frequencies: Float32Array
  readonly #maxPositions: number
  #table: RotaryTable | null = null
  #length = 0

  constructor(device: Device, headDim: number, rope: RopeConfig, maxPositions: number) {
    this.#device = device
    this.#frequencies = inverseFrequencies(headDim, rope)
    this.#maxPositions = maxPositions
  }

  /** A table that covers positions 0 … length - 1; valid until a longer one is asked for. */
  table(length: number): RotaryTable {
    if (length > this.#maxPositions)
      throw new ArgumentError(
        `a sequence of ${length} tokens is longer than the model's max_position_embeddings, ${this.#maxPositions}`,
        { details: { received: length, allowed: this.#maxPositions } },
      )
    if (this.#table && length <= this.#length) return this.#table
    const rows = Math.min(this.#maxPositions, Math.max(length, 2 * this.#length, 512))
    const half = this.#frequencies.length
    const cosines = new Float32Array(rows * half)
    const sines = new Float32Array(rows * half)
    for (let position = 0, i = 0; position < rows; position++)
      for (const frequency of this.#frequencies) {
        const angle = Math.fround(frequency * position)
        cosines[i] = Math.cos(angle)
        sines[i++] = Math.sin(angle)
      }
    this.dispose()
    this.#table = {
      cosines: Scope.detach(Tensor.from(this.#device, cosines, [rows, half])),
      sines: Scope.detach(Tensor.from(this.#device, sines, [rows, half])),
    }
    this.#length = rows
    return this.#table
  }

  dispose(): void {
    this.#table?.cosines.release()
    this.#table?.sines.release()
    this.#table = null
    this.#length = 0
  }
}
