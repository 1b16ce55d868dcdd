// What scripts/gpu times: the launches of every case of benchmark/cuda/cases.cc, by the same names.
import { eachElement, latency, up } from './card.mjs'

/** product_narrow.h: the copies of two steps are under way. */
export const inFlight = 2
/** The tensor cores' work on operands of tf32, in that on bf16. */
const tf32 = 2

/** product_bf16.cu: 128 x 128 a block, steps of 32; eight warps read 96 rows of a step each. */
export const mma = (use, layout, m, n, k) => ({
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

/** The launches of every case; `use` gives what ptxas said of a kernel, or undefined where there is none. */
export function casesOf(use) {
  const hopper = use(/matmul_bf16_sm90_kernel.*layout0.*256/)
  const each = (functor, count, memory) => eachElement(use, functor, count, memory)
  const rounding = (rows, columns) => each('Round', rows * up(columns, 8), 6 * rows * columns)

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
  /** product_shrink.cu in tf32: 32 rows by at most 64 columns a block, steps of 64, of which a warp has eight. */
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
  /** product_gradient.cu, of k rows: 256 columns of the wide side by 16 or 32 a block, 512 rows or more in steps of 16. */
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
      ...(partial ? [each('SumChunks', wide * narrow, partial + 8 * wide * narrow)] : []),
    ]
  }
  const tensorCores = hopper ? wgmma : (...sizes) => mma(use, ...sizes)
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
    const round = (count) => each('RoundHeads', (tokens * count * d) / 8, 6 * tokens * count * d)
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
    const all = Array.from({ length: up(rows, chunk) }, (_, i) => {
      const count = Math.min(chunk, rows - i * chunk)
      return [
        each('TakeRows', count * columns, 8 * count * columns),
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
        each('PutRows', count * columns, 8 * count * columns),
      ]
    })
    return [
      each('Zero', rows * columns, 4 * rows * columns),
      each('CheckRows', rows, 4 * rows),
      ...all.flat(),
    ]
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
    'copy:268435456': [each('Copy', 2 ** 28, 2 ** 31)],
    'rms-norm:8192,3584': [
      rows('rms_norm', 8192, 3584, 2),
      rows('rms_norm_backward', 8192, 3584, 3),
    ],
    'swiglu:8192,18944': [
      each('Swiglu', (8192 * 18944) / 4, 12 * 8192 * 18944),
      each('SwigluBackward', (8192 * 18944) / 4, 20 * 8192 * 18944),
    ],
  }
}
