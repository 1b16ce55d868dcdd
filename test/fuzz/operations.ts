/** Arguments of every operation of src/kernels.h that are right, or nearly. */

import { readFileSync } from 'node:fs'
import { DeviceError } from '../../lib/errors.js'
import { mutated } from './calls.js'
import { Maker } from './maker.js'
import { type Part, pick, type Round } from './part.js'
import { problemWith } from './values.js'
import { native, World } from './world.js'

const operations: Record<string, (m: Maker) => object> = {
  matmul: (m) => {
    const layout = pick(m.random, ['nt', 'nn', 'tn'])
    const [rows, columns, inner] = [m.size(), m.size(), m.size()]
    let masked = false
    const segments = Array.from({ length: 1 + m.random.integer(3) }, () => {
      const k = layout === 'tn' ? inner : m.size()
      const shape = layout === 'nt' ? [columns, k] : [k, columns]
      const canBeWeight = layout !== 'tn' && Math.min(...shape) > 0
      const mask = m.flag()
      masked ||= mask && layout !== 'nt'
      return {
        x: layout === 'tn' ? m.f32(k, rows) : m.f32(rows, k),
        ...(canBeWeight && m.flag()
          ? { weight: m.weight(shape[0], shape[1]) }
          : { w: m.f32(...shape) }),
        ...(layout === 'nn' ? { maskAfter: mask } : {}),
        ...(layout === 'tn' ? { maskW: mask } : {}),
      }
    })
    const y = m.f32(rows, columns)
    return {
      layout,
      segments,
      dropout: masked ? m.dropout(layout === 'tn' ? inner : rows) : undefined,
      columnScale: m.maybe(() => m.f32(columns)),
      bias: m.maybe(() => m.f32(columns)),
      residual: m.maybe(() => m.either(y, [rows, columns])),
      y,
      bf16Operands: m.flag(),
    }
  },
  low_rank_project: (m) => {
    const [t, k, r] = [m.size(), m.size(), m.size()]
    return {
      x: m.f32(t, k),
      a: m.f32(r, k),
      rankScale: m.f32(r),
      dropout: m.dropout(t),
      s: m.f32(t, r),
      bf16Operands: m.flag(),
    }
  },
  low_rank_backward: (m) => {
    const [t, n, r] = [m.size(), m.size(), m.size()]
    return {
      dy: m.f32(t, n),
      b: m.f32(n, r),
      p: m.f32(t, r),
      rankScale: m.f32(r),
      t: m.f32(t, r),
      dB: m.maybe(() => m.f32(n, r)),
      bf16Operands: m.flag(),
    }
  },
  weight_update: (m) => {
    const [rows, columns] = [m.size(1), m.size(1)]
    const rowBegin = m.random.integer(rows + 1)
    const shape = [m.random.integer(rows - rowBegin + 1), columns]
    const source = m.flag() ? m.f32(...shape) : m.narrow(pick(m.random, ['bf16', 'f16']), ...shape)
    return { weight: m.weight(rows, columns), source, rowBegin }
  },
  weight_read: (m) => {
    const [rows, columns] = [m.size(1), m.size(1)]
    const rowBegin = m.random.integer(rows + 1)
    const shape = [m.random.integer(rows - rowBegin + 1), columns]
    return {
      weight: m.weight(rows, columns),
      rowBegin,
      y: m.flag() ? m.f32(...shape) : m.narrow('bf16', ...shape),
    }
  },
  weight_row_norms: (m) => {
    const [rows, columns] = [m.size(1), m.size(1)]
    return { weight: m.weight(rows, columns), y: m.f32(rows) }
  },
  gather_rows: (m) => {
    const [rows, columns, t] = [m.size(1), m.size(1), m.size()]
    const from = m.flag() ? { source: m.f32(rows, columns) } : { weight: m.weight(rows, columns) }
    return { ...from, indices: m.i32(rows, t), y: m.f32(t, columns) }
  },
  scatter_add_rows: (m) => {
    const [rows, columns, t] = [m.size(1), m.size(), m.size()]
    return { x: m.f32(t, columns), indices: m.i32(rows, t), y: m.f32(rows, columns) }
  },
  rms_norm: (m) => {
    const shape = rows(m)
    const x = m.f32(...shape)
    return {
      x,
      weight: m.f32(shape.at(-1)!),
      epsilon: 1e-6,
      y: m.either(x, shape),
      rstd: m.maybe(() => m.f32Packed(...shape.slice(0, -1))),
    }
  },
  rms_norm_backward: (m) => {
    const shape = rows(m)
    const [dy, residual] = [m.f32(...shape), m.maybe(() => m.f32(...shape))]
    return {
      dy,
      x: m.f32(...shape),
      weight: m.f32(shape.at(-1)!),
      rstd: m.f32Packed(...shape.slice(0, -1)),
      residual,
      dx: m.either(residual ?? dy, shape),
      dWeight: m.maybe(() => m.f32(shape.at(-1)!)),
    }
  },
  rope: (m) => {
    const [t, heads, half, positions] = [m.size(), m.size(), m.size(), m.size(1)]
    const x = m.f32(t, heads, 2 * half)
    return {
      x,
      positions: m.i32(positions, t),
      cosines: m.f32(positions, half),
      sines: m.f32(positions, half),
      inverse: m.flag(),
      y: m.either(x, [t, heads, 2 * half]),
    }
  },
  attention: (m) => {
    const { t, q, kv } = heads(m)
    return {
      q: m.f32(...q),
      k: m.f32(...kv),
      v: m.f32(...kv),
      cuSeqlens: m.cuSeqlens(t),
      scale: 0.3,
      o: m.f32(...q),
      lse: m.maybe(() => m.f32(q[1], t)),
      bf16Operands: m.flag(),
    }
  },
  attention_backward: (m) => {
    const { t, q, kv } = heads(m)
    return {
      q: m.f32(...q),
      k: m.f32(...kv),
      v: m.f32(...kv),
      o: m.f32(...q),
      lse: m.f32(q[1], t),
      dO: m.f32(...q),
      cuSeqlens: m.cuSeqlens(t),
      scale: 0.3,
      dq: m.f32(...q),
      dk: m.f32(...kv),
      dv: m.f32(...kv),
      bf16Operands: m.flag(),
    }
  },
  cache_append: (m) => {
    const { t, kv } = heads(m)
    const [sequences, length] = [m.size(1), m.size(1)]
    return {
      x: m.f32(...kv),
      rowSequence: m.i32(sequences, t),
      rowPosition: m.i32(length, t),
      cache: m.f32(sequences, length, kv[1], kv[2]),
    }
  },
  attention_cached: (m) => {
    const { t, q, kv } = heads(m)
    const [sequences, length] = [1 + m.random.integer(4), m.size(1)]
    return {
      q: m.f32(...q),
      kCache: m.f32(sequences, length, kv[1], kv[2]),
      vCache: m.f32(sequences, length, kv[1], kv[2]),
      rowSequence: m.i32(sequences, t),
      rowPosition: m.i32(length, t),
      scale: 0.3,
      o: m.f32(...q),
    }
  },
  swiglu: (m) => {
    const shape = [m.size(), m.size()]
    const [gate, up] = [m.f32(...shape), m.f32(...shape)]
    return { gate, up, y: m.either(m.flag() ? gate : up, shape) }
  },
  swiglu_backward: (m) => {
    const shape = [m.size(), m.size()]
    const [dy, gate, up] = [m.f32(...shape), m.f32(...shape), m.f32(...shape)]
    return { dy, gate, up, dGate: m.either(gate, shape), dUp: m.either(up, shape) }
  },
  head_cross_entropy: (m) => {
    const [t, d, vocab] = [m.size(), m.size(1), m.size(1)]
    const labelled = m.random.integer(t + 1)
    return {
      x: m.f32(t, d),
      weight: m.weight(vocab, d),
      rows: m.rising(labelled, t),
      labels: m.i32(vocab, labelled),
      rowWeight: m.maybe(() => m.f32(labelled)),
      lossScale: m.scalar(0.1),
      loss: m.f32(labelled),
      argmax: m.maybe(() => m.i32(1, labelled)),
      dX: m.maybe(() => m.f32(t, d)),
      dWeight: m.maybe(() => m.f32(vocab, d)),
    }
  },
  adamw: (m) => {
    const parameters = Array.from({ length: m.random.integer(4) }, () => {
      const shape = [m.size(), m.size()]
      return {
        parameter: m.f32Packed(...shape),
        gradient: m.f32Packed(...shape),
        moment: m.f32Packed(...shape),
        variance: m.f32Packed(...shape),
        learningRateScale: 1,
        weightDecay: 0.01,
      }
    })
    const [learningRate, gradientScale, finite] = [m.scalar(1e-3), m.scalar(1), m.scalar(1)]
    return {
      parameters,
      beta1: 0.9,
      beta2: 0.999,
      epsilon: 1e-8,
      learningRate,
      step: m.step(),
      gradientScale,
      finite,
    }
  },
  gradient_norm: (m) => {
    const gradients = Array.from({ length: m.random.integer(4) }, () =>
      m.f32Packed(m.size(), m.size()),
    )
    return {
      gradients,
      maxNorm: 1,
      watched: m.maybe(() => m.f32Packed(m.size())),
      result: m.f32Packed(3),
    }
  },
  fill: (m) => ({
    y: m.flag() ? m.f32(m.size(), m.size(), m.size()) : m.i32(9, m.size()),
    value: m.random.integer(9),
  }),
  copy: (m) => {
    const shape = [m.size(), m.size()]
    return {
      x: m.f32(...shape),
      y: m.flag() ? m.f32(...shape) : m.narrow(pick(m.random, ['bf16', 'f16']), ...shape),
    }
  },
  add: (m) => {
    const shape = [m.size(), m.size(), m.size()]
    const [a, b] = [m.f32(...shape), m.f32(...shape)]
    return { a, b, alpha: 0.5, beta: -2, y: m.either(m.flag() ? a : b, shape) }
  },
  column_sum: (m) => {
    const columns = m.size()
    return { x: m.f32(m.size(), columns), y: m.f32(columns) }
  },
  random: (m) => ({
    distribution: pick(m.random, ['uniform', 'normal']),
    first: -1,
    second: 2,
    seed: m.flag() ? 7 : 7n,
    subsequence: m.random.integer(9),
    y: m.f32Packed(m.size(), m.size()),
  }),
  softmax: (m) => {
    const shape = [m.size(), m.size()]
    const x = m.f32(...shape)
    return { x, scale: 0.7, y: m.either(x, shape) }
  },
  softmax_backward: (m) => {
    const shape = [m.size(), m.size()]
    const dy = m.f32(...shape)
    return { dy, y: m.f32(...shape), scale: 0.7, dx: m.either(dy, shape) }
  },
  top_k: (m) => {
    const [t, n] = [m.size(), m.size(1)]
    const k = 1 + m.random.integer(n)
    return { x: m.f32(t, n), values: m.f32(t, k), indices: m.i32(1, t, k) }
  },
  top_k_backward: (m) => {
    const [t, n] = [m.size(), m.size(1)]
    const k = 1 + m.random.integer(n)
    return { dValues: m.f32(t, k), indices: m.i32(n, t, k), dx: m.f32(t, n) }
  },
  argmax: (m) => {
    const t = m.size()
    return { x: m.f32(t, m.size(1)), indices: m.i32(1, t) }
  },
  log_probability: (m) => {
    const [t, n] = [m.size(), m.size(1)]
    return { x: m.f32(t, n), labels: m.i32(n, t), y: m.f32(t) }
  },
  sort: (m) => {
    const [t, limit] = [m.size(), m.size(1)]
    return { keys: m.i32(limit, t), order: m.i32(1, t), counts: m.maybe(() => m.i32(1, limit)) }
  },
  quantile: (m) => ({
    x: m.f32Packed(m.size(1), m.size(1)),
    q: m.random.next(),
    absolute: m.flag(),
    y: m.f32(1),
  }),
  segmented_matmul: (m) => {
    const [t, r, segments] = [m.size(), m.size(), m.size(1)]
    return {
      x: m.f32(t, r),
      w: m.f32(segments, r, r),
      segmentOf: m.i32(segments, t),
      transpose: m.flag(),
      y: m.f32(t, r),
    }
  },
  segmented_matmul_backward: (m) => {
    const [t, r, segments] = [m.size(), m.size(), m.size(1)]
    return {
      x: m.f32(t, r),
      dy: m.f32(t, r),
      segmentOf: m.i32(segments, t),
      dW: m.f32(segments, r, r),
    }
  },
  sample: (m) => {
    const [b, n] = [m.size(), m.size(1)]
    return {
      logits: m.f32(b, n),
      temperature: m.share(b),
      topK: m.i32(n + 1, b),
      topP: m.share(b),
      sample: m.i32(99, b),
      position: m.i32(99, b),
      seed: 3,
      tokens: m.i32(1, b),
    }
  },
  mixture: (m) => {
    const { t, experts, s, p } = mixture(m)
    return { s: m.f32(t, s), gate: m.f32(t, experts), p: m.f32(t, p) }
  },
  mixture_backward: (m) => {
    const { t, experts, s, p } = mixture(m)
    return {
      g: m.f32(t, p),
      s: m.f32(t, s),
      gate: m.f32(t, experts),
      rankScale: m.f32(s),
      dGate: m.maybe(() => m.f32(t, experts)),
      t: m.f32(t, s),
    }
  },
  router: (m) => {
    const { shape, topK } = router(m)
    return {
      logits: m.f32(...shape),
      bias: m.maybe(() => m.f32(shape[1], shape[2])),
      scale: 0.7,
      absolute: m.flag(),
      topK,
      gate: m.f32(...shape),
    }
  },
  router_backward: (m) => {
    const { shape, topK } = router(m)
    const dGate = m.f32(...shape)
    return {
      dGate,
      logits: m.f32(...shape),
      gate: m.f32(...shape),
      scale: 0.7,
      absolute: m.flag(),
      topK,
      balance: 0.1,
      variance: 0.1,
      z: 0.1,
      supervised: 0.1,
      lossScale: m.maybe(() => m.scalar(0.1)),
      expertOfRow: m.maybe(() => m.i32(shape[2], shape[0])),
      dLogits: m.either(dGate, shape),
    }
  },
  router_statistics: (m) => {
    const { shape, topK } = router(m)
    const [t, mixtures, experts] = shape
    const groups = m.size(1)
    return {
      logits: m.f32(...shape),
      gate: m.f32(...shape),
      scale: 0.7,
      absolute: m.flag(),
      topK,
      rowGroup: m.i32(groups, t),
      expertOfRow: m.maybe(() => m.i32(experts, t)),
      statistics: m.f32(mixtures, groups, 3 * experts + 4),
    }
  },
  magnitude_scale: (m) => {
    const [n, r] = [m.size(), m.size()]
    return {
      baseNorm: m.f32(n),
      u: m.f32(n, r),
      b: m.f32(n, r),
      magnitude: m.f32(n),
      norm: m.f32(n),
      scale: m.f32(n),
    }
  },
  scale_columns: (m) => {
    const shape = [m.size(), m.size()]
    const [x, residual] = [m.f32(...shape), m.maybe(() => m.f32(...shape))]
    return {
      x,
      scale: m.f32(shape[1]),
      bias: m.maybe(() => m.f32(shape[1])),
      residual,
      y: m.either(residual ?? x, shape),
    }
  },
  scale_columns_backward: (m) => {
    const shape = [m.size(), m.size()]
    const [dy, x] = [m.f32(...shape), m.f32(...shape)]
    return {
      dy,
      x,
      scale: m.f32(shape[1]),
      norm: m.f32(shape[1]),
      dx: m.either(x, shape),
      dMagnitude: m.maybe(() => m.f32(shape[1])),
    }
  },
}

/** [T, D] or [T, H, D] with something in a row. */
function rows(m: Maker): number[] {
  return m.flag() ? [m.size(), m.size(1)] : [m.size(), m.size(), m.size(1)]
}

function heads(m: Maker): { t: number; q: number[]; kv: number[] } {
  const [t, keyHeads, d] = [m.size(), 1 + m.random.integer(3), m.size(1)]
  return { t, q: [t, keyHeads * (1 + m.random.integer(3)), d], kv: [t, keyHeads, d] }
}

/** Columns of s and p with experts that share neither A nor B, or one of them. */
function mixture(m: Maker): { t: number; experts: number; s: number; p: number } {
  const [t, experts, rank] = [m.size(), 1 + m.random.integer(5), m.size()]
  const [s, p] = pick(m.random, [
    [experts * rank, experts * rank],
    [rank, experts * rank],
    [experts * rank, rank],
  ])
  return { t, experts, s, p }
}

function router(m: Maker): { shape: number[]; topK: number } {
  const experts = m.size(1)
  return { shape: [m.size(), m.size(), experts], topK: 1 + m.random.integer(experts) }
}

const header = readFileSync(new URL('../../src/kernels.h', import.meta.url), 'utf8')

/** The operations of the table of kernels. */
export const operationNames: readonly string[] = Array.from(
  header.matchAll(/^ {2}X\((\w+)\)/gm),
  ([, name]) => name,
)

/** Arguments that the operation must take. */
export function makeArguments(name: string, maker: Maker): object {
  return operations[name](maker)
}

/** Arguments on the world's own device, for the calls of `run` as an export. */
export function operationArguments(name: string, world: World): object {
  return makeArguments(name, new Maker(world, world.device))
}

const callsOfPart = 10_000
const callsOfRound = 250

/** One operation: right arguments must be taken and run, others end in a typed error, of the call or of the stream. */
async function round(
  name: string,
  { random, folder, note, calls = callsOfRound }: Round,
): Promise<void> {
  let world = await World.create(random, folder)
  let failed = false
  for (let i = 0; i < calls; ++i) {
    // A stream that has failed stays so, and a getter may have closed the device.
    if (failed || world.isClosed || i % 25 === 24) {
      failed = false
      await world.end()
      world = await World.create(random, folder)
    }
    const how = random.next()
    const hostileOne = how < 0.15 ? random.integer(6) : -1
    let args = makeArguments(name, new Maker(world, world.device, { hostileOne }))
    const isRight = how >= 0.15 && how < 0.25
    if (how >= 0.25) args = mutated(world, args, [args]) as object
    const call = () => `run(<device>, '${name}', ${world.describeAll([args])})`
    note(call)
    try {
      native.run(world.device, name, args)
      await native.synchronize(world.device)
    } catch (error) {
      const problem =
        problemWith(error) ?? (isRight ? `refused what is right: ${String(error)}` : null)
      if (problem !== null) throw new Error(`${call()}: ${problem}`, { cause: error })
      failed = error instanceof DeviceError
    }
  }
  await world.end()
}

/** @throws if the table of kernels has an operation without a generator */
export function operationParts(): Part[] {
  const missing = operationNames.filter((name) => !Object.hasOwn(operations, name))
  if (operationNames.length === 0 || missing.length > 0)
    throw new Error(
      `test/fuzz/operations.ts has no arguments for ${missing.join(', ')} of src/kernels.h`,
    )
  return operationNames.map((name) => ({
    name: `run ${name}`,
    rounds: callsOfPart / callsOfRound,
    run: (context) => round(name, context),
  }))
}
