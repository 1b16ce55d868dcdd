import type { Device } from '../../lib/device.js'
import type { Gate, RouterLosses } from '../../lib/ops/gate.js'
import { linear, type LowRankGroup } from '../../lib/ops/linear.js'
import { type Linear, Parameter } from '../../lib/parameter.js'
import { Tensor } from '../../lib/tensor.js'
import { dropoutMask, Random } from '../random.js'
import { makeWeight } from './linear-case.js'
import { forwardBackward } from './tape.js'

/** A group of layers whose updates are mixtures. */
export interface MixtureSizes {
  readonly numTokens: number
  readonly inFeatures: number
  readonly outFeatures: readonly number[]
  readonly rank: number
  readonly experts: number
  readonly sharedA?: boolean
  readonly sharedB?: boolean
  readonly gate: 'none' | 'router' | 'task' | 'fixed'
  readonly topK?: number
  readonly absolute?: boolean
  readonly selectionBias?: boolean
  readonly losses?: Partial<RouterLosses>
  readonly disciplines?: number
  readonly transform?: boolean
  readonly magnitude?: boolean
  readonly correction?: boolean
  readonly dropout?: number
  readonly bias?: boolean
  readonly residual?: boolean
}

type Values = Record<string, Float64Array | Float32Array>

const gateScale = 0.8
const temperature = 0.3
const lossScale = 0.03125

/** One mixture in plain float64, written from the formulas, and on a device. */
export class MixtureCase {
  readonly sizes: MixtureSizes
  readonly values: Record<string, Float32Array> = {}
  readonly cotangents: Float32Array[]
  readonly scales: number[]
  readonly rowDiscipline: Int32Array
  readonly rowExpert: Int32Array
  readonly selectionBias: Float32Array
  readonly #mask: Float64Array
  readonly #rowSample: Int32Array
  readonly #rowPosition: Int32Array
  readonly #key: { probability: number; seed: bigint; module: number; step: number }

  constructor(sizes: MixtureSizes, seed: number) {
    this.sizes = sizes
    const random = new Random(seed)
    const { numTokens: t, inFeatures: k, outFeatures, rank: r, experts: e } = sizes
    const d = sizes.disciplines ?? 1
    const { values } = this
    const rows = sizes.sharedA ? r : e * r
    const columns = sizes.sharedB ? r : e * r
    const m = outFeatures.length
    values.x = random.normal(t * k)
    values.a = random.normal(m * rows * k, 1 / Math.sqrt(k))
    outFeatures.forEach((out, i) => {
      values[`w${i}`] = random.normal(out * k, 1 / Math.sqrt(k))
      values[`b${i}`] = random.normal(out * columns, 1 / Math.sqrt(r))
      if (sizes.bias) values[`bias${i}`] = random.normal(out)
      if (sizes.transform) values[`transform${i}`] = random.normal(d * r * r, 1 / Math.sqrt(r))
      if (sizes.magnitude) values[`magnitude${i}`] = random.normal(out, 0.5, 1)
      if (sizes.correction) values[`correctionB${i}`] = random.normal(out * r)
    })
    if (sizes.correction) values.correctionA = random.normal(m * r * k, 1 / Math.sqrt(k))
    if (sizes.residual) values.residual = random.normal(t * outFeatures[0])
    if (sizes.gate === 'router') values.gate = random.normal(m * e * k, 1 / Math.sqrt(k))
    if (sizes.gate === 'task') values.gate = random.normal(m * d * e)
    if (sizes.gate === 'fixed') values.gate = random.normal(m * e)
    this.cotangents = outFeatures.map((out) => random.normal(t * out))
    this.scales = outFeatures.map(() => 0.5 + random.next())
    this.rowDiscipline = random.integers(t, d)
    this.rowExpert = random.integers(t, e + 1).map((expert) => expert - 1)
    this.selectionBias = random.normal(m * e, 0.2)
    this.#rowSample = Int32Array.from({ length: t }, (_, i) => 50 - Math.floor(i / 3))
    this.#rowPosition = Int32Array.from({ length: t }, (_, i) => i % 3)
    this.#key = { probability: sizes.dropout ?? 0, seed: 77n, module: 3, step: 5 }
    this.#mask = sizes.dropout
      ? dropoutMask(this.#key, this.#rowSample, this.#rowPosition, k)
      : new Float64Array(t * k).fill(1)
  }

  /** What is trained; everything else is frozen. */
  get trained(): string[] {
    return Object.keys(this.values).filter(
      (name) =>
        /^(a|b\d|transform\d|magnitude\d|gate)$/.test(name) &&
        !(name === 'gate' && this.sizes.gate === 'fixed'),
    )
  }

  /** [T, E] gates of mixture m in float64, and the sum of the router's own losses. */
  gates(values: Values, m: number): { gate: number[][]; loss: number } {
    const { numTokens, inFeatures: k, experts: e, gate } = this.sizes
    const rows = (make: (t: number) => number[]) =>
      Array.from({ length: numTokens }, (_, t) => make(t))
    if (gate === 'none') return { gate: rows(() => new Array<number>(e).fill(1)), loss: 0 }
    if (gate === 'fixed')
      return { gate: rows(() => Array.from(values.gate.subarray(m * e, (m + 1) * e))), loss: 0 }
    if (gate === 'task') {
      const d = this.sizes.disciplines!
      const of = (t: number) => {
        const begin = (m * d + this.rowDiscipline[t]) * e
        return softmax(Array.from(values.gate.subarray(begin, begin + e), (w) => w / temperature)).p
      }
      return { gate: rows(of), loss: 0 }
    }
    const { topK = e, absolute, losses = {}, selectionBias } = this.sizes
    const all = rows((t) => {
      const z: number[] = []
      for (let expert = 0; expert < e; expert++) {
        let sum = 0
        for (let i = 0; i < k; i++)
          sum += values.x[t * k + i] * values.gate[(m * e + expert) * k + i]
        z.push(gateScale * (absolute ? Math.abs(sum) : sum))
      }
      return z
    }).map((z) => softmax(z))
    const chosen = all.map(({ p }) => {
      const score = p.map((value, i) => value + (selectionBias ? this.selectionBias[m * e + i] : 0))
      const order = score.map((_, i) => i).sort((a, b) => score[b] - score[a] || a - b)
      return new Set(order.slice(0, topK))
    })
    const gates = all.map(({ p }, t) => {
      const total = p.reduce((sum, value, i) => sum + (chosen[t].has(i) ? value : 0), 0)
      return p.map((value, i) => (chosen[t].has(i) ? value / total : 0))
    })
    const { balance = 0, variance = 0, z = 0, supervised = 0 } = losses
    const each = Array.from({ length: e }, (_, i) => i)
    const counted = gates.map((gate, t) =>
      topK < e ? chosen[t] : new Set([gate.indexOf(Math.max(...gate))]),
    )
    const choices = counted.reduce((sum, one) => sum + one.size, 0)
    const f = each.map((i) => counted.filter((one) => one.has(i)).length / choices)
    const mean = each.map((i) => all.reduce((sum, { p }) => sum + p[i], 0) / numTokens)
    const sums = each.map((i) => gates.reduce((sum, gate) => sum + gate[i], 0))
    const average = sums.reduce((a, b) => a + b, 0) / e
    const spread = sums.reduce((sum, value) => sum + (value - average) ** 2, 0) / (e - 1)
    const perRow = all.reduce(
      (sum, { p, logSum }, t) =>
        sum +
        z * logSum ** 2 -
        (this.rowExpert[t] >= 0 ? supervised * Math.log(p[this.rowExpert[t]]) : 0),
      0,
    )
    const loss =
      lossScale *
      (numTokens * balance * e * each.reduce((sum, i) => sum + f[i] * mean[i], 0) +
        (e > 1 ? (numTokens * variance * spread) / average ** 2 : 0) +
        perRow)
    return { gate: gates, loss }
  }

  /** The layers' outputs and last the routers' own losses, in float64. */
  forward(values: Values = this.values): Float64Array[] {
    const { sizes } = this
    const { numTokens, inFeatures: k, outFeatures, rank: r, experts: e } = sizes
    let loss = 0
    const outputs = outFeatures.map((out, i) => {
      const s = this.scales[i]
      const mixture = this.gates(values, i)
      loss += mixture.loss
      const rows = sizes.sharedA ? r : e * r
      const columns = sizes.sharedB ? r : e * r
      const b = values[`b${i}`]
      const w = values[`w${i}`]
      const aOf = (row: number, column: number) => values.a[(i * rows + row) * k + column]
      const y = new Float64Array(numTokens * out)
      const norms = sizes.magnitude
        ? Array.from({ length: out }, (_, n) => {
            // Of the values at the start: the norm is held constant.
            let square = 0
            for (let c = 0; c < k; c++) {
              let entry = this.values[`w${i}`][n * k + c]
              for (let j = 0; j < r; j++)
                entry += s * this.values[`b${i}`][n * r + j] * this.values.a[(i * r + j) * k + c]
              square += entry ** 2
            }
            return Math.sqrt(square)
          })
        : null
      for (let t = 0; t < numTokens; t++) {
        const dropped = Float64Array.from(
          { length: k },
          (_, c) => this.#mask[t * k + c] * values.x[t * k + c],
        )
        let lowRank = Float64Array.from({ length: rows }, (_, j) => {
          let sum = 0
          for (let c = 0; c < k; c++) sum += dropped[c] * aOf(j, c)
          return s * sum
        })
        if (sizes.transform) {
          const matrix = values[`transform${i}`].subarray(this.rowDiscipline[t] * r * r)
          lowRank = lowRank.map((_, j) => {
            let sum = 0
            for (let c = 0; c < r; c++) sum += matrix[j * r + c] * lowRank[c]
            return sum
          })
        }
        for (let n = 0; n < out; n++) {
          let sum = 0
          for (let c = 0; c < k; c++) sum += w[n * k + c] * values.x[t * k + c]
          for (let expert = 0; expert < e; expert++)
            for (let j = 0; j < r; j++)
              sum +=
                mixture.gate[t][expert] *
                lowRank[(sizes.sharedA ? 0 : expert * r) + j] *
                b[n * columns + (sizes.sharedB ? 0 : expert * r) + j]
          if (sizes.correction)
            for (let j = 0; j < r; j++)
              for (let c = 0; c < k; c++)
                sum -=
                  s *
                  values[`correctionB${i}`][n * r + j] *
                  values.correctionA[(i * r + j) * k + c] *
                  values.x[t * k + c]
          if (norms) sum *= values[`magnitude${i}`][n] / norms[n]
          if (sizes.bias) sum += values[`bias${i}`][n]
          if (sizes.residual && i === 0) sum += values.residual[t * out + n]
          y[t * out + n] = sum
        }
      }
      return y
    })
    return [...outputs, Float64Array.of(loss)]
  }

  /** The same on a device: outputs, and the gradients of what is trained, of x and of the residual. */
  run(device: Device): { outputs: readonly Tensor[]; gradients: Record<string, Tensor> } {
    const { sizes, values } = this
    const { numTokens, inFeatures: k, outFeatures, rank: r, experts: e } = sizes
    const rows = sizes.sharedA ? r : e * r
    const columns = sizes.sharedB ? r : e * r
    const m = outFeatures.length
    const d = sizes.disciplines ?? 1
    const parameters: Record<string, Parameter> = {}
    const parameter = (name: string, shape: number[], trained = true) => {
      const one = new Parameter(name, Tensor.from(device, values[name], shape))
      if (trained) {
        one.gradient = Tensor.zeros(device, shape)
        parameters[name] = one
      }
      return one
    }
    const linears = outFeatures.map((out, i): Linear => ({
      matrix: { name: '', weight: makeWeight(device, values[`w${i}`], out, k), master: null },
      bias: sizes.bias ? parameter(`bias${i}`, [out], false) : null,
    }))
    try {
      const fallback = { discipline: 0 }
      const rankScale = Float32Array.from(
        this.scales.flatMap((s) => new Array<number>(rows).fill(s)),
      )
      const group: LowRankGroup = {
        a: parameter('a', [m * rows, k]),
        rankScale: Tensor.from(device, rankScale),
        parts: outFeatures.map((out, i) => ({
          begin: i * rows,
          end: (i + 1) * rows,
          b: parameter(`b${i}`, [out, columns]),
          transform: sizes.transform
            ? { matrices: parameter(`transform${i}`, [d, r, r]), scale: this.scales[i], fallback }
            : null,
          magnitude: sizes.magnitude
            ? {
                value: parameter(`magnitude${i}`, [out]),
                baseNorm: rowNorms(device, linears[i]),
                scale: this.scales[i],
              }
            : null,
        })),
        dropout: this.#key,
        gate: this.#gate(device, parameter),
        correction: sizes.correction
          ? {
              a: parameter('correctionA', [m * r, k], false),
              rankScale: Tensor.from(
                device,
                Float32Array.from(this.scales.flatMap((s) => new Array<number>(r).fill(-s))),
              ),
              parts: outFeatures.map((out, i) => ({
                begin: i * r,
                end: (i + 1) * r,
                b: parameter(`correctionB${i}`, [out, r], false),
              })),
              dropout: { probability: 0, seed: 0n, module: 0 },
            }
          : null,
      }
      const x = Tensor.from(device, values.x, [numTokens, k])
      const residual = sizes.residual
        ? Tensor.from(device, values.residual, [numTokens, outFeatures[0]])
        : null
      const routing = {
        rowDiscipline: Tensor.from(device, this.rowDiscipline),
        rowExpert: Tensor.from(device, this.rowExpert),
        lossScale: Tensor.from(device, [lossScale]),
      }
      const { outputs, gradients } = forwardBackward(
        device,
        [x, residual],
        (pass) => linear({ ...pass, routing }, x, linears, group, residual),
        this.cotangents,
        {
          step: Tensor.from(device, Int32Array.of(this.#key.step)),
          rowSample: Tensor.from(device, this.#rowSample),
          rowPosition: Tensor.from(device, this.#rowPosition),
        },
      )
      const result: Record<string, Tensor> = { x: gradients[0]! }
      if (gradients[1]) result.residual = gradients[1]
      for (const [name, { gradient }] of Object.entries(parameters)) result[name] = gradient!
      return { outputs, gradients: result }
    } finally {
      for (const { matrix } of linears) matrix.weight.dispose()
    }
  }

  #gate(device: Device, parameter: (name: string, shape: number[]) => Parameter): Gate | null {
    const { sizes } = this
    const { gate, inFeatures, outFeatures, experts, disciplines = 1 } = sizes
    const m = outFeatures.length
    if (gate === 'none') return null
    if (gate === 'fixed')
      return { kind: gate, experts, weights: Tensor.from(device, this.values.gate, [m, experts]) }
    if (gate === 'task')
      return {
        kind: gate,
        experts,
        weights: parameter('gate', [m, disciplines, experts]),
        temperature,
        fallback: { discipline: 0 },
      }
    return {
      kind: gate,
      experts,
      weights: parameter('gate', [m * experts, inFeatures]),
      topK: sizes.topK ?? experts,
      scale: gateScale,
      absolute: sizes.absolute ?? false,
      losses: { balance: 0, variance: 0, z: 0, supervised: 0, ...sizes.losses },
      state: {
        bias: sizes.selectionBias ? Tensor.from(device, this.selectionBias, [m, experts]) : null,
        statistics: null,
      },
    }
  }
}

function rowNorms(device: Device, { matrix }: Linear): Tensor {
  const y = Tensor.empty(device, [matrix.weight.rows])
  device.run('weight_row_norms', { weight: matrix.weight.native, y: y.native })
  return y
}

function softmax(z: readonly number[]): { p: number[]; logSum: number } {
  const largest = Math.max(...z)
  const sum = z.reduce((total, value) => total + Math.exp(value - largest), 0)
  return { p: z.map((value) => Math.exp(value - largest) / sum), logSum: largest + Math.log(sum) }
}
