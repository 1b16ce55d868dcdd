import { it } from 'mocha'
import type { Device } from '../../lib/device.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { assertFailsDevice } from '../failing-device.js'
import { Random } from '../random.js'
import { centralDifferences } from './reference.js'

interface RouterCase {
  readonly rows: number
  readonly mixtures: number
  readonly experts: number
  readonly topK: number
  readonly absolute?: boolean
  readonly biased?: boolean
}

// One expert a lane, several, and many, some and all of them chosen; rows beyond one block of a sum.
const cases: readonly RouterCase[] = [
  { rows: 5, mixtures: 1, experts: 1, topK: 1 },
  { rows: 9, mixtures: 3, experts: 5, topK: 2, biased: true },
  { rows: 130, mixtures: 1, experts: 3, topK: 2 },
  { rows: 4, mixtures: 2, experts: 33, topK: 33, absolute: true },
  { rows: 2, mixtures: 1, experts: 150, topK: 9 },
  { rows: 3, mixtures: 1, experts: 131, topK: 131 },
]

const scale = 1.3
const losses = { balance: 2, variance: 3, z: 0.5, supervised: 1.5 }
const lossScale = 0.25
const groups = 3

function inputs({ rows, mixtures, experts }: RouterCase) {
  const random = new Random(rows * experts)
  return {
    logits: random.normal(rows * mixtures * experts),
    bias: random.normal(mixtures * experts, 0.1),
    dGate: random.normal(rows * mixtures * experts),
    expertOfRow: Int32Array.from({ length: rows }, () => random.integer(experts + 1) - 1),
    rowGroup: random.integers(rows, groups),
  }
}

/** Gates of row t and mixture m in float64, and what the losses and the statistics are made of. */
function route(one: RouterCase, logits: ArrayLike<number>, bias: Float32Array, at: number) {
  const { mixtures, experts, topK, absolute, biased } = one
  const z = Array.from({ length: experts }, (_, e) => {
    const x = logits[at * experts + e]
    return scale * (absolute ? Math.abs(x) : x)
  })
  const most = Math.max(...z)
  const sum = z.reduce((total, value) => total + Math.exp(value - most), 0)
  const logSum = most + Math.log(sum)
  const p = z.map((value) => Math.exp(value - logSum))
  const score = p.map((v, e) => v + (biased ? bias[(at % mixtures) * experts + e] : 0))
  const order = score.map((_, e) => e).sort((a, b) => score[b] - score[a] || a - b)
  const chosen = new Set(order.slice(0, topK))
  const total = p.reduce((s, v, e) => s + (chosen.has(e) ? v : 0), 0)
  const gate = p.map((v, e) => (chosen.has(e) ? v / total : 0))
  const counted = topK < experts ? chosen : new Set([gate.indexOf(Math.max(...gate))])
  return { z, p, logSum, gate, counted }
}

/** Σ dGate gate and the losses of all mixtures, as a function of the logits; f is counted from the values' own. */
function objectiveOf(one: RouterCase, values: ReturnType<typeof inputs>) {
  const { rows, mixtures, experts } = one
  const each = Array.from({ length: experts }, (_, e) => e)
  const routed = (logits: ArrayLike<number>, m: number) =>
    Array.from({ length: rows }, (_, t) => route(one, logits, values.bias, t * mixtures + m))
  const parts = Array.from({ length: mixtures }, (_, m) => {
    const rowsChoices = routed(values.logits, m).map(({ counted }) => counted)
    const choices = rowsChoices.reduce((sum, { size }) => sum + size, 0)
    return each.map((e) => rowsChoices.filter((chosen) => chosen.has(e)).length / choices)
  })
  return (logits: ArrayLike<number>) => {
    let total = 0
    parts.forEach((f, m) => {
      const all = routed(logits, m)
      const sums = each.map((e) => all.reduce((sum, { gate }) => sum + gate[e], 0))
      const mean = sums.reduce((a, b) => a + b, 0) / experts
      for (const e of each) {
        const probability = all.reduce((sum, { p }) => sum + p[e], 0) / rows
        total += lossScale * rows * losses.balance * experts * f[e] * probability
        if (experts > 1)
          total +=
            (lossScale * rows * losses.variance * (sums[e] - mean) ** 2) / (experts - 1) / mean ** 2
      }
      all.forEach(({ z, logSum, gate }, t) => {
        const expert = values.expertOfRow[t]
        total += lossScale * losses.z * logSum ** 2
        if (expert >= 0) total += lossScale * losses.supervised * (logSum - z[expert])
        for (const e of each) total += values.dGate[(t * mixtures + m) * experts + e] * gate[e]
      })
    })
    return total
  }
}

forEachDevice('router', (context) => {
  const run = (device: Device, one: RouterCase, values: ReturnType<typeof inputs>) => {
    const { rows, mixtures, experts, topK, absolute = false, biased } = one
    const shape = [rows, mixtures, experts]
    const logits = Tensor.from(device, values.logits, shape)
    const gate = Tensor.empty(device, shape)
    const dLogits = Tensor.empty(device, shape)
    const statistics = Tensor.full(device, [mixtures, groups, 3 * experts + 4], 2)
    const how = { scale, absolute, topK }
    const expertOfRow = Tensor.from(device, values.expertOfRow)
    device.run('router', {
      logits: logits.native,
      bias: biased ? Tensor.from(device, values.bias, [mixtures, experts]).native : null,
      ...how,
      gate: gate.native,
    })
    device.run('router_backward', {
      dGate: Tensor.from(device, values.dGate, shape).native,
      logits: logits.native,
      gate: gate.native,
      ...how,
      ...losses,
      lossScale: Tensor.from(device, [lossScale]).native,
      expertOfRow: expertOfRow.native,
      dLogits: dLogits.native,
    })
    device.run('router_statistics', {
      logits: logits.native,
      gate: gate.native,
      ...how,
      rowGroup: Tensor.from(device, values.rowGroup).native,
      expertOfRow: expertOfRow.native,
      statistics: statistics.native,
    })
    return { gate, dLogits, statistics }
  }

  for (const one of cases) {
    const { rows, mixtures, experts, topK } = one
    it(`of ${experts} experts, ${topK} of them chosen, agrees with float64`, async () => {
      const values = inputs(one)
      const read = await evaluate(() => run(context.device, one, values))
      const gates = Array.from({ length: rows * mixtures }, (_, at) =>
        route(one, values.logits, values.bias, at),
      )
      const tolerance = 4 * roundingTolerance(Math.max(experts, rows))
      assertClose(
        read.gate,
        gates.flatMap(({ gate }) => gate),
        tolerance,
        'gates',
      )
      const objective = objectiveOf(one, values)
      const { logits: gradient } = centralDifferences(
        ({ logits }) => [Float64Array.of(objective(logits))],
        { logits: values.logits },
        [[1]],
      )
      assertClose(read.dLogits, gradient, tolerance, 'gradient')
      const columns = 3 * experts + 4
      const statistics = new Float64Array(mixtures * groups * columns).fill(2)
      gates.forEach(({ z, p, logSum, gate, counted }, at) => {
        const [t, m] = [Math.floor(at / mixtures), at % mixtures]
        const begin = (m * groups + values.rowGroup[t]) * columns
        for (let e = 0; e < experts; ++e) {
          statistics[begin + e] += gate[e]
          statistics[begin + experts + e] += counted.has(e) ? 1 : 0
          statistics[begin + 2 * experts + e] += p[e]
          if (gate[e] > 0) statistics[begin + 3 * experts + 1] -= gate[e] * Math.log(gate[e])
        }
        statistics[begin + 3 * experts] += 1
        statistics[begin + 3 * experts + 2] += logSum ** 2
        const expert = values.expertOfRow[t]
        if (expert >= 0) statistics[begin + 3 * experts + 3] += logSum - z[expert]
      })
      assertClose(read.statistics, statistics, tolerance, 'statistics')
    })
  }

  it('gives a row the same bits whatever rows are with it', async () => {
    const one = { ...cases[1], rows: 9 }
    const values = inputs(one)
    const { mixtures, experts } = one
    const gatesOf = (rows: number) =>
      evaluate(() => {
        const size = rows * mixtures * experts
        const few = { ...values, logits: values.logits.slice(0, size) }
        few.dGate = values.dGate.slice(0, size)
        few.expertOfRow = values.expertOfRow.slice(0, rows)
        few.rowGroup = values.rowGroup.slice(0, rows)
        return { gate: run(context.device, { ...one, rows }, few).gate }
      })
    const [all, alone] = [await gatesOf(9), await gatesOf(2)]
    assertSameBits(alone.gate, all.gate.slice(0, alone.gate.length))
  })

  it('takes the lowest of equal experts', async () => {
    const one = { rows: 2, mixtures: 1, experts: 70, topK: 3 }
    const values = { ...inputs(one), logits: new Float32Array(140) }
    values.logits[69] = 1
    const { gate } = await evaluate(() => run(context.device, one, values))
    const expected = new Float64Array(140)
    const e = Math.exp(scale)
    expected.set([1 / (e + 2), 1 / (e + 2)])
    expected[69] = e / (e + 2)
    expected.fill(1 / 3, 70, 73)
    assertClose(gate, expected, roundingTolerance(70))
  })

  it('fails its device, not the process, for experts and groups that do not exist', async () => {
    const one = cases[1]
    const values = inputs(one)
    for (const [name, bad] of [
      ['expertOfRow', -2],
      ['expertOfRow', one.experts],
      ['rowGroup', -1],
      ['rowGroup', groups],
    ] as const) {
      const hostile = { ...values, [name]: values[name].slice() }
      hostile[name][one.rows - 1] = bad
      const field = name === 'rowGroup' ? 'row_group' : 'expert_of_row'
      await assertFailsDevice(
        context,
        (device) => run(device, one, hostile),
        new RegExp(`${field}\\[${one.rows - 1}\\] is ${bad}, allowed are 0 to`),
      )
    }
  })
})

forEachDevice('segmented_matmul', (context) => {
  const [rows, rank, segments] = [300, 9, 4]
  const random = new Random(8)
  const [x, dy] = [random.normal(rows * rank), random.normal(rows * rank)]
  const [w, dw] = [random.normal(segments * rank * rank), random.normal(segments * rank * rank)]
  const segmentOf = random.integers(rows, segments)
  const run = (device: Device, which: Int32Array) => {
    const of = Tensor.from(device, which)
    const from = Tensor.from(device, x, [rows, rank])
    const y = Tensor.empty(device, [rows, rank])
    const turned = Tensor.empty(device, [rows, rank])
    const d = Tensor.from(device, dw, [segments, rank, rank])
    const matrices = Tensor.from(device, w, [segments, rank, rank])
    for (const [transpose, to] of [
      [false, y],
      [true, turned],
    ] as const)
      device.run('segmented_matmul', {
        x: from.native,
        w: matrices.native,
        segmentOf: of.native,
        transpose,
        y: to.native,
      })
    device.run('segmented_matmul_backward', {
      x: from.native,
      dy: Tensor.from(device, dy, [rows, rank]).native,
      segmentOf: of.native,
      dW: d.native,
    })
    return { y, turned, d }
  }

  it('and its gradient agree with float64', async () => {
    const read = await evaluate(() => run(context.device, segmentOf))
    const y = new Float64Array(rows * rank)
    const turned = new Float64Array(rows * rank)
    const d = Float64Array.from(dw)
    for (let t = 0; t < rows; ++t)
      for (let i = 0; i < rank; ++i)
        for (let j = 0; j < rank; ++j) {
          const at = (segmentOf[t] * rank + i) * rank + j
          y[t * rank + j] += x[t * rank + i] * w[at]
          turned[t * rank + i] += x[t * rank + j] * w[at]
          d[at] += x[t * rank + i] * dy[t * rank + j]
        }
    assertClose(read.y, y, roundingTolerance(rank))
    assertClose(read.turned, turned, roundingTolerance(rank))
    assertClose(read.d, d, roundingTolerance(rows))
  })

  it('fails its device, not the process, for a segment that does not exist', async () => {
    for (const bad of [-1, segments, -2147483648]) {
      const hostile = segmentOf.slice()
      hostile[7] = bad
      await assertFailsDevice(
        context,
        (device) => run(device, hostile),
        new RegExp(`segment_of\\[7\\] is ${bad}, allowed are 0 to ${segments - 1}`),
      )
    }
  })
})
