import type { Device } from '../../lib/device.js'
import { linear, type LowRankGroup } from '../../lib/ops/linear.js'
import type { DropoutRows, Pass } from '../../lib/ops/pass.js'
import { type Linear, Parameter } from '../../lib/parameter.js'
import { Tensor } from '../../lib/tensor.js'
import { Weight } from '../../lib/weight.js'
import { type DropoutKey, dropoutMask, Random } from '../random.js'
import { combine, productNN, productNT, productTN, sliceColumns } from './reference.js'
import { forwardBackward } from './tape.js'

/** Linear layers that share x, with what may surround them. */
export interface LinearSizes {
  readonly numTokens: number
  readonly inFeatures: number
  readonly outFeatures: readonly number[]
  /** One a layer, null where it has no update; null: no adapter at all. */
  readonly ranks: readonly (number | null)[] | null
  readonly bias?: boolean
  readonly residual?: boolean
  readonly dropout?: number
}

/** Random values of one case, by name; weights, biases and B have their layer's number behind the name. */
export type LinearValues = Record<string, Float32Array>

export interface LinearOptions {
  readonly storage?: 'f32' | 'bf16'
  readonly compute?: 'f32' | 'bf16'
  /** Train the base weights and biases too. */
  readonly trainsBase?: boolean
  /** Default true. */
  readonly tracksInput?: boolean
  /** Layers that no gradient reaches. */
  readonly unreached?: readonly number[]
  /** What has reached x before. */
  readonly bypass?: Float32Array
}

export class LinearCase {
  readonly sizes: LinearSizes
  readonly values: LinearValues
  readonly cotangents: readonly Float32Array[]
  readonly rankScale: Float32Array
  /** Where each layer's rank rows begin and end in A. */
  readonly parts: readonly ({ begin: number; end: number } | null)[]
  readonly rowSample: Int32Array
  readonly rowPosition: Int32Array
  readonly dropout: DropoutKey
  readonly mask: Float64Array
  /** What the gradient buffers of trained values hold before the backward pass. */
  readonly initialGradients: LinearValues = {}

  constructor(sizes: LinearSizes, seed: number) {
    const { numTokens, inFeatures, outFeatures, ranks } = sizes
    this.sizes = sizes
    const random = new Random(seed)
    const values: LinearValues = { x: random.normal(numTokens * inFeatures) }
    let end = 0
    this.parts = outFeatures.map((out, i) => {
      values[`w${i}`] = random.normal(out * inFeatures, 1 / Math.sqrt(inFeatures))
      if (sizes.bias) values[`bias${i}`] = random.normal(out)
      const rank = ranks?.[i] ?? null
      if (rank === null) return null
      values[`b${i}`] = random.normal(out * rank, 1 / Math.sqrt(rank))
      const begin = end
      end += rank
      return { begin, end }
    })
    if (ranks) values.a = random.normal(end * inFeatures, 1 / Math.sqrt(inFeatures))
    if (sizes.residual) values.residual = random.normal(numTokens * outFeatures[0])
    this.values = values
    for (const [name, value] of Object.entries(values))
      this.initialGradients[name] = random.normal(value.length)
    this.rankScale = random.normal(end, 0.3, 1)
    this.cotangents = outFeatures.map((out) => random.normal(numTokens * out))
    // Samples of a few rows each, in no order.
    this.rowSample = Int32Array.from({ length: numTokens }, (_, t) => 1000 - 7 * Math.floor(t / 5))
    this.rowPosition = Int32Array.from({ length: numTokens }, (_, t) => (t % 5) + 3)
    const probability = sizes.dropout ?? 0
    this.dropout = { probability, seed: 0x0123_4567_89ab_cdefn, module: 21, step: 77 }
    this.mask =
      probability > 0
        ? dropoutMask(this.dropout, this.rowSample, this.rowPosition, inFeatures)
        : new Float64Array(numTokens * inFeatures).fill(1)
  }

  /** The same case with some fields replaced. */
  with(fields: Partial<Fields>): LinearCase {
    return Object.assign(Object.create(LinearCase.prototype) as LinearCase, this, fields)
  }

  /** The layers' outputs in float64. */
  forward(values: Readonly<Record<string, ArrayLike<number>>> = this.values): Float64Array[] {
    const { numTokens, inFeatures, outFeatures } = this.sizes
    const p = values.a && project(this, values.x, values.a)
    return outFeatures.map((out, i) => {
      let y = productNT(values.x, values[`w${i}`], numTokens, out, inFeatures)
      const part = this.parts[i]
      if (p && part) {
        const rank = part.end - part.begin
        const update = productNT(partOf(this, p, i), values[`b${i}`], numTokens, out, rank)
        y = combine((a, b) => a + b, y, update)
      }
      const bias = values[`bias${i}`]
      if (bias) y = y.map((value, j) => value + bias[j % out])
      return i === 0 && values.residual ? combine((a, b) => a + b, y, values.residual) : y
    })
  }

  /** Gradients in float64, by the derivation: T = s · dY B, dB = dYᵀ P, dA = Tᵀ x̂, dX = Σ dY W + mask(T A). */
  backward(cotangents: readonly ArrayLike<number>[] = this.cotangents): LinearGradients {
    const { numTokens, inFeatures, outFeatures, residual } = this.sizes
    const { values } = this
    const gradients: LinearGradients = {}
    const plus = (a: ArrayLike<number>, b: ArrayLike<number>) => combine((x, y) => x + y, a, b)
    const numRanks = this.rankScale.length
    const t = new Float64Array(numTokens * numRanks)
    const p = values.a && project(this, values.x, values.a)
    let dx: Float64Array = new Float64Array(numTokens * inFeatures)
    outFeatures.forEach((out, i) => {
      const dy = cotangents[i]
      dx = plus(dx, productNN(dy, values[`w${i}`], numTokens, inFeatures, out))
      gradients[`w${i}`] = productTN(dy, values.x, out, inFeatures, numTokens)
      if (values[`bias${i}`]) {
        const ones = new Float64Array(numTokens).fill(1)
        gradients[`bias${i}`] = productTN(ones, dy, 1, out, numTokens)
      }
      const part = this.parts[i]
      if (!p || !part) return
      const { begin, end } = part
      const rank = end - begin
      gradients[`b${i}`] = productTN(dy, partOf(this, p, i), out, rank, numTokens)
      productNN(dy, values[`b${i}`], numTokens, rank, out).forEach((value, j) => {
        const r = begin + (j % rank)
        t[Math.floor(j / rank) * numRanks + r] = value * this.rankScale[r]
      })
    })
    if (p) {
      const dropped = combine((x, factor) => x * factor, values.x, this.mask)
      gradients.a = productTN(t, dropped, numRanks, inFeatures, numTokens)
      const update = productNN(t, values.a, numTokens, inFeatures, numRanks)
      dx = plus(
        dx,
        combine((x, factor) => x * factor, update, this.mask),
      )
    }
    gradients.x = dx
    if (residual) gradients.residual = Float64Array.from(cotangents[0])
    return gradients
  }

  /** The same on a device. Base gradients are there only with `trainsBase`. Everything returned belongs to the scope. */
  run(
    device: Device,
    options: LinearOptions = {},
  ): { outputs: readonly Tensor[]; gradients: Record<string, Tensor> } {
    const { numTokens, inFeatures, outFeatures } = this.sizes
    const { values } = this
    const { trainsBase = false, tracksInput = true } = options
    const tensor = (name: string, shape: number[]) => Tensor.from(device, values[name], shape)
    const trained: Record<string, Parameter> = {}
    const train = (name: string, shape: number[]) => {
      const parameter = new Parameter(name, tensor(name, shape))
      parameter.gradient = Tensor.from(device, this.initialGradients[name], shape)
      return (trained[name] = parameter)
    }
    const layers = outFeatures.map((out, i): Linear => {
      const weight = makeWeight(device, values[`w${i}`], out, inFeatures, options)
      const master = trainsBase ? train(`w${i}`, [out, inFeatures]) : null
      if (!values[`bias${i}`]) return { matrix: { name: '', weight, master }, bias: null }
      const bias = trainsBase
        ? train(`bias${i}`, [out])
        : new Parameter('', tensor(`bias${i}`, [out]))
      return { matrix: { name: '', weight, master }, bias }
    })
    try {
      const numRanks = this.rankScale.length
      const { probability, seed, module } = this.dropout
      const lowRank: LowRankGroup | null = values.a
        ? {
            a: train('a', [numRanks, inFeatures]),
            rankScale: Tensor.from(device, this.rankScale),
            parts: this.parts.map(
              (part, i) =>
                part && { ...part, b: train(`b${i}`, [outFeatures[i], part.end - part.begin]) },
            ),
            dropout: { probability, seed, module },
          }
        : null
      const x = tensor('x', [numTokens, inFeatures])
      const residual = values.residual ? tensor('residual', [numTokens, outFeatures[0]]) : null
      const { outputs, gradients } = forwardBackward(
        device,
        tracksInput ? [x, residual] : [],
        (pass: Pass) => {
          const outputs = linear(pass, x, layers, lowRank, residual)
          if (options.bypass) pass.tape!.accumulate(x, Tensor.from(device, options.bypass, x.shape))
          return outputs
        },
        this.cotangents.map((dy, i) => (options.unreached?.includes(i) ? null : dy)),
        this.dropoutRows(device),
      )
      const result: Record<string, Tensor> = {}
      if (gradients[0]) result.x = gradients[0]
      if (gradients[1]) result.residual = gradients[1]
      for (const [name, { gradient }] of Object.entries(trained)) result[name] = gradient!
      return { outputs, gradients: result }
    } finally {
      for (const { matrix } of layers) matrix.weight.dispose()
    }
  }

  dropoutRows(device: Device): DropoutRows | null {
    return {
      step: Tensor.from(device, Int32Array.of(this.dropout.step)),
      rowSample: Tensor.from(device, this.rowSample),
      rowPosition: Tensor.from(device, this.rowPosition),
    }
  }

  /** The same case with rows begin … end - 1 alone. */
  rows(begin: number, end: number): LinearCase {
    const { inFeatures, outFeatures } = this.sizes
    const cut = (values: Float32Array, columns: number) =>
      values.slice(begin * columns, end * columns)
    const values: LinearValues = { ...this.values, x: cut(this.values.x, inFeatures) }
    if (values.residual) values.residual = cut(values.residual, outFeatures[0])
    return this.with({
      sizes: { ...this.sizes, numTokens: end - begin },
      values,
      cotangents: this.cotangents.map((dy, i) => cut(dy, outFeatures[i])),
      rowSample: this.rowSample.slice(begin, end),
      rowPosition: this.rowPosition.slice(begin, end),
    })
  }
}

/** P = s · dropout(x) Aᵀ [T, R] */
function project(one: LinearCase, x: ArrayLike<number>, a: ArrayLike<number>): Float64Array {
  const { numTokens, inFeatures } = one.sizes
  const dropped = combine((value, factor) => value * factor, x, one.mask)
  const numRanks = one.rankScale.length
  const p = productNT(dropped, a, numTokens, numRanks, inFeatures)
  return p.map((value, i) => value * one.rankScale[i % numRanks])
}

/** The columns of P that belong to a layer. */
function partOf(one: LinearCase, p: ArrayLike<number>, layer: number): Float64Array {
  const { begin, end } = one.parts[layer]!
  return sliceColumns(p, one.rankScale.length, begin, end)
}

type Fields = { readonly [K in keyof LinearCase]: LinearCase[K] }

export type LinearGradients = Record<string, Float64Array>

/** A weight with the given values; the caller disposes it. */
export function makeWeight(
  device: Device,
  values: Float32Array,
  rows: number,
  columns: number,
  { storage = 'f32', compute = 'f32' }: LinearOptions = {},
): Weight {
  const weight = Weight.create(device, { rows, columns, storage, compute })
  const source = Tensor.from(device, values, [rows, columns])
  weight.update(source)
  return weight
}
