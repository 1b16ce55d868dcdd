import assert from 'node:assert/strict'
import { it } from 'mocha'
import { squareRoot } from '../../lib/adapters/output-basis.js'
import type { Device } from '../../lib/device.js'
import { noLosses } from '../../lib/adapters/form.js'
import { linear, type LowRankGroup } from '../../lib/ops/linear.js'
import { Parameter } from '../../lib/parameter.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { makeWeight } from './linear-case.js'
import { centralDifferences } from './reference.js'
import { forwardBackward } from './tape.js'

const [numTokens, inFeatures, rank, experts, scale] = [7, 9, 2, 3, 0.7]
const outFeatures = [8, 11]
const width = experts * rank

/**
 * MoLE's layer in plain float64 as its paper has it: the gate reads the experts' outputs side by side, E out numbers,
 * divided by their root mean square, through a learned matrix e of [E, E out].
 */
class MoleCase {
  readonly values: Record<string, Float32Array> = {}
  readonly frozen: Record<string, Float32Array> = {}
  readonly cotangents: Float32Array[]
  /** By layer K, and K⁻¹ as a matrix, of its own B. */
  readonly roots: number[][][]

  constructor(seed: number) {
    const random = new Random(seed)
    this.values.x = random.normal(numTokens * inFeatures)
    this.frozen.a = random.normal(outFeatures.length * width * inFeatures, 1 / 3)
    outFeatures.forEach((out, i) => {
      this.frozen[`w${i}`] = random.normal(out * inFeatures, 1 / 3)
      this.frozen[`b${i}`] = random.normal(out * width, 0.7)
      this.values[`gate${i}`] = random.normal(experts * width)
    })
    this.cotangents = outFeatures.map((out) => random.normal(numTokens * out))
    this.roots = outFeatures.map((out, i) => this.#root(this.frozen[`b${i}`], out))
  }

  #root(b: Float32Array, out: number): number[][] {
    const whole = Array.from({ length: width }, () => new Array<number>(width).fill(0))
    for (let e = 0; e < experts; e++) {
      const gram = Array.from({ length: rank }, (_, p) =>
        Array.from({ length: rank }, (_, q) => {
          let sum = 0
          for (let n = 0; n < out; n++)
            sum += b[n * width + e * rank + p] * b[n * width + e * rank + q]
          return sum
        }),
      )
      squareRoot(gram).forEach((row, p) => {
        row.forEach((value, q) => {
          whole[e * rank + p][e * rank + q] = value
        })
      })
    }
    return whole
  }

  /** e of [E, E out] from what is learned in the basis of the outputs, Q = B K⁻¹: e = U Qᵀ √(rank / out). */
  #reading(values: Record<string, ArrayLike<number>>, i: number): number[][] {
    const out = outFeatures[i]
    const b = this.frozen[`b${i}`]
    const inverse = invert(this.roots[i])
    const direction = (expert: number, n: number, column: number) => {
      let sum = 0
      for (let p = 0; p < rank; p++)
        sum += b[n * width + expert * rank + p] * inverse[expert * rank + p][column]
      return sum
    }
    return Array.from({ length: experts }, (_, target) =>
      Array.from({ length: experts * out }, (_, at) => {
        const [expert, n] = [Math.floor(at / out), at % out]
        let sum = 0
        for (let q = 0; q < rank; q++) {
          const column = expert * rank + q
          sum += values[`gate${i}`][target * width + column] * direction(expert, n, column)
        }
        return sum * Math.sqrt(rank / out)
      }),
    )
  }

  forward(given: Record<string, ArrayLike<number>> = {}): Float64Array[] {
    const values = { ...this.values, ...given }
    return outFeatures.map((out, i) => {
      const [w, b] = [this.frozen[`w${i}`], this.frozen[`b${i}`]]
      const reading = this.#reading(values, i)
      const y = new Float64Array(numTokens * out)
      for (let t = 0; t < numTokens; t++) {
        const said = Array.from({ length: experts * out }, (_, at) => {
          const [expert, n] = [Math.floor(at / out), at % out]
          let sum = 0
          for (let p = 0; p < rank; p++) {
            let s = 0
            for (let c = 0; c < inFeatures; c++)
              s +=
                this.frozen.a[(i * width + expert * rank + p) * inFeatures + c] *
                values.x[t * inFeatures + c]
            sum += s * b[n * width + expert * rank + p]
          }
          return sum
        })
        const square = said.reduce((sum, value) => sum + value ** 2, 0)
        // The norm's epsilon counts against the coordinates' mean square, of which there are E r.
        const over = Math.sqrt((experts * out) / (square + width * 1e-6))
        const z = reading.map((row) =>
          row.reduce((sum, value, at) => sum + scale * value * said[at] * over, 0),
        )
        const powers = z.map((value) => Math.exp(value - Math.max(...z)))
        const total = powers.reduce((sum, value) => sum + value, 0)
        for (let n = 0; n < out; n++) {
          let sum = 0
          for (let c = 0; c < inFeatures; c++)
            sum += w[n * inFeatures + c] * values.x[t * inFeatures + c]
          for (let e = 0; e < experts; e++) sum += (powers[e] / total) * said[e * out + n]
          y[t * out + n] = sum
        }
      }
      return y
    })
  }

  run(device: Device): Record<string, Tensor> {
    const parameter = (name: string, values: Float32Array, shape: number[], trained: boolean) => {
      const one = new Parameter(name, Tensor.from(device, values, shape))
      if (trained) one.gradient = Tensor.zeros(device, shape)
      return one
    }
    const { frozen, values } = this
    const linears = outFeatures.map((out, i) => ({
      matrix: {
        name: '',
        weight: makeWeight(device, frozen[`w${i}`], out, inFeatures),
        master: null,
      },
      bias: null,
    }))
    try {
      const rows = outFeatures.length * width
      const readers = outFeatures.map((_, i) => ({
        weights: parameter(`gate${i}`, values[`gate${i}`], [experts, width], true),
        basis: Tensor.from(device, Float32Array.from(this.roots[i].flat()), [width, width]),
        ones: Tensor.full(device, [width], 1),
      }))
      const group: LowRankGroup = {
        a: parameter('a', frozen.a, [rows, inFeatures], false),
        rankScale: Tensor.full(device, [rows], 1),
        parts: outFeatures.map((out, i) => ({
          begin: i * width,
          end: (i + 1) * width,
          b: parameter(`b${i}`, frozen[`b${i}`], [out, width], false),
        })),
        dropout: { probability: 0, seed: 0n, module: 0 },
        gate: {
          kind: 'outputs',
          experts,
          scale,
          readers,
          losses: noLosses,
          state: { bias: null, statistics: null },
        },
      }
      const x = Tensor.from(device, values.x, [numTokens, inFeatures])
      const { outputs, gradients } = forwardBackward(
        device,
        [x],
        (pass) => linear(pass, x, linears, group),
        this.cotangents,
      )
      return {
        ...Object.fromEntries(outputs.map((y, i) => [`y${i}`, y])),
        ...Object.fromEntries(readers.map(({ weights }, i) => [`gate${i}`, weights.gradient!])),
        x: gradients[0]!,
      }
    } finally {
      for (const { matrix } of linears) matrix.weight.dispose()
    }
  }
}

forEachDevice("MoLE's gate", (context) => {
  it('has the outputs and gradients of the formula over the whole outputs', async () => {
    const one = new MoleCase(51)
    const read = await evaluate(() => one.run(context.device))
    const tolerance = 4 * roundingTolerance(64)
    one.forward().forEach((y, i) => {
      assertClose(read[`y${i}`], y, tolerance, `y of layer ${i}`)
    })
    const differences = centralDifferences(
      (values) => one.forward(values),
      one.values,
      one.cotangents,
    )
    assert.deepEqual(Object.keys(differences).sort(), ['gate0', 'gate1', 'x'])
    for (const [name, gradient] of Object.entries(differences))
      assertClose(read[name], gradient, tolerance, `gradient of ${name}`)
  })
})

/** By Gauss and Jordan, with pivots. */
function invert(matrix: readonly (readonly number[])[]): number[][] {
  const n = matrix.length
  const rows = matrix.map((row, i) => [...row, ...row.map((_, j) => Number(i === j))])
  for (let p = 0; p < n; p++) {
    let best = p
    for (let i = p; i < n; i++) if (Math.abs(rows[i][p]) > Math.abs(rows[best][p])) best = i
    ;[rows[p], rows[best]] = [rows[best], rows[p]]
    const pivot = rows[p][p]
    rows[p] = rows[p].map((value) => value / pivot)
    for (let i = 0; i < n; i++) {
      if (i === p) continue
      const factor = rows[i][p]
      rows[i] = rows[i].map((value, j) => value - factor * rows[p][j])
    }
  }
  return rows.map((row) => row.slice(n))
}
