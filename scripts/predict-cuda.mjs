// What the CUDA kernels should take on a card that nobody has tried them on yet: from shapes, from
// how the kernels cut them, and from the registers and shared memory that ptxas reports. Writes
// docs/measurements/cuda-predictions.md; scripts/gpu times the same cases by the same names.
//
//   node scripts/predict-cuda.mjs [FOLDER OF LOGS]       after npm run build:cuda
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { format } from 'prettier'
import { root } from './bootstrap.mjs'
import { parsePtxas } from './check-ptxas.mjs'
import { cachedLatency, card, latency, predict } from './predict/card.mjs'
import { casesOf, inFlight } from './predict/cases.mjs'
import { operationsOf } from './predict/operations.mjs'
import { runMain, ScriptError } from './run.mjs'

/** Identifiers of a mangled name from `begin` on, each behind its length, and where they end. */
function identifiers(mangled, begin) {
  const found = []
  let at = begin
  for (;;) {
    const length = /^\d+/.exec(mangled.slice(at, at + 3))?.[0]
    if (!length) return { found, end: at }
    at += length.length + Number(length)
    found.push(mangled.slice(at - Number(length), at))
  }
}

/**
 * The name of a kernel without what its template takes, but for what a general one (each_element, column_partials and
 * column_totals) calls.
 */
export function familyOf(mangled) {
  const { found, end } = identifiers(mangled, mangled.indexOf('N') + 1)
  const kernel = found.at(-1)
  if (!/^(each_element|column_partials|column_totals)_kernel$/.test(kernel)) return kernel
  const scope = /^IN(S\w?_)?/.exec(mangled.slice(end))?.[0] ?? ''
  return `${kernel}, ${identifiers(mangled, end + scope.length).found.at(-1)}`
}

/** What ptxas says of the library's kernels, found by their mangled names; it knows which nobody has asked for. */
class Uses {
  #kernels
  #asked = new Set()

  constructor(folder) {
    this.#kernels = readdirSync(folder)
      .filter((name) => /(?<!_test)\.log$/.test(name))
      .flatMap((name) => parsePtxas(readFileSync(join(folder, name), 'utf8')))
      .filter(({ architecture }) => architecture === card.architecture)
  }

  find = (pattern) => {
    const kernel = this.#kernels.find(({ name }) => pattern.test(name))
    if (kernel) this.#asked.add(familyOf(kernel.name))
    return kernel
  }

  get unpredicted() {
    return [...new Set(this.#kernels.map(({ name }) => familyOf(name)))].filter(
      (family) => !this.#asked.has(family),
    )
  }
}

/** What the units of a processor compute; shared memory counts in bytes. */
const computed = ['wgmma', 'mma', 'fma', 'double', 'special']

/** One line a kernel of a case; launches of the same kernel together. */
function linesOf(name, launches) {
  const kernels = new Map()
  let total = 0
  for (const launch of launches) {
    if (!launch.use) throw new ScriptError(`${name}: nvcc's logs have no kernel ${launch.kernel}`)
    const found = predict(launch)
    total += found.time
    const known = kernels.get(launch.kernel) ?? {
      ...found,
      time: 0,
      count: 0,
      memory: 0,
      operations: 0,
    }
    const ofBlock = computed.reduce((sum, unit) => sum + (launch.work?.[unit] ?? 0), 0)
    kernels.set(launch.kernel, {
      ...known,
      time: known.time + found.time,
      count: known.count + 1,
      memory: known.memory + (launch.memory ?? 0),
      operations: known.operations + launch.blocks * ofBlock,
    })
  }
  const three = (value) => (value === 0 ? '' : Number(value.toPrecision(3)).toLocaleString('en'))
  const ms = (time) => (time * 1e3).toPrecision(3)
  const lines = [...kernels].map(([kernel, each]) => [
    '',
    each.count > 1 ? `${kernel} (${each.count} times)` : kernel,
    each.registers,
    each.most,
    each.blocks,
    three(each.memory / 1e6),
    three(each.operations / 1e9),
    each.limit,
    ms(each.time),
  ])
  return { total, lines: [[name, ...new Array(7).fill(''), ms(total)], ...lines] }
}

function page(uses) {
  const tabulate = (cases) =>
    Object.entries(cases).map(([name, launches]) => ({ name, ...linesOf(name, launches) }))
  const cases = tabulate(casesOf(uses.find))
  const others = tabulate(operationsOf(uses.find))
  if (uses.unpredicted.length > 0)
    throw new ScriptError(`nothing is predicted of ${uses.unpredicted.join('; ')}`)
  const head = ['case', 'kernel', 'registers', 'blocks', 'grid', 'MB', 'GFLOP', 'limited by', 'ms']
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
| fused multiply-add, float64 | ${tera(card.double)} TFLOP/s | |
| exponentials | ${tera(card.special)} T/s | |
| shared memory | ${tera(card.shared)} TB/s | 128 bytes a cycle and processor |
| second cache | ${card.cache / 1e12} TB/s | |
| memory | ${(card.memory / 1e12).toFixed(2)} TB/s | 90% of the data sheet's 4.8; an H100's is 3.35 |

The narrow products also wait ${latency} cycles for the copies of each ${inFlight} steps, which other blocks of the processor fill in part ("waiting for memory"). Launches are added up. Not in it: the cost of a launch, the ends of pipelines, bank conflicts, clocks that sink under load. So these are times that a good kernel comes near, not promises; one that takes half as long again or more has a reason to be found.

## Times

${table([head, ...cases.flatMap(({ lines }) => lines)])}

"blocks" are those that a processor holds at once, "grid" those of the first launch; "MB" is what goes to and from memory, "GFLOP" what the units above compute, exponentials included, of all launches; where it is empty nobody has counted, since it is far from what limits them. Cases are named as in benchmark/cuda/cases.cc: products by m, n and k; layers by tokens, inputs, outputs, rank and experts, forward and data gradient, with the gradients of A and B; cross entropy by rows, columns and vocabulary, with the gradient of its input; attention by sequences, length, heads, heads of keys and their size. The small launches of the mixture itself (router, gates) are left out.

## Every other kernel

What scripts/gpu does not time, at the sizes of a step of Qwen2.5-7B's shape, of its decoding or of a merge, one launch of each; the script refuses to write this page where a kernel of the library has no line. Where blocks are few or each does little, what limits them is waiting: ${latency} cycles for a load from memory and ${cachedLatency} from the first cache, four of a plain loop under way at once.

${table([head, ...others.flatMap(({ lines }) => lines)])}

Below some 0.003 ms the launch itself, which is not in it, takes longer.

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
    writeFileSync(file, await format(page(new Uses(folder)), { filepath: file, printWidth: 100 }))
    console.log(`polylora: written to ${file}`)
  })
