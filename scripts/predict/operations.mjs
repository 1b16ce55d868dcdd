// What scripts/gpu does not time: every other kernel, at the sizes of a step of Qwen2.5-7B's shape (8,192 tokens), of its
// decoding (8 sequences at position 4,096) or of a merge, as the kernel cuts them.
import { cachedLatency, eachElement, latency, up } from './card.mjs'
import { mma } from './cases.mjs'

const tokens = 8192
const [width, wide, vocabulary] = [3584, 18944, 152064]
const [heads, keyHeads, headDim, layers] = [28, 4, 128, 28]
const [rank, experts, groups] = [16, 4, 5]
/** Loads of a plain loop that are under way at once: what the compilers unroll to. */
const loads = 4

/** Cycles that a loop waits for memory. */
const loop = (iterations, each = latency) => each * up(iterations, loads)

/** The launches of every case; `use` gives what ptxas said of a kernel, or undefined where there is none. */
export function operationsOf(use) {
  const each = (functor, count, memory, more) => eachElement(use, functor, count, memory, more)
  const launch = (kernel, variant, blocks, threads, more) => ({
    kernel,
    use: use(new RegExp(`\\d${kernel}_kernel${variant}`)),
    blocks,
    threads,
    ...more,
  })
  const ofRows = (kernel, variant, rows, threads, memory, more) =>
    launch(kernel, variant, up(rows, threads / 32), threads, { memory, ...more })

  /** column_sums.h: 128 rows by 32 columns a block, eight rows side by side; then the blocks in order. */
  const sums = (term, store, planes, rows, columns, memory) => {
    const parts = up(rows, 128)
    return [
      launch('column_partials', `.*\\d${term}E`, planes * parts * up(columns, 32), 256, {
        memory: memory + 4 * planes * parts * columns,
        exposed: loop(16),
      }),
      launch('column_totals', `.*\\d${store}E`, up(planes * columns, 128), 128, {
        memory: 4 * planes * (parts + 2) * columns,
        exposed: loop(parts),
      }),
    ].map((one, i) => ({ ...one, kernel: `${one.kernel}, ${[term, store][i]}` }))
  }

  /** A block a row of logits; `passes` over it, all but the first from the caches. */
  const rowsOfLogits = (kernel, variant, rows, threads, { passes = 1, vector = 1, floats = 1 }) =>
    launch(kernel, variant, rows, threads, {
      memory: 4 * floats * rows * vocabulary,
      exposed: passes * loop(up(vocabulary, threads * vector)),
    })

  const matrix = width * wide
  const perLayer = 2 * (2 * width + (width + keyHeads * headDim)) + 3 * (width + wide)
  const parameters = layers * rank * perLayer
  const tensors = layers * 7 * 2
  /** As many launches as the list of tensors needs, `most` of them in one. */
  const inLaunches = (most, one) =>
    Array.from({ length: up(tensors, most) }, () => one(parameters / up(tensors, most)))

  const sequences = 8
  const position = 4096
  const chunks = up(position + 1, 256)
  const sorted = 32768
  const sortTiles = up(sorted, 1024)

  return {
    [`add:${tokens},${width}`]: [each('AddFour', (tokens * width) / 4, 12 * tokens * width)],
    [`add, rows apart:${tokens},${width}`]: [each('Add', tokens * width, 12 * tokens * width)],
    [`fill:${tokens},${width}`]: [each('Fill', tokens * width, 4 * tokens * width)],
    [`gather-rows:${tokens},${width}`]: [each('GatherRows', tokens * width, 6 * tokens * width)],
    // Every block reads all indices, 256 at a time, from the first cache.
    [`scatter-add-rows:${tokens},${width}`]: [
      launch('scatter_add_rows', '', tokens * up(width, 256), 256, {
        memory: 12 * tokens * width,
        exposed: cachedLatency * up(tokens, 256),
      }),
    ],
    [`rope:${tokens},${heads + keyHeads},${headDim}`]: [
      each(
        'Rope',
        (tokens * (heads + keyHeads) * headDim) / 2,
        8 * tokens * (heads + keyHeads) * headDim,
      ),
    ],
    [`rms-norm-weight:${tokens},${width}`]: sums(
      'WeightTerm',
      'WeightStore',
      1,
      tokens,
      width,
      8 * tokens * width,
    ),
    [`column-sum:${tokens},${width}`]: sums(
      'ElementTerm',
      'ElementStore',
      1,
      tokens,
      width,
      4 * tokens * width,
    ),
    [`scale-columns:${tokens},${width}`]: [
      each('ScaleColumns', (tokens * width) / 4, 8 * tokens * width),
      each('ScaleColumns', (tokens * width) / 4, 8 * tokens * width),
      ...sums('MagnitudeTerm', 'MagnitudeStore', 1, tokens, width, 8 * tokens * width),
    ],
    [`magnitude-scale:${width},${rank}`]: [
      ofRows('magnitude_scale', '', width, 128, 8 * width * rank, { exposed: 2 * latency }),
    ],
    [`router:${tokens},1,${experts}`]: [
      ofRows('router', 'ILi1E', tokens, 128, 8 * tokens * experts, { exposed: latency }),
    ],
    [`router-backward:${tokens},1,${experts}`]: [
      ofRows('favourites', 'ILi1E', tokens, 128, 4 * tokens * (experts + 1), { exposed: latency }),
      ...sums('GateTerm', 'GateStore', 1, tokens, 2 * experts, 8 * tokens * experts),
      launch('shared_gradients', '', 1, 32, { exposed: 4 * latency }),
      ofRows('router_backward', 'ILi1E', tokens, 128, 16 * tokens * experts, {
        exposed: 2 * latency,
      }),
    ],
    [`router-statistics:${tokens},1,${experts},${groups}`]: [
      ofRows('row_statistics', 'ILi1E', tokens, 128, 4 * tokens * (5 * experts + 4), {
        exposed: 2 * latency,
      }),
      ...sums(
        'StatisticsTerm',
        'StatisticsStore',
        groups,
        tokens,
        3 * experts + 4,
        4 * tokens * groups,
      ),
    ],
    [`mixture:${tokens},${rank},${experts}`]: [
      each('Weigh', (tokens * experts * rank) / 4, 4 * tokens * (rank + experts * (rank + 1)), {
        exposed: latency,
      }),
    ],
    [`mixture-backward:${tokens},${rank},${experts}`]: [
      each('GateGradient', tokens * experts, 4 * tokens * (rank + experts * (rank + 1)), {
        exposed: loop(rank),
      }),
      each('Weigh', (tokens * rank) / 4, 4 * tokens * (rank + experts * (rank + 1)), {
        exposed: loop(experts),
      }),
    ],
    [`segmented-matmul:${tokens},${rank},${groups}`]: [
      each('SegmentedMatmul', tokens * rank, 8 * tokens * rank, {
        exposed: loop(rank, cachedLatency) + latency,
      }),
    ],
    [`segmented-matmul-backward:${tokens},${rank},${groups}`]: [
      each('CheckSegments', tokens, 4 * tokens),
      ...sums('MatrixTerm', 'MatrixStore', groups, tokens, rank * rank, 8 * tokens * rank),
    ],
    [`gradient-norm:${parameters}`]: [
      ...inLaunches(128, (count) =>
        launch('square_sums', '', up(count, 8192), 256, {
          memory: 4 * count,
          work: { double: 2 * 8192 },
          exposed: loop(32),
        }),
      ),
      launch('norm', '', 1, 256, { exposed: loop(up(up(parameters, 8192), 256)) }),
    ],
    [`adamw:${parameters}`]: inLaunches(48, (count) =>
      launch('adamw', '', up(count, 4096), 256, { memory: 28 * count, exposed: 16 * latency }),
    ),
    // Ten rounds of Philox, four products each, and for normal numbers two of log, sqrt, sin and cos in float64.
    [`random-uniform:${matrix}`]: [each('Uniform', matrix / 4, 4 * matrix)],
    [`random-normal:${matrix}`]: [
      each('Normal', matrix / 4, 4 * matrix, { work: { double: 1024 * 520 } }),
    ],
    [`weight-update:${width},${wide}`]: [each('Update', matrix, 8 * matrix)],
    [`weight-read:${width},${wide}`]: [each('Read', matrix, 6 * matrix)],
    [`weight-row-norms:${width},${wide}`]: [
      launch('row_norms', '', width, 256, {
        memory: 4 * matrix,
        work: { double: 2 * wide },
        exposed: loop(up(wide, 256)),
      }),
    ],
    [`quantile:${matrix}`]: [1, 2, 3].flatMap(() => [
      launch('count', '', up(matrix, 8192), 256, {
        memory: 4 * matrix,
        // An atomic of a warp on shared memory: 32 lanes, of which neighbours of a bucket wait for each other.
        work: { shared: 8192 * 32 },
        exposed: loop(32),
      }),
      launch('choose', '', 1, 256, { exposed: 2 * latency + 256 * 30 }),
    ]),
    [`sort:${sorted},${groups}`]: [
      each('CheckKeys', sorted, 4 * sorted),
      launch('count_digits', '', up(sortTiles, 4), 128, { memory: 4 * sorted, exposed: loop(32) }),
      launch('scan_places', '', 1, 256, { exposed: up(256 * sortTiles, 256) * latency }),
      launch('move_keys', '', up(sortTiles, 4), 128, {
        memory: 12 * sorted,
        exposed: 32 * latency,
      }),
    ],
    [`argmax:${sequences},${vocabulary}`]: [rowsOfLogits('argmax', 'ILi256E', sequences, 256, {})],
    [`log-probability:512,${vocabulary}`]: [rowsOfLogits('log_probability', '', 512, 256, {})],
    [`softmax:${sequences},${vocabulary}`]: [
      rowsOfLogits('softmax', 'ILi256ELb1', sequences, 256, { passes: 3, vector: 4, floats: 2 }),
      rowsOfLogits('softmax_backward', 'ILi256ELb1', sequences, 256, {
        passes: 2,
        vector: 4,
        floats: 3,
      }),
    ],
    // The largest, the histogram, the candidates, and their sum.
    [`sample:${sequences},${vocabulary}`]: [
      rowsOfLogits('sample', 'ILi1024E', sequences, 1024, { passes: 4 }),
    ],
    [`top-k:${tokens},64,4`]: [
      ofRows('top_few', '', tokens, 256, 4 * tokens * 64, {
        exposed: latency + 3 * 2 * cachedLatency,
      }),
      each('Clear', tokens * 64, 4 * tokens * 64),
      each('TopKBackward', tokens * 4, 12 * tokens * 4),
    ],
    // Eight digits of the key, and the keys above it.
    [`top-k:${sequences},${vocabulary},50`]: [
      rowsOfLogits('top_many', '', sequences, 256, { passes: 9 }),
    ],
    [`attention-cached:${sequences},${position},${heads},${keyHeads},${headDim}`]: [
      launch('attention_cached', '.*FloatTilesILi128', sequences * keyHeads * chunks, 128, {
        dynamic: 70 << 10,
        memory: 8 * sequences * position * keyHeads * headDim,
        work: { shared: 84 * 128 * 256 },
        exposed: 16 * latency,
      }),
      launch('attention_cached_merge', '', sequences * heads, 128, {
        memory: 4 * sequences * heads * chunks * (headDim + 2),
        exposed: loop(chunks),
      }),
    ],
    [`cache-append:${sequences},${keyHeads},${headDim}`]: [
      launch('cache_append', '', sequences, 128, {
        memory: 8 * sequences * keyHeads * headDim,
        exposed: 3 * latency,
      }),
    ],
    'product-nt, first tier:4096,4096,4096': [mma(use, 'nt', 4096, 4096, 4096)],
    // 64 x 64 a block, in float32: a warp reads a vector of x and two of w for each of k.
    'product-f32:4096,4096,4096': [
      launch('matmul_f32', 'IL9pl_layout0', 64 * 64, 256, {
        memory: 12 * 4096 ** 2,
        cache: 64 * 64 * 2 * 64 * 4096 * 4,
        work: { fma: 2 * 64 * 64 * 4096, shared: 8 * 3 * 128 * 4096 },
      }),
    ],
  }
}
