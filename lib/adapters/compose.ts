import type { Device } from '../device.js'
import { ArgumentError } from '../errors.js'
import type { DecoderConfig } from '../models/index.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { Adapter, type AdapterModule } from './adapter.js'
import { baseNameOf, requireOneBase } from './base-name.js'
import { lora, wrong } from './declaration.js'
import { eigen } from './factors.js'
import { isPlain } from './form.js'
import { type CompositionGate, compositionForm } from './kinds.js'
import { fillOutputBases, squareRoot } from './output-basis.js'
import { loadAdapter } from './peft.js'

/**
 * One mixture of adapters that were trained before and stay as they are, expert e being the e-th: behind a gate that is
 * learned from what they say (MoLE, Wu et al. 2024, here for each token), made of prototypes without any training
 * (Arrow, Ostapenko et al. 2024), or constant. Their own scaling goes into B; a smaller rank is filled with zeros, and so
 * is a layer that an adapter leaves alone.
 *
 * @param adapters of one model and plain LoRA; they stay the caller's
 * @throws ArgumentError, ConfigError
 */
export async function composeAdapters(
  device: Device,
  config: DecoderConfig,
  adapters: readonly Adapter[],
  gate: CompositionGate,
  { seed = 0 } = {},
): Promise<Adapter> {
  checkComposition(adapters, gate)
  const sources = new Map<string, (AdapterModule | null)[]>()
  adapters.forEach((adapter, e) => {
    for (const module of adapter.modules) {
      const list = sources.get(module.path) ?? adapters.map(() => null)
      list[e] = module
      sources.set(module.path, list)
    }
  })
  const ranks = new Map(
    [...sources].map(([path, list]) => [path, Math.max(...list.map((one) => one?.rank ?? 0))]),
  )
  const rank = Math.max(...ranks.values())
  const escape = (path: string) => path.replaceAll('.', '\\.')
  const pattern = Object.fromEntries(
    [...ranks].filter(([, own]) => own !== rank).map(([path, own]) => [escape(path), own]),
  )
  const declaration = {
    ...lora({
      rank,
      alpha: rank,
      targets: [...sources.keys()],
      rankPattern: pattern,
      // s is 1 everywhere.
      alphaPattern: pattern,
      seed,
    }),
    kind: gate.kind,
    form: compositionForm(gate, adapters.length),
  }
  const made = Adapter.create(device, config, declaration, { lenient: true })
  try {
    for (const module of made.modules) {
      const list = sources.get(module.path)!
      scope(() => {
        fillExperts(module, list)
      })
      if (gate.kind === 'arrow') await fillPrototypes(module, list)
    }
    await fillOutputBases(made)
    return made
  } catch (error) {
    made.dispose()
    throw error
  }
}

/** The same of saved adapters. @param folders plain LoRA, in the order of the experts */
export async function composeSaved(
  device: Device,
  config: DecoderConfig,
  folders: readonly string[],
  gate: CompositionGate,
  options: { seed?: number } = {},
): Promise<Adapter> {
  const loaded: Adapter[] = []
  try {
    const named: { folder: string; baseName: string | null }[] = []
    for (const folder of folders) {
      loaded.push(await loadAdapter(device, config, folder))
      named.push({ folder, baseName: await baseNameOf(folder) })
    }
    requireOneBase(named)
    return await composeAdapters(device, config, loaded, gate, options)
  } finally {
    for (const adapter of loaded) adapter.dispose()
  }
}

function checkComposition(adapters: readonly Adapter[], gate: CompositionGate): void {
  if (adapters.length === 0) throw new ArgumentError('a composition needs at least one adapter')
  for (const { declaration } of adapters)
    if (!isPlain(declaration.form))
      throw new ArgumentError(
        `an adapter of kind ${declaration.kind} cannot be an expert of a composition, only plain LoRA`,
        { details: { received: declaration.kind } },
      )
  if (gate.kind === 'fixed') {
    const { weights } = gate
    if (weights.length !== adapters.length || !weights.every(Number.isFinite))
      throw wrong('weights', weights, `${adapters.length} numbers, one an adapter`)
    return
  }
  if (!(gate.temperature >= 1e-3 && gate.temperature <= 1e3))
    throw wrong('temperature', gate.temperature, 'a number from 0.001 to 1000')
  if (gate.kind === 'arrow') {
    const { topK } = gate
    if (!Number.isInteger(topK) || topK < 1 || topK > adapters.length)
      throw wrong('topK', topK, `a whole number from 1 to the number of adapters`)
  }
}

/** A_e and s_e B_e side by side. */
function fillExperts(
  { group, part, rank, inFeatures, outFeatures, path }: AdapterModule,
  list: readonly (AdapterModule | null)[],
): void {
  const a = group.a.value.slice(0, part.begin, part.end)
  a.fill(0)
  part.b.value.fill(0)
  list.forEach((source, e) => {
    if (!source) return
    if (source.inFeatures !== inFeatures || source.outFeatures !== outFeatures)
      throw new ArgumentError(
        `expert ${e} updates ${path} of [${source.outFeatures}, ${source.inFeatures}], the model's is [${outFeatures}, ${inFeatures}]`,
      )
    const begin = e * rank
    const end = begin + source.rank
    a.slice(0, begin, end).copyFrom(
      source.group.a.value.slice(0, source.part.begin, source.part.end),
    )
    const from = source.part.b.value.native
    const to = part.b.value.slice(1, begin, end).native
    part.b.value.device.run('add', { a: from, b: from, alpha: source.scale, beta: 0, y: to })
  })
}

/** Row e of the router becomes the top right singular vector of B_e A_e; 0 where an adapter leaves the layer alone. */
async function fillPrototypes(
  { group, mixture, inFeatures }: AdapterModule,
  list: readonly (AdapterModule | null)[],
): Promise<void> {
  const { gate } = group
  if (gate?.kind !== 'router') return
  const values = new Float32Array(list.length * inFeatures)
  for (const [e, source] of list.entries())
    if (source) values.set(await topRightSingularVector(source), e * inFeatures)
  scope(() => {
    gate.weights.value
      .slice(0, mixture * list.length, (mixture + 1) * list.length)
      .copyFrom(Tensor.from(group.a.value.device, values, [list.length, inFeatures]))
  })
}

/**
 * v = Aᵀ w where w is the top eigenvector of (BᵀB)(A Aᵀ), an r × r matrix, found through the symmetric
 * √(A Aᵀ) BᵀB √(A Aᵀ).
 */
async function topRightSingularVector({
  group,
  part,
  inFeatures,
  rank,
}: AdapterModule): Promise<Float64Array> {
  const rows = group.a.value.slice(0, part.begin, part.end)
  const [a, b] = await Promise.all([rows.readFloats(), part.b.value.readFloats()]).finally(() => {
    rows.release()
  })
  const n = Array.from({ length: rank }, (_, i) => i)
  const gramOf = (at: (k: number, i: number) => number, count: number) =>
    n.map((i) =>
      n.map((j) => {
        let sum = 0
        for (let k = 0; k < count; k++) sum += at(k, i) * at(k, j)
        return sum
      }),
    )
  const gramA = gramOf((k, i) => a[i * inFeatures + k], inFeatures)
  const gramB = gramOf((k, i) => b[k * rank + i], b.length / rank)
  const root = squareRoot(gramA)
  const times = (x: readonly number[][], y: readonly number[][]) =>
    n.map((i) => n.map((j) => n.reduce((sum, k) => sum + x[i][k] * y[k][j], 0)))
  const inner = eigen(times(times(root, gramB), root))
  const top = n.reduce((best, i) => (inner.values[i] > inner.values[best] ? i : best), 0)
  const through = times(gramB, root)
  const w = n.map((i) => n.reduce((sum, k) => sum + through[i][k] * inner.vectors[k][top], 0))
  const v = Float64Array.from({ length: inFeatures }, (_, c) =>
    n.reduce((sum, i) => sum + w[i] * a[i * inFeatures + c], 0),
  )
  const norm = Math.sqrt(v.reduce((sum, value) => sum + value * value, 0))
  return norm > 0 ? v.map((value) => value / norm) : v
}
