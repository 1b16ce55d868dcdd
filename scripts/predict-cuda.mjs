// What the CUDA kernels should take on a card that nobody has tried them on yet: from shapes, from
// how the kernels cut them, and from the registers and shared memory that ptxas reports. Writes
// docs/measurements/cuda-predictions.md; scripts/gpu times the same cases by the same names.
//
//   node scripts/predict-cuda.mjs [FOLDER OF LOGS]       after npm run build:cuda
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { format } from 'prettier'
import { parsePtxas } from './check-ptxas.mjs'
import { root } from './bootstrap.mjs'
import { runMain, ScriptError } from './run.mjs'

/** An H200 SXM; an H100 SXM differs in its memory alone (3.35 TB/s). Rates are per processor and cycle. */
export const card = {
  name: 'H200 SXM',
  architecture: 'sm_90a',
  processors: 132,
  clock: 1.755e9,
  wgmma: 4096, // float operations with bf16 operands
  mma: 0.63 * 4096, // mma.sync reaches 62 to 65% of wgmma's rate on Hopper
  fma: 256,
  special: 16, // exponentials
  shared: 128, // bytes
  memory: 0.9 * 4.8e12, // bytes a second
  cache: 5.5e12,
  registers: 65536,
  threads: 2048,
  sharedBytes: 228 * 1024,
}

/** Blocks that a processor holds at once; registers go by 256 a warp, and each block costs 1 KB of shared memory. */
export function occupancy({ registers, threads, shared }) {
  const warps = Math.ceil(threads / 32)
  const perBlock = warps * Math.ceil((registers * 32) / 256) * 256
  return Math.min(
    32,
    Math.floor(card.threads / (warps * 32)),
    Math.floor(card.registers / perBlock),
    Math.floor(card.sharedBytes / (shared + 1024)),
  )
}

/**
 * The time of one launch: its slowest unit, where the blocks come in rounds.
 *
 * @param {object} launch
 * @param {{ registers: number, shared: number }} launch.use of the kernel, by ptxas
 * @param {number} launch.blocks
 * @param {number} launch.threads
 * @param {number} [launch.dynamic] shared memory asked for at the launch
 * @param {Record<string, number>} [launch.work] of a block, by the unit that does it: wgmma, mma, fma, special, shared
 * @param {number} [launch.exposed] cycles of a block in which it waits for memory and nothing of its own runs
 * @param {number} [launch.memory] bytes of the whole launch
 * @param {number} [launch.cache] bytes through the second cache
 */
export function predict(launch) {
  const {
    use,
    blocks,
    threads,
    dynamic = 0,
    work = {},
    exposed = 0,
    memory = 0,
    cache = 0,
  } = launch
  const most = occupancy({ registers: use.registers, threads, shared: use.shared + dynamic })
  const resident = Math.min(most, Math.ceil(blocks / card.processors))
  const rounds = Math.ceil(blocks / (card.processors * resident))
  const seconds = Object.fromEntries(
    Object.entries(work).map(([unit, amount]) => [
      unit,
      (rounds * resident * amount) / card[unit] / card.clock,
    ]),
  )
  const slowest = Math.max(0, ...Object.values(seconds))
  // Blocks beside each other fill each other's waits.
  const waiting = (rounds * exposed) / card.clock
  if (waiting > 0 && waiting + slowest / resident > slowest)
    seconds['waiting for memory'] = waiting + slowest / resident
  for (const [unit, count] of Object.entries({ memory, cache })) seconds[unit] = count / card[unit]
  const [limit, time] = Object.entries(seconds).reduce((a, b) => (b[1] > a[1] ? b : a))
  return { blocks, most, registers: use.registers, limit, time }
}

const up = (a, b) => Math.ceil(a / b)
/** Cycles from a load to its value, and the barrier after it. */
const latency = 800
/** product_narrow.cu: the copies of two steps are under way. */
const inFlight = 2
/** The tensor cores' work on operands of tf32, in that on bf16. */
const tf32 = 2

/** The launches of every case; `use` gives what ptxas said of a kernel, or undefined where there is none. */
export function casesOf(use) {
  const hopper = use(/matmul_bf16_sm90_kernel.*layout0.*256/)
  const elements = (count, memory) => ({
    kernel: 'each_element',
    use: use(/each_element_kernel.*Round/),
    blocks: up(count, 256),
    threads: 256,
    memory,
  })
  const rounding = (rows, columns) => elements(rows * columns, 6 * rows * columns)

  /** product_bf16_sm90.cu: 128 x 256 a tile, a block a processor, whose tiles follow each other; two share the columns. */
  const wgmma = (layout, m, n, k) => ({
    kernel: `matmul_bf16_sm90, ${layout}`,
    use: hopper,
    blocks: up(m, 128) * up(n, 256),
    threads: 384,
    dynamic: 192 << 10,
    work: { wgmma: 2 * 128 * 256 * 16 * up(k, 16) },
    memory: 2 * (m * k + n * k) + 4 * m * n,
    cache: up(m, 128) * up(n, 256) * (128 + (m > 128 ? 128 : 256)) * k * 2,
  })
  /** product_bf16.cu: 128 x 128 a block, steps of 32; eight warps read 96 rows of a step each. */
  const mma = (layout, m, n, k) => ({
    kernel: `matmul_bf16, ${layout}`,
    use: use(/matmul_bf16_(nt_)?kernel/),
    blocks: up(m, 128) * up(n, 128),
    threads: 256,
    dynamic: 64 << 10,
    work: {
      mma: 2 * 128 * 128 * 32 * up(k, 32),
      shared: (8 * 96 + 256) * 64 * up(k, 32),
    },
    memory: 2 * (m * k + n * k) + 4 * m * n,
    cache: up(m, 128) * up(n, 128) * 256 * k * 2,
  })
  /** product_narrow.cu, x w in tf32: 32 rows by at most 64 columns a block, steps of 64, of which a warp has eight. */
  const shrink = (layout, m, n, k) => {
    const columns = n <= 16 ? 16 : n <= 32 ? 32 : 64
    const stage = (32 + columns) * 68 * 4
    const steps = up(k, 64)
    return {
      kernel: `shrink, ${layout}`,
      use: use(new RegExp(`shrink_kernel.*Tf32.*layout${layout === 'nt' ? 0 : 1}ELi${columns}`)),
      blocks: up(m, 32) * up(n, columns),
      threads: 256,
      dynamic: 3 * stage,
      exposed: (latency * steps) / inFlight,
      work: {
        mma: tf32 * 2 * 32 * columns * 64 * steps,
        shared: (8 * (8 + columns / 4) * 128 + stage) * steps,
      },
      memory: 4 * (m * k + n * k + m * n),
      cache: up(n, columns) * 4 * m * k + up(m, 32) * 4 * n * k,
    }
  }
  /** x^T w there, of k rows: 256 columns of the wide side by 16 or 32 a block, 512 rows or more in steps of 16. */
  const gradient = (wide, narrow, k) => {
    const columns = narrow <= 16 ? 16 : 32
    const tiles = up(wide, 256) * up(narrow, columns)
    const cut = Math.max(1, Math.min(Math.floor(k / 512), Math.floor(528 / tiles)))
    const rows = up(k, 16 * cut) * 16
    const chunks = up(k, rows)
    const partial = chunks > 1 ? 4 * chunks * wide * narrow : 0
    return [
      {
        kernel: 'gradient',
        use: use(new RegExp(`gradient_kernel.*Tf32.*ELi${columns}E`)),
        blocks: tiles * chunks,
        threads: 128,
        dynamic: 3 * 16 * (264 + columns + 8) * 4,
        exposed: (latency * up(rows, 16)) / inFlight,
        work: {
          mma: tf32 * 2 * 256 * columns * rows,
          shared: (4 * (2 + columns / 32) * 128 + 4 * (256 + columns)) * rows,
        },
        memory: 4 * k * (wide + narrow) + partial,
        cache: 4 * k * (up(narrow, columns) * wide + up(wide, 256) * narrow) + partial,
      },
      ...(partial ? [elements(wide * narrow, partial + 8 * wide * narrow)] : []),
    ]
  }
  const tensorCores = hopper ? wgmma : mma
  const forward = (m, n, k) => [rounding(m, k), tensorCores('nt', m, n, k)]
  const backward = (m, n, k) => [rounding(m, k), tensorCores('nn', m, n, k)]

  const frozen = (tokens, inputs, outputs, ranks = 0) => [
    ...forward(tokens, outputs, inputs + ranks),
    ...backward(tokens, inputs, outputs + ranks),
  ]
  /** Shrink, both rank gradients, and dA, beside the products with their rank segments. */
  const lora = (tokens, inputs, outputs, rank, ranks = rank) => [
    shrink('nt', tokens, rank, inputs),
    ...frozen(tokens, inputs, outputs, ranks),
    shrink('nn', tokens, ranks, outputs),
    ...gradient(outputs, ranks, tokens),
    ...gradient(inputs, rank, tokens),
  ]

  const attention = (sequences, length, heads, keyHeads, d) => {
    const tokens = sequences * length
    /** Blocks of `rows` that `streamed` rows pass by, up to the diagonal. */
    const pass = (kernel, rows, products, shared, exponentials) => {
      const blocks = sequences * up(length, rows) * heads
      const steps = up(length, rows) === 0 ? 0 : (length / rows + 1) / 2 / (length / rows)
      const passing = (steps * length) / 32 // of 32 rows, of a block on average
      return {
        kernel,
        use: use(new RegExp(`\\d${kernel}_kernel.*Bf16TilesILi128`)),
        blocks,
        threads: 128,
        dynamic: 64 << 10,
        work: {
          mma: products * 2 * rows * 32 * d * passing,
          shared: shared * 1024 * passing,
          special: exponentials * rows * 32 * passing,
        },
      }
    }
    const both = heads + keyHeads
    const round = (count) => elements(tokens * count * d, 6 * tokens * count * d)
    const one = [
      round(2 * keyHeads),
      {
        ...pass('attention', 128, 2, 96 + 16, 1),
        memory: 4 * tokens * d * 2 * heads,
      },
    ]
    const two = [
      round(2 * both),
      {
        kernel: 'attention_delta',
        use: use(/attention_delta_kernel/),
        blocks: up(tokens * heads, 4),
        threads: 128,
        memory: 8 * tokens * heads * d,
      },
      {
        ...pass('attention_backward_queries', 64, 3, 128 + 16, 1),
        memory: 4 * tokens * d * 3 * heads,
      },
      {
        ...pass('attention_backward_keys', 64, 4, 160 + 16, 1),
        memory: 4 * tokens * d * (heads + 4 * keyHeads),
      },
    ]
    return { one, two: [...one, ...two] }
  }

  /** Chunks of the rows by all of the vocabulary. */
  const crossEntropy = (rows, columns, vocabulary) => {
    const fits = Math.floor(2 ** 27 / vocabulary / 128) * 128
    const chunk = Math.min(rows, Math.max(256, Math.min(2048, fits)))
    return Array.from({ length: up(rows, chunk) }, (_, i) => {
      const count = Math.min(chunk, rows - i * chunk)
      return [
        ...forward(count, vocabulary, columns),
        {
          kernel: 'cross_entropy',
          use: use(/cross_entropy_kernel/),
          blocks: count,
          threads: 512,
          memory: 12 * count * vocabulary,
          work: { special: 2 * vocabulary },
        },
        ...backward(count, columns, vocabulary),
      ]
    }).flat()
  }
  const rows = (kernel, count, columns, floats) => ({
    kernel,
    use: use(new RegExp(`\\d${kernel}_kernel`)),
    blocks: count,
    threads: 128,
    memory: 4 * floats * count * columns,
  })

  const square = [8192, 4096, 4096]
  const wide = [8192, 4096, 14336]
  const prefix = attention(8, 1024, 28, 4, 128)
  return {
    'product-nt:4096,4096,4096': forward(4096, 4096, 4096),
    'product-nt:4096,14336,4096': forward(4096, 14336, 4096),
    'product-nt:8192,8192,8192': forward(8192, 8192, 8192),
    'product-nn:4096,4096,4096': backward(4096, 4096, 4096),
    'product-nn:8192,8192,8192': backward(8192, 8192, 8192),
    'frozen:8192,4096,4096': frozen(...square),
    'lora:8192,4096,4096,16': lora(...square, 16),
    'lora:8192,4096,4096,64': lora(...square, 64),
    'hydra:8192,4096,4096,16,4': lora(...square, 20, 64),
    'frozen:8192,4096,14336': frozen(...wide),
    'lora:8192,4096,14336,16': lora(...wide, 16),
    'cross-entropy:4096,3584,152064': crossEntropy(4096, 3584, 152064),
    'attention:8,1024,28,4,128': prefix.one,
    'attention-both:8,1024,28,4,128': prefix.two,
    'copy:268435456': [elements(2 ** 28, 2 ** 31)],
    'rms-norm:8192,3584': [
      rows('rms_norm', 8192, 3584, 2),
      rows('rms_norm_backward', 8192, 3584, 3),
    ],
    'swiglu:8192,18944': [
      elements(8192 * 18944, 12 * 8192 * 18944),
      elements(8192 * 18944, 20 * 8192 * 18944),
    ],
  }
}

function readUses(folder) {
  const kernels = readdirSync(folder)
    .filter((name) => name.endsWith('.log'))
    .flatMap((name) => parsePtxas(readFileSync(join(folder, name), 'utf8')))
    .filter(({ architecture }) => architecture === card.architecture)
  return (pattern) => kernels.find(({ name }) => pattern.test(name))
}

/** One line a kernel of a case; launches of the same kernel together. */
function linesOf(name, launches) {
  const kernels = new Map()
  let total = 0
  for (const launch of launches) {
    if (!launch.use) throw new ScriptError(`${name}: nvcc's logs have no kernel ${launch.kernel}`)
    const found = predict(launch)
    total += found.time
    const known = kernels.get(launch.kernel)
    if (known) Object.assign(known, { time: known.time + found.time, count: known.count + 1 })
    else kernels.set(launch.kernel, { ...found, count: 1 })
  }
  const ms = (time) => (time * 1e3).toPrecision(3)
  const lines = [...kernels].map(([kernel, { count, registers, most, blocks, limit, time }]) => [
    '',
    count > 1 ? `${kernel} (${count} times)` : kernel,
    registers,
    most,
    blocks,
    limit,
    ms(time),
  ])
  return { total, lines: [[name, '', '', '', '', '', ms(total)], ...lines] }
}

function page(use) {
  const cases = Object.entries(casesOf(use)).map(([name, launches]) => ({
    name,
    ...linesOf(name, launches),
  }))
  const head = ['case', 'kernel', 'registers', 'blocks', 'grid', 'limited by', 'ms']
  const table = (rows, words = 2) =>
    [rows[0], rows[0].map((_, i) => (i < words ? '---' : '--:')), ...rows.slice(1)]
      .map((cells) => `| ${cells.join(' | ')} |`)
      .join('\n')
  const totals = new Map(cases.map(({ name, total }) => [name, total]))
  const overheads = [...totals].flatMap(([name, total]) => {
    const sizes = /^(?:lora|hydra)(:\d+,\d+,\d+)/.exec(name)?.[1]
    const base = totals.get(`frozen${sizes}`)
    return base ? [[name, `${(100 * (total / base - 1)).toFixed(0)}%`]] : []
  })
  return `# CUDA kernels: predictions, nothing measured

No GPU could be used while these kernels were written. They run in an emulator and compile for sm_80, sm_90a, sm_100 and sm_120; **no time of a kernel on this page was measured, and none is claimed**. What follows was computed by \`node scripts/predict-cuda.mjs\`, to be held against \`scripts/gpu\`, which times the same cases by the same names on a card, beside their peers, and writes a page beside this one.

## How

A launch takes as long as its slowest unit. Blocks come in rounds of what the ${card.processors} processors hold at once; a processor holds what its registers, threads and shared memory allow, from what ptxas says of the kernel ("blocks" below). A block's work is counted by unit, and bytes by launch:

| unit | rate of an ${card.name} at ${card.clock / 1e9} GHz | |
| --- | --: | --- |
| wgmma, bf16 | ${tera(card.wgmma)} TFLOP/s | cuBLAS reaches 765 at 4096³ and 759 at 8192³ |
| mma.sync, bf16 | ${tera(card.mma)} TFLOP/s | 62 to 65% of wgmma's rate |
| fused multiply-add, float32 | ${tera(card.fma)} TFLOP/s | |
| exponentials | ${tera(card.special)} T/s | |
| shared memory | ${tera(card.shared)} TB/s | 128 bytes a cycle and processor |
| second cache | ${card.cache / 1e12} TB/s | |
| memory | ${(card.memory / 1e12).toFixed(2)} TB/s | 90% of the data sheet's 4.8; an H100's is 3.35 |

The narrow products also wait ${latency} cycles for the copies of each ${inFlight} steps, which other blocks of the processor fill in part ("waiting for memory"). Launches are added up. Not in it: the cost of a launch, the ends of pipelines, bank conflicts, clocks that sink under load. So these are times that a good kernel comes near, not promises; one that takes half as long again or more has a reason to be found.

## Times

${table([head, ...cases.flatMap(({ lines }) => lines)])}

"blocks" are those that a processor holds at once, "grid" those of the first launch. Cases are named as in benchmark/cuda/cases.cc: products by m, n and k; layers by tokens, inputs, outputs, rank and experts, forward and data gradient, with the gradients of A and B; cross entropy by rows, columns and vocabulary, with the gradient of its input; attention by sequences, length, heads, heads of keys and their size. The small launches of the mixture itself (router, gates) are left out.

## What the host does for a step

A LoRA step of 28 layers, with updates on all seven matrices of each, is 1,461 operations, whatever the widths. Launching them one by one would take the queue's thread some 2 to 3 µs each and more where an operation has several launches, 4 to 10 ms in all; JavaScript's thread, which checks and queues them, takes longer than that. So steps whose shapes stay the same are recorded once and replayed as a graph: every step of generation while the same number of sequences lives, the optimiser's update, and micro-batches of one shape from the fourth in a row on. Packed batches mostly differ in shape and are queued as ever.

What JavaScript's thread is spared needs no card to be seen: its processor time, on a CPU that was busy with other work, so that the proportions alone mean anything, for 28 layers of any width:

| step | queued anew | replayed |
| --- | --: | --: |
| one token of one sequence | 13 to 15 ms | 0.1 to 0.2 ms |
| a LoRA step of one micro-batch | 54 to 70 ms | 0.7 to 1.1 ms |

A card reads the weights of a model of 7B in bf16 in 3.5 ms, and that is all a token leaves the host.

## What the low-rank layers cost over the frozen product

${table([['layer', 'extra time'], ...overheads], 1)}

The goal is at most 8% on an H200, of which the bytes alone are 6.7%. The four small products take as long as reading x and dy twice each, which the large ones have read before, to round them: the next step is to round and to shrink in one pass. Where a model computes in float32 they are not rounded, and from a rank of 32 on held by multiplying (${tera(card.fma)} TFLOP/s).
`
}

const tera = (rate) => ((rate * card.processors * card.clock) / 1e12).toPrecision(3)

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href)
  runMain(async () => {
    const folder = process.argv[2] ?? join(root, 'build/cuda')
    const file = join(root, 'docs/measurements/cuda-predictions.md')
    writeFileSync(file, await format(page(readUses(folder)), { filepath: file, printWidth: 100 }))
    console.log(`polylora: written to ${file}`)
  })
