import type { Device } from '../device.js'
import type { DecoderConfig, LinearGroupName } from '../models/index.js'
import {
  layerName,
  linearGroups,
  linearNames,
  linearShape,
  type LinearName,
} from '../models/index.js'
import type { Gate } from '../ops/gate.js'
import { gateParameters, type LowRankGroup, type LowRankPart } from '../ops/low-rank.js'
import type { OutputReader } from '../ops/output-gate.js'
import { random } from '../ops/random.js'
import { Parameter } from '../parameter.js'
import { Tensor } from '../tensor.js'
import { type LoraDeclaration, loraScale, patternValue } from './declaration.js'
import { expertRanks } from './form.js'

/** The update of one linear layer: rows begin … end of its group's A, and its own B. */
export interface AdapterModule {
  /** As Hugging Face names it: model.layers.0.self_attn.q_proj */
  readonly path: string
  readonly layer: number
  readonly linear: LinearName
  readonly inFeatures: number
  readonly outFeatures: number
  /** Of one expert. */
  readonly rank: number
  readonly alpha: number
  /** s in y += s · B A x */
  readonly scale: number
  readonly group: LowRankGroup
  readonly part: LowRankPart
  /** Which mixture of its group this is. */
  readonly mixture: number
}

/** A module before anything is allocated for it. */
export type PlannedModule = Omit<AdapterModule, 'group' | 'part' | 'mixture'>

/** What all groups of an adapter share: the discipline of rows of which nothing is known. */
export interface Fallback {
  discipline: number
}

// Random numbers of a group's parts are apart: A has the subsequences below the first.
const routerSubsequence = 1 << 20
const taskSubsequence = 1 << 21
// Of one group: query, key, value.
const mostMixtures = 4

/** The modules that a declaration asks for, group by group. */
export function planGroup(
  config: DecoderConfig,
  declaration: LoraDeclaration,
  layer: number,
  name: LinearGroupName,
  isTarget: (path: string) => boolean,
): (PlannedModule | null)[] {
  return linearGroups[name].map((linear) => {
    const path = `${layerName(layer)}.${linearNames[linear]}`
    if (!isTarget(path)) return null
    const rank = patternValue(declaration.rankPattern, path, declaration.rank)
    const alpha = patternValue(declaration.alphaPattern, path, declaration.alpha)
    const [outFeatures, inFeatures] = linearShape(config, linear)
    const scale = loraScale(alpha, rank, declaration.rsLora)
    return { path, layer, linear, rank, alpha, scale, inFeatures, outFeatures }
  })
}

/** Allocates a group and gives its parts their start. What is made belongs to the adapter. */
export function createGroup(
  device: Device,
  declaration: LoraDeclaration,
  planned: readonly (PlannedModule | null)[],
  name: string,
  index: number,
  fallback: Fallback,
): { group: LowRankGroup; modules: AdapterModule[] } | null {
  const present = planned.filter((plan) => plan !== null)
  if (present.length === 0) return null
  const { form } = declaration
  const { inFeatures } = present[0]
  const seed = BigInt(declaration.seed)
  const scales = present.flatMap(({ rank, scale }) =>
    new Array<number>(expertRanks(form, rank).rows).fill(scale),
  )
  const a = uniform(device, [scales.length, inFeatures], inFeatures, seed, index)
  let end = 0
  const parts = planned.map((plan): LowRankPart | null => {
    if (!plan) return null
    const { rows, columns } = expertRanks(form, plan.rank)
    const begin = end
    end += rows
    const b = Tensor.zeros(device, [plan.outFeatures, columns]).detach()
    return {
      begin,
      end,
      b: new Parameter(`${plan.path}.lora_B.weight`, b),
      transform: form.transform
        ? {
            matrices: identities(device, plan, form.disciplines.length),
            scale: plan.scale,
            fallback,
          }
        : null,
      magnitude: form.magnitude
        ? {
            value: new Parameter(
              `${plan.path}.lora_magnitude_vector`,
              Tensor.zeros(device, [plan.outFeatures]).detach(),
            ),
            baseNorm: Tensor.zeros(device, [plan.outFeatures]).detach(),
            scale: plan.scale,
          }
        : null,
    }
  })
  const group: LowRankGroup = {
    a: new Parameter(`${name}.lora_A.weight`, a),
    rankScale: Tensor.from(device, Float32Array.from(scales)).detach(),
    parts,
    dropout: { probability: declaration.dropout, seed, module: index },
    gate: createGate(device, declaration, present, name, index, fallback),
    correction:
      form.initialization === 'zero' ? null : createCorrection(device, declaration, planned, name),
  }
  let mixture = 0
  const modules = planned.flatMap((plan, i) =>
    plan ? [{ ...plan, group, part: parts[i]!, mixture: mixture++ }] : [],
  )
  return { group, modules }
}

/** U(-1/sqrt(in), 1/sqrt(in)): Kaiming-uniform with a = sqrt(5). */
function uniform(
  device: Device,
  shape: readonly number[],
  fanIn: number,
  seed: bigint,
  subsequence: number,
): Tensor {
  const values = Tensor.empty(device, shape).detach()
  const bound = 1 / Math.sqrt(fanIn)
  random(values, { kind: 'uniform', low: -bound, high: bound }, seed, BigInt(subsequence))
  return values
}

function identities(device: Device, { path, rank }: PlannedModule, count: number): Parameter {
  const values = new Float32Array(count * rank * rank)
  for (let d = 0; d < count; d++)
    for (let i = 0; i < rank; i++) values[d * rank * rank + i * rank + i] = 1
  return new Parameter(
    `${path}.lora_lambda`,
    Tensor.from(device, values, [count, rank, rank]).detach(),
  )
}

// Routers never start at zero: experts that share A and see equal gates would stay equal for ever.
function createGate(
  device: Device,
  { form, seed }: LoraDeclaration,
  present: readonly PlannedModule[],
  name: string,
  index: number,
  fallback: Fallback,
): Gate | null {
  const { gate, experts, disciplines } = form
  const mixtures = present.length
  const [{ inFeatures }] = present
  if (!gate) return null
  if (gate.kind === 'outputs') {
    const { scale, losses } = gate
    const readers = present.map(({ path, rank }, m): OutputReader => {
      const width = experts * rank
      const subsequence = routerSubsequence + mostMixtures * index + m
      const values = uniform(device, [experts, width], width, BigInt(seed), subsequence)
      return {
        weights: new Parameter(`${path}.lora_router.weight`, values),
        basis: Tensor.zeros(device, [width, width]).detach(),
        ones: Tensor.full(device, [width], 1).detach(),
      }
    })
    return {
      kind: gate.kind,
      experts,
      scale,
      losses,
      readers,
      state: { bias: null, statistics: null },
    }
  }
  if (gate.kind === 'fixed') {
    const weights = Float32Array.from(
      { length: mixtures * experts },
      (_, i) => gate.weights[i % experts],
    )
    return {
      kind: gate.kind,
      experts,
      weights: Tensor.from(device, weights, [mixtures, experts]).detach(),
    }
  }
  if (gate.kind === 'task') {
    const shape = [mixtures, disciplines.length, experts]
    const values = uniform(device, shape, experts, BigInt(seed), taskSubsequence + index)
    return {
      kind: gate.kind,
      experts,
      weights: new Parameter(`${name}.lora_task_weight`, values),
      temperature: gate.temperature,
      fallback,
    }
  }
  const shape = [mixtures * experts, inFeatures]
  const values = uniform(device, shape, inFeatures, BigInt(seed), routerSubsequence + index)
  const { topK, scale, absolute, losses, biasRate } = gate
  return {
    kind: gate.kind,
    experts,
    weights: new Parameter(`${name}.lora_router.weight`, values),
    topK,
    scale,
    absolute,
    losses,
    state: {
      bias: biasRate > 0 ? Tensor.zeros(device, [mixtures, experts]).detach() : null,
      statistics: null,
    },
  }
}

/** - s B0 A0, filled when the base weights are known. */
function createCorrection(
  device: Device,
  { form }: LoraDeclaration,
  planned: readonly (PlannedModule | null)[],
  name: string,
): LowRankGroup {
  const present = planned.filter((plan) => plan !== null)
  const scales = present.flatMap(({ rank, scale }) =>
    new Array<number>(expertRanks(form, rank).rows).fill(-scale),
  )
  let end = 0
  return {
    a: new Parameter(
      `${name}.correction_A`,
      Tensor.zeros(device, [scales.length, present[0].inFeatures]).detach(),
    ),
    rankScale: Tensor.from(device, Float32Array.from(scales)).detach(),
    parts: planned.map((plan) => {
      if (!plan) return null
      const begin = end
      end += plan.rank
      const b = Tensor.zeros(device, [plan.outFeatures, plan.rank]).detach()
      return { begin, end, b: new Parameter(`${plan.path}.correction_B`, b) }
    }),
    dropout: { probability: 0, seed: 0n, module: 0 },
  }
}

/** Ends everything that a group holds. */
export function disposeGroup(group: LowRankGroup): void {
  const { a, rankScale, parts, gate, correction } = group
  a.dispose()
  rankScale.release()
  for (const part of parts) {
    part?.b.dispose()
    part?.transform?.matrices.dispose()
    part?.magnitude?.value.dispose()
    part?.magnitude?.baseNorm.release()
  }
  if (gate) for (const parameter of gateParameters(gate)) parameter.dispose()
  if (gate?.kind === 'fixed') gate.weights.release()
  if (gate?.kind === 'outputs')
    for (const { basis, ones } of gate.readers) {
      basis.release()
      ones.release()
    }
  if (gate?.kind === 'router' || gate?.kind === 'outputs') {
    gate.state.bias?.release()
    gate.state.statistics?.release()
  }
  if (correction) disposeGroup(correction)
}
