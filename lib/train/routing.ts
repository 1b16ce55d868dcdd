import type { Adapter } from '../adapters/adapter.js'
import { lossesOf } from '../adapters/form.js'
import type { PackedBatch } from '../data/packed-batch.js'
import type { RoutingRows } from '../ops/pass.js'
import { Scope } from '../scope.js'
import { Tensor, vector } from '../tensor.js'

/** What an adapter's routers did in one step. Gates and choices are means over the step's rows. */
export interface RoutingReport {
  /** Over all routers: the mean gate of each expert. */
  readonly load: readonly number[]
  /** Mean entropy of the gates over its largest value, log E: 0 where every row has one expert, 1 where all are equal. */
  readonly entropy: number
  /** Of all experts of all routers: those whose mean gate is below 0.1 / E. */
  readonly deadExperts: number
  /** The mean gate of each expert for the rows of a discipline. */
  readonly byDiscipline: Readonly<Record<string, readonly number[]>>
  /** Without their coefficients, as means over the routers: only those that are trained on. */
  readonly losses: Readonly<Record<string, number>>
  readonly routers: readonly RouterReport[]
}

/** The same of one layer's router. */
export interface RouterReport {
  /** The linear layer: model.layers.0.self_attn.q_proj */
  readonly module: string
  readonly load: readonly number[]
  /** The part of all choices that fell on each expert; of the largest gates where all experts are used. */
  readonly choices: readonly number[]
  readonly entropy: number
  readonly byDiscipline: Readonly<Record<string, readonly number[]>>
}

/** Below this part of an equal share an expert counts as dead. */
const deadShare = 0.1

/** The rows of {@link RoutingRows} before they are uploaded. */
export interface RoutingData<T> {
  readonly rowDiscipline: T
  readonly rowExpert: T | null
}

/**
 * What the mixtures of an adapter need to know of a batch's rows; null: nothing. The tensors belong to the scope.
 *
 * @throws ArgumentError if the adapter tells disciplines apart and does not know one of the batch
 */
export function routingRows(
  adapter: Adapter,
  batch: PackedBatch,
  lossScale: Tensor | null,
): RoutingRows | null {
  const data = routingData(adapter, batch)
  if (!data) return null
  const upload = (values: Int32Array) => vector(adapter.device, values)
  return {
    rowDiscipline: upload(data.rowDiscipline),
    rowExpert: data.rowExpert && upload(data.rowExpert),
    lossScale,
  }
}

/** What {@link routingRows} uploads. */
export function routingData(adapter: Adapter, batch: PackedBatch): RoutingData<Int32Array> | null {
  const { form } = adapter.declaration
  if (!form.gate && !form.transform) return null
  const numbers =
    form.disciplines.length > 0
      ? batch.disciplineNames.map((name, i) =>
          batch.rowDiscipline.includes(i) ? adapter.disciplineIndex(name) : 0,
        )
      : batch.disciplineNames.map((_, i) => i)
  const rowDiscipline = batch.rowDiscipline.map((discipline) => numbers[discipline])
  const supervised = (lossesOf(form)?.supervised ?? 0) > 0
  const rowExpert = supervised ? rowDiscipline.map((discipline) => discipline % form.experts) : null
  return { rowDiscipline, rowExpert }
}

/** Gathers what the routers of an adapter do in a step, and moves the biases of loss-free balancing. */
export class RoutingMonitor {
  readonly #adapter: Adapter
  readonly #names: readonly string[]
  /** f32 [routers, D, 3 E + 4], of which every group has a slice. */
  readonly #statistics: Tensor
  readonly #biasRate: number

  private constructor(adapter: Adapter, disciplineNames: readonly string[], numRouters: number) {
    const { form } = adapter.declaration
    this.#adapter = adapter
    this.#names = form.disciplines.length > 0 ? form.disciplines : disciplineNames
    this.#biasRate = form.gate?.kind === 'router' ? form.gate.biasRate : 0
    const shape = [numRouters, this.#names.length, 3 * form.experts + 4]
    this.#statistics = Scope.detach(Tensor.zeros(adapter.device, shape))
    let begin = 0
    for (const { gate, modules } of adapter.routers()) {
      gate.state.statistics?.release()
      gate.state.statistics = Scope.detach(this.#statistics.slice(0, begin, begin + modules.length))
      begin += modules.length
    }
  }

  /** Null if the adapter has no routers. */
  static create(adapter: Adapter, disciplineNames: readonly string[]): RoutingMonitor | null {
    const numRouters = countRouters(adapter)
    return numRouters === 0 ? null : new RoutingMonitor(adapter, disciplineNames, numRouters)
  }

  /**
   * Reads what has been gathered since the last call, and starts anew. The read and the reset are queued before this
   * returns; the biases move when the promise resolves, if the step was applied.
   */
  report(applied: Promise<boolean>): Promise<RoutingReport> {
    const reading = this.#statistics.readFloats()
    this.#statistics.fill(0)
    return Promise.all([reading, applied]).then(([values, moves]) => {
      const report = this.#summarize(values)
      if (moves && this.#biasRate > 0) return this.#moveBiases(report).then(() => report)
      return report
    })
  }

  #summarize(values: Float32Array): RoutingReport {
    const { form } = this.#adapter.declaration
    const { experts } = form
    const width = 3 * experts + 4
    const modules = [...this.#adapter.routers()].flatMap((router) => router.modules)
    const all = new RowSums(experts, this.#names)
    const losses: Record<string, number> = {}
    let dead = 0
    const routers = modules.map((module, m): RouterReport => {
      const sums = new RowSums(experts, this.#names)
      this.#names.forEach((_, d) => {
        const begin = (m * this.#names.length + d) * width
        const row = values.subarray(begin, begin + width)
        sums.add(d, row)
        all.add(d, row)
      })
      const load = sums.load()
      dead += load.filter((gate) => gate < deadShare / experts).length
      for (const [name, loss] of Object.entries(sums.losses()))
        losses[name] = (losses[name] ?? 0) + loss / modules.length
      const { choices, entropy, byDiscipline } = sums.summary()
      return { module: module.path, load, choices, entropy, byDiscipline }
    })
    const { entropy, byDiscipline } = all.summary()
    const coefficients: Readonly<Record<string, number>> = { ...lossesOf(form) }
    return {
      load: all.load(),
      entropy,
      deadExperts: dead,
      byDiscipline,
      losses: Object.fromEntries(
        Object.entries(losses).filter(([name]) => (coefficients[name] ?? 0) > 0),
      ),
      routers,
    }
  }

  /** b_i += u · sign(mean load - load_i) by the choices of the step (Wang et al. 2024). */
  async #moveBiases({ routers }: RoutingReport): Promise<void> {
    let next = 0
    for (const { gate, modules } of this.#adapter.routers()) {
      const { bias } = gate.state
      const own = routers.slice(next, (next += modules.length))
      if (!bias) continue
      const values = await bias.readFloats()
      own.forEach(({ choices }, m) => {
        choices.forEach((share, i) => {
          values[m * gate.experts + i] += this.#biasRate * Math.sign(1 / gate.experts - share)
        })
      })
      bias.write(values)
    }
  }

  dispose(): void {
    for (const { gate } of this.#adapter.routers()) {
      gate.state.statistics?.release()
      gate.state.statistics = null
    }
    this.#statistics.release()
  }
}

/** How many mixtures have a router: the auxiliary losses are means over them. */
export function countRouters(adapter: Adapter): number {
  let count = 0
  for (const { modules } of adapter.routers()) count += modules.length
  return count
}

/** One row of `router_statistics` after the other, by discipline. */
class RowSums {
  readonly #experts: number
  readonly #names: readonly string[]
  readonly #sums: Float64Array
  readonly #gates: Float64Array[]
  readonly #rows: number[]

  constructor(experts: number, names: readonly string[]) {
    this.#experts = experts
    this.#names = names
    this.#sums = new Float64Array(3 * experts + 4)
    this.#gates = names.map(() => new Float64Array(experts))
    this.#rows = names.map(() => 0)
  }

  add(discipline: number, row: Float32Array): void {
    row.forEach((value, i) => {
      this.#sums[i] += value
      if (i < this.#experts) this.#gates[discipline][i] += value
    })
    this.#rows[discipline] += row[3 * this.#experts]
  }

  load(): number[] {
    return this.#means(0, this.#sums[3 * this.#experts])
  }

  summary(): Pick<RouterReport, 'choices' | 'entropy' | 'byDiscipline'> {
    const experts = this.#experts
    const counts = this.#sums.subarray(experts, 2 * experts)
    const choices = counts.reduce((sum, count) => sum + count, 0)
    const entropy = this.#sums[3 * experts + 1] / this.#sums[3 * experts]
    const present = this.#names.flatMap((name, d) =>
      this.#rows[d] > 0
        ? [[name, Array.from(this.#gates[d], (gate) => gate / this.#rows[d])] as const]
        : [],
    )
    return {
      choices: Array.from(counts, (count) => count / choices),
      entropy: experts > 1 ? entropy / Math.log(experts) : 0,
      byDiscipline: Object.fromEntries(present),
    }
  }

  losses(): Record<string, number> {
    const experts = this.#experts
    const rows = this.#sums[3 * experts]
    const { choices } = this.summary()
    const probabilities = this.#means(2 * experts, rows)
    const load = this.load()
    const mean = load.reduce((sum, one) => sum + one, 0) / experts
    const spread = load.reduce((sum, one) => sum + (one - mean) ** 2, 0) / Math.max(1, experts - 1)
    return {
      balance: experts * choices.reduce((sum, f, i) => sum + f * probabilities[i], 0),
      variance: spread / mean ** 2,
      z: this.#sums[3 * experts + 2] / rows,
      supervised: this.#sums[3 * experts + 3] / rows,
    }
  }

  #means(begin: number, rows: number): number[] {
    return Array.from(this.#sums.subarray(begin, begin + this.#experts), (sum) => sum / rows)
  }
}
