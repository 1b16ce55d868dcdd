import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { lossesOf } from '../adapters/form.js'
import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { factoredAdapter } from './factored-adapter.js'
import { energyOf, type LowRank, multiply, stack, truncate } from './low-rank.js'

/** What stands in for gates that depend on the row. */
export interface PlainAdapterOptions {
  /** Of adapters whose gates and matrices go by discipline: the one that is meant. */
  readonly discipline?: string
  /** In place of a router: a constant for each expert, or `uniform`, 1/E each. */
  readonly gates?: readonly number[] | 'uniform'
  /** Highest rank of a module; default: what the update has. */
  readonly rank?: number
}

/**
 * The plain LoRA whose update is that of an adapter of another kind, for whatever knows only W + s B A. Exact where gates
 * are constant or go by discipline: experts side by side, added in B where they share A, in A where they share B. A router
 * has no such update, so its gates must be given.
 *
 * @returns an adapter of the caller's, and the part of the energy (the squared singular values of all modules) that a lower
 *   rank has lost
 * @throws ConfigError if the update is no fixed product, or an option is missing or for nothing
 */
export async function plainAdapter(
  device: Device,
  config: DecoderConfig,
  adapter: Adapter,
  options: PlainAdapterOptions = {},
): Promise<{ adapter: Adapter; lostEnergy: number }> {
  const { kind, form } = adapter.declaration
  const refuse = (message: string, key: string): never => {
    throw new ConfigError(message, { details: { key, received: kind } })
  }
  if (form.magnitude)
    refuse(
      `an adapter of kind ${kind} scales the rows of W + s B A, which no plain LoRA does: PEFT knows it as it is, or merge it into the model`,
      'kind',
    )
  const routed = lossesOf(form) !== null
  if (routed && options.gates === undefined)
    refuse(
      `the gates of an adapter of kind ${kind} depend on each token, so no fixed update equals it: give constants in their place (gates), such as the mean load of metrics.jsonl`,
      'gates',
    )
  if (!routed && options.gates !== undefined)
    refuse(`an adapter of kind ${kind} has no router, so gates cannot be given`, 'gates')
  if (adapter.needsDiscipline && options.discipline === undefined)
    refuse(
      `an adapter of kind ${kind} goes by discipline: say which of ${form.disciplines.join(', ')} is meant`,
      'discipline',
    )
  const { gates, rank = Infinity } = options
  if (gates !== undefined && gates !== 'uniform')
    if (gates.length !== form.experts || !gates.every(Number.isFinite))
      refuse(
        `gates must be ${form.experts} numbers, one an expert, not ${gates.join(', ')}`,
        'gates',
      )
  if (options.rank !== undefined && !(Number.isInteger(rank) && rank >= 1))
    refuse(`rank must be a whole number from 1, not ${rank}`, 'rank')
  const discipline =
    options.discipline === undefined ? 0 : adapter.disciplineIndex(options.discipline)
  const factors = new Map<string, LowRank>()
  let [kept, whole] = [0, 0]
  for (const module of adapter.modules) {
    const full = await fixedFactors(
      adapter,
      module,
      await gatesOf(adapter, module, discipline, gates),
      discipline,
    )
    const own = full.rank > rank ? truncate(full, rank).factors : full
    factors.set(module.path, own)
    whole += energyOf(full)
    kept += full.rank > rank ? energyOf(own) : energyOf(full)
  }
  return {
    adapter: factoredAdapter(device, config, factors),
    lostEnergy: whole > 0 ? Math.max(0, 1 - kept / whole) : 0,
  }
}

/** One constant for each expert of a module. */
async function gatesOf(
  { declaration: { form } }: Adapter,
  { group, mixture }: AdapterModule,
  discipline: number,
  given: PlainAdapterOptions['gates'],
): Promise<readonly number[]> {
  const { experts } = form
  const { gate } = group
  if (!gate) return new Array<number>(experts).fill(1)
  if (gate.kind === 'router' || gate.kind === 'outputs')
    return given === undefined || given === 'uniform'
      ? new Array<number>(experts).fill(1 / experts)
      : given
  const values = gate.kind === 'fixed' ? gate.weights : gate.weights.value
  const rows = gate.kind === 'fixed' ? 1 : gate.weights.value.shape[1]
  const begin = (mixture * rows + (gate.kind === 'fixed' ? 0 : discipline)) * experts
  const own = Array.from((await values.readFloats()).subarray(begin, begin + experts))
  if (gate.kind === 'fixed') return own
  const most = Math.max(...own)
  const powers = own.map((value) => Math.exp((value - most) / gate.temperature))
  const total = powers.reduce((sum, value) => sum + value, 0)
  return powers.map((value) => value / total)
}

/** Both factors of Σ_e g_e s B_e Λ A_e, and of what PiSSA and OLoRA take from the base, in float64. */
async function fixedFactors(
  { declaration: { form } }: Adapter,
  { group, part, rank, scale, inFeatures, outFeatures }: AdapterModule,
  gates: readonly number[],
  discipline: number,
): Promise<LowRank> {
  const read = async (g: typeof group, p: { begin: number; end: number }) => {
    using rows = g.a.value.slice(0, p.begin, p.end)
    return Float64Array.from(await rows.readFloats())
  }
  const a = await read(group, part)
  const b = Float64Array.from(await part.b.value.readFloats(), (value) => value * scale)
  const { experts, shares } = form
  const columns = b.length / outFeatures
  let update: LowRank
  if (shares === 'a') {
    const sum = new Float64Array(outFeatures * rank)
    for (let i = 0; i < outFeatures; i++)
      for (let e = 0; e < experts; e++)
        for (let k = 0; k < rank; k++) sum[i * rank + k] += gates[e] * b[i * columns + e * rank + k]
    update = { rank, a, b: sum }
  } else if (shares === 'b') {
    const sum = new Float64Array(rank * inFeatures)
    for (let e = 0; e < experts; e++)
      for (let i = 0; i < sum.length; i++) sum[i] += gates[e] * a[e * sum.length + i]
    update = { rank, a: sum, b }
  } else {
    for (let i = 0; i < b.length; i++) b[i] *= gates[Math.floor((i % columns) / rank)]
    update = { rank: columns, a, b }
  }
  if (part.transform) {
    const matrices = await part.transform.matrices.value.readFloats()
    const size = rank * rank
    const matrix = Float64Array.from(matrices.subarray(discipline * size, (discipline + 1) * size))
    return { ...update, a: multiply(matrix, update.a, rank, inFeatures) }
  }
  if (!group.correction) return update
  const place = group.correction.parts[group.parts.indexOf(part)]!
  const taken = Float64Array.from(await place.b.value.readFloats(), (value) => -scale * value)
  return stack([update, { rank, a: await read(group.correction, place), b: taken }])
}
