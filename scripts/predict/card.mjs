// How long a launch takes on a card: its slowest unit, from what a block does and how many a processor holds.

/** An H200 SXM; an H100 SXM differs in its memory alone (3.35 TB/s). Rates are per processor and cycle. */
export const card = {
  name: 'H200 SXM',
  architecture: 'sm_90a',
  processors: 132,
  clock: 1.755e9,
  wgmma: 4096, // float operations with bf16 operands
  mma: 0.63 * 4096, // mma.sync reaches 62 to 65% of wgmma's rate on Hopper
  fma: 256,
  double: 128,
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

export const up = (a, b) => Math.ceil(a / b)
/** Cycles from a load to its value, and the barrier after it: from memory, and from the first cache. */
export const latency = 800
export const cachedLatency = 100

/** layout.h: four elements a thread. `memory`: bytes of the whole launch. */
export function eachElement(use, functor, count, memory, more = {}) {
  return {
    kernel: `each_element, ${functor}`,
    use: use(new RegExp(`each_element_kernel.*\\d${functor}[IE]`)),
    blocks: up(count, 1024),
    threads: 256,
    memory,
    ...more,
  }
}
