import type { RouterLosses } from '../ops/gate.js'

/**
 * What the one mixture of `ops/low-rank.ts` is in a kind of adapter: how many experts, what they share, where their
 * gates come from, how they start. A kind is a declaration of this and nothing more.
 */
export interface AdapterForm {
  /** Experts of each layer; 1 is LoRA. */
  readonly experts: number
  /** What all experts of a layer have in common. */
  readonly shares: 'nothing' | 'a' | 'b'
  /** Null: every gate is 1. */
  readonly gate: GateForm | null
  /** A and B at the start: random and zero, or from the base weights, which are corrected for it. */
  readonly initialization: 'zero' | 'pissa' | 'olora'
  /** DoRA's magnitude of every output. */
  readonly magnitude: boolean
  /** MTL-LoRA's matrix Λ for every discipline between A and B. */
  readonly transform: boolean
  /** A and B are not trained. */
  readonly frozenExperts: boolean
  /** In the order of their numbers, where the adapter tells them apart. */
  readonly disciplines: readonly string[]
}

export type GateForm =
  | {
      readonly kind: 'router'
      readonly topK: number
      readonly scale: number
      readonly absolute: boolean
      readonly trained: boolean
      readonly losses: RouterLosses
      /** Step of the loss-free bias (Wang et al. 2024); 0: no bias. */
      readonly biasRate: number
    }
  | {
      /** MoLE: reads what the experts say, which stay as they are. */
      readonly kind: 'outputs'
      readonly scale: number
      readonly losses: RouterLosses
    }
  | { readonly kind: 'task'; readonly temperature: number }
  | { readonly kind: 'fixed'; readonly weights: readonly number[] }

export const noLosses: RouterLosses = { balance: 0, variance: 0, z: 0, supervised: 0 }

/** The losses of a gate that is routed; null where it is not. */
export function lossesOf({ gate }: AdapterForm): RouterLosses | null {
  return gate?.kind === 'router' || gate?.kind === 'outputs' ? gate.losses : null
}

/** One expert whose gate is 1. */
export const plainForm: AdapterForm = {
  experts: 1,
  shares: 'nothing',
  gate: null,
  initialization: 'zero',
  magnitude: false,
  transform: false,
  frozenExperts: false,
  disciplines: [],
}

/** Rows of A and columns of B of a layer whose experts have this rank. */
export function expertRanks(
  { experts, shares }: AdapterForm,
  rank: number,
): { rows: number; columns: number } {
  return {
    rows: shares === 'a' ? rank : experts * rank,
    columns: shares === 'b' ? rank : experts * rank,
  }
}

/** Whether W + s B A is all there is: what merging and PEFT's format count on. */
export function isPlain(form: AdapterForm): boolean {
  return form.experts === 1 && !form.gate && form.initialization === 'zero' && !form.magnitude
}
