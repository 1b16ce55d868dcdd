import { type LoraDeclaration, lora, type LoraOptions, wrong } from './declaration.js'
import { type AdapterForm, type GateForm, noLosses, plainForm } from './form.js'

/** The kinds beside LoRA: each says what the one mixture is in it. */

/** DoRA: W' = m · (W + s B A) / ‖W + s B A‖ by output (Liu et al. 2024). */
export function dora(options: LoraOptions = {}): LoraDeclaration {
  return { ...lora(options), kind: 'dora', form: { ...plainForm, magnitude: true } }
}

/** PiSSA: A and B start as the largest singular triplets of W, which a frozen update takes from it (Meng et al. 2024). */
export function pissa(options: LoraOptions = {}): LoraDeclaration {
  return { ...lora(options), kind: 'pissa', form: { ...plainForm, initialization: 'pissa' } }
}

/** OLoRA: B and A start as the first columns and rows of W = Q R (Büyükakyüz 2024). */
export function olora(options: LoraOptions = {}): LoraDeclaration {
  return { ...lora(options), kind: 'olora', form: { ...plainForm, initialization: 'olora' } }
}

export interface LoraMoeOptions extends LoraOptions {
  /** Experts of each layer; default 4. */
  experts?: number
  /** What the experts of a layer share; default nothing (MoELoRA, LoRAMoE, MixLoRA); `a`: HydraLoRA's asymmetry. */
  shares?: AdapterForm['shares']
  /** softmax: all experts of a token; top-k: its best, renormalised; uniform: 1/E each, for comparison. Default softmax. */
  gate?: 'softmax' | 'top-k' | 'uniform'
  /** Of top-k; default 2. */
  topK?: number
  /** Coefficient of Switch's load-balance loss; default 0. */
  balanceLoss?: number
  /** Coefficient of LoRAMoE's variance of the experts' loads; default 0. */
  varianceLoss?: number
  /** Coefficient of the z loss; default 0. */
  zLoss?: number
  /** Coefficient of the loss that sends each discipline to an expert of its own; needs `disciplines`; default 0. */
  supervisedLoss?: number
  /** Step of the loss-free balance of top-k: a bias moved towards equal loads after every step; default 0. */
  biasRate?: number
  /** Names in the order of the experts: discipline i belongs to expert i mod E. */
  disciplines?: readonly string[]
}

/** A mixture of LoRA experts behind a router for every layer. */
export function loraMoe(options: LoraMoeOptions = {}): LoraDeclaration {
  return mixture('lora-moe', options)
}

/** HydraLoRA: one A, several B, dense softmax gates (Tian et al. 2024). */
export function hydraLora(options: Omit<LoraMoeOptions, 'shares'> = {}): LoraDeclaration {
  return mixture('hydra-lora', { ...options, shares: 'a' })
}

function mixture(kind: 'lora-moe' | 'hydra-lora', options: LoraMoeOptions): LoraDeclaration {
  const experts = checkExperts(options.experts ?? 4)
  const shares = options.shares ?? 'nothing'
  if (!['nothing', 'a', 'b'].includes(shares))
    throw wrong('shares', shares, '"nothing", "a" or "b"')
  const disciplines = checkDisciplines(options.disciplines ?? [], 0)
  return {
    ...lora(options),
    kind,
    form: {
      ...plainForm,
      experts,
      shares,
      disciplines,
      gate: gateOf(options, experts, disciplines),
    },
  }
}

function gateOf(
  options: LoraMoeOptions,
  experts: number,
  disciplines: readonly string[],
): GateForm {
  const gate = options.gate ?? 'softmax'
  if (!['softmax', 'top-k', 'uniform'].includes(gate))
    throw wrong('gate', gate, '"softmax", "top-k" or "uniform"')
  const losses = {
    balance: checkCoefficient('balanceLoss', options.balanceLoss),
    variance: checkCoefficient('varianceLoss', options.varianceLoss),
    z: checkCoefficient('zLoss', options.zLoss),
    supervised: checkCoefficient('supervisedLoss', options.supervisedLoss),
  }
  const biasRate = checkCoefficient('biasRate', options.biasRate)
  const topK = gate === 'top-k' ? (options.topK ?? Math.min(2, experts)) : experts
  if (!Number.isInteger(topK) || topK < 1 || topK > experts)
    throw wrong('topK', topK, `a whole number from 1 to the number of experts, ${experts}`)
  if (gate !== 'top-k' && options.topK !== undefined)
    throw wrong('topK', options.topK, 'absent unless gate is "top-k"')
  if (biasRate > 0 && gate !== 'top-k')
    throw wrong('biasRate', biasRate, '0 unless gate is "top-k"')
  if (losses.supervised > 0 && disciplines.length === 0)
    throw wrong('disciplines', [], 'the names of the disciplines where supervisedLoss is given')
  if (gate === 'uniform') {
    const given = Object.values(losses).find((value) => value > 0)
    if (given !== undefined) throw wrong('gate', gate, '"softmax" or "top-k" where a loss is given')
    return { kind: 'fixed', weights: new Array<number>(experts).fill(1 / experts) }
  }
  return { kind: 'router', topK, scale: 1, absolute: false, trained: true, losses, biasRate }
}

export interface MtlLoraOptions extends LoraOptions {
  /** B matrices of each layer; default 3. */
  experts?: number
  /** Of the softmax over each discipline's weights; default 0.1. */
  temperature?: number
  /** Every name that the corpus may have. */
  disciplines: readonly string[]
}

/** MTL-LoRA: y = W x + s Σ_j softmax(w_t / τ)_j B_j Λ_t A x for discipline t (Yang et al. 2024). */
export function mtlLora(options: MtlLoraOptions): LoraDeclaration {
  const experts = checkExperts(options.experts ?? 3)
  const temperature = options.temperature ?? 0.1
  if (!(temperature >= 1e-3 && temperature <= 1e3))
    throw wrong('temperature', temperature, 'a number from 0.001 to 1000')
  return {
    ...lora(options),
    kind: 'mtl-lora',
    form: {
      ...plainForm,
      experts,
      shares: 'a',
      transform: true,
      gate: { kind: 'task', temperature },
      disciplines: checkDisciplines(options.disciplines, 1),
    },
  }
}

/** A gate over adapters that were trained before and stay as they are. */
export type CompositionGate =
  | { kind: 'mole'; temperature: number; balanceLoss?: number; zLoss?: number }
  | { kind: 'arrow'; topK: number; temperature: number }
  | { kind: 'fixed'; weights: readonly number[] }

/** What `compose` makes of E adapters of one rank each. */
export function compositionForm(gate: CompositionGate, experts: number): AdapterForm {
  const router = {
    kind: 'router',
    losses: noLosses,
    biasRate: 0,
    absolute: false,
  } as const
  const form = { ...plainForm, experts, frozenExperts: true }
  switch (gate.kind) {
    case 'mole':
      return {
        ...form,
        gate: {
          kind: 'outputs',
          scale: 1 / gate.temperature,
          losses: {
            ...noLosses,
            balance: checkCoefficient('balanceLoss', gate.balanceLoss),
            z: checkCoefficient('zLoss', gate.zLoss),
          },
        },
      }
    case 'arrow':
      return {
        ...form,
        gate: {
          ...router,
          topK: gate.topK,
          scale: 1 / gate.temperature,
          absolute: true,
          trained: false,
        },
      }
    case 'fixed':
      return { ...form, gate: { kind: 'fixed', weights: [...gate.weights] } }
  }
}

export function checkExperts(experts: unknown): number {
  if (!Number.isInteger(experts) || (experts as number) < 1 || (experts as number) > 256)
    throw wrong('experts', experts, 'a whole number from 1 to 256')
  return experts as number
}

export function checkDisciplines(names: unknown, least: number): readonly string[] {
  const isList =
    Array.isArray(names) &&
    names.length >= least &&
    names.length <= 1024 &&
    names.every((name) => typeof name === 'string' && name !== '' && name.length <= 256)
  if (!isList || new Set(names).size !== names.length)
    throw wrong('disciplines', names, `a list of ${least} to 1024 different names`)
  return [...(names as string[])]
}

function checkCoefficient(key: string, value = 0): number {
  if (!(value >= 0 && value <= 1e6)) throw wrong(key, value, 'a number from 0 to 1e6')
  return value
}
