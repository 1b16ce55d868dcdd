import { createHash } from 'node:crypto'
import type { TrainConfigInput } from '../train/options.js'
import type { Rung } from './halving.js'

/**
 * How a model is made from the study's model. Plain data: two arms that say the same are one run. With a seed it says every
 * bit of the result.
 */
export type Procedure =
  BaseProcedure | TrainProcedure | MergeProcedure | ChatVectorProcedure | ChoiceProcedure

/** The study's model as it is. */
export interface BaseProcedure {
  readonly kind: 'base'
}

/** A fresh adapter on the frozen result of another procedure. */
export interface TrainProcedure {
  readonly kind: 'train'
  readonly from: Procedure
  readonly method: Method
  /** Given, or taken with or without the rest of the design (all but the rank) from what a choice found. */
  readonly learningRate: number | Settled
  readonly data: Mixture
  /** That go through the model, prompts included. */
  readonly tokens: number
}

export type Method = TrainConfigInput['method'] & { readonly rank: number }

export interface Settled {
  readonly by: ChoiceProcedure
  readonly what: 'learning rate' | 'design'
  /** Of the learning rate. */
  readonly factor?: number
}

/** The updates of trained adapters, put into the weights. */
export interface MergeProcedure {
  readonly kind: 'merge'
  readonly parts: readonly { readonly of: Procedure; readonly weight: number }[]
  /** mergekit's name. */
  readonly operator: 'task_arithmetic' | 'ties'
}

/** θ + weight (θ_instruct - θ_base), θ being what a merge makes (Chat Vector, Huang et al. 2024). */
export interface ChatVectorProcedure {
  readonly kind: 'chat-vector'
  readonly from: MergeProcedure
  /** Model folders. */
  readonly instruct: string
  readonly base: string
  readonly weight: number
}

/**
 * The best of several on validation data, by successive halving: at each rung the candidates are trained on so many tokens
 * with the search seed, and so many of them go on. The same for every seed that the study reports.
 */
export interface ChoiceProcedure {
  readonly kind: 'choice'
  readonly candidates: readonly Procedure[]
  readonly rungs: readonly Rung[]
  readonly seed: number
}

export interface Mixture {
  /** Of the corpus; or the alignment data alone: general content, no discipline. */
  readonly disciplines: readonly string[] | 'instructions'
  /**
   * Of the trained tokens: by size; equal; equal as far as caps by diversity allow; the same with repeats that are chosen; or
   * what another training came to with the same seed.
   */
  readonly shares: 'proportional' | 'equal' | 'capped' | 'diverse' | { readonly of: TrainProcedure }
  /** Most passes over a discipline, where shares are capped. */
  readonly mostEpochs?: number
  /** The reserve's items beside the discipline's own, so that none needs to be repeated. */
  readonly fresh?: true
  /** Part of every discipline's items, drawn by the run's seed. */
  readonly subset?: number
}

export const base: BaseProcedure = { kind: 'base' }

/** JSON with sorted keys and without what is undefined: equal values have equal texts. */
export function canonical(value: unknown): string {
  if (Array.isArray(value)) return `[${value.map(canonical).join(',')}]`
  if (typeof value !== 'object' || value === null) return JSON.stringify(value)
  const fields = Object.entries(value)
    .filter(([, field]) => field !== undefined)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([key, field]) => `${JSON.stringify(key)}:${canonical(field)}`)
  return `{${fields.join(',')}}`
}

/** SHA-256 of the canonical JSON, in hexadecimal. */
export function hashOf(value: unknown): string {
  return createHash('sha256').update(canonical(value)).digest('hex')
}

// A choice among trainings that each go on from a choice is long: its text is made once.
const hashes = new WeakMap<Procedure, string>()

/** hashOf, remembered. */
export function procedureHash(procedure: Procedure): string {
  const known = hashes.get(procedure)
  if (known !== undefined) return known
  const hash = hashOf(procedure)
  hashes.set(procedure, hash)
  return hash
}

/** The name of a run's files. */
export function runId(procedure: Procedure, seed: number): string {
  const hash = procedureHash(procedure)
  // The study's model has no seed.
  return hashOf(procedure.kind === 'base' ? { hash } : { hash, seed }).slice(0, 16)
}

/** The procedures that it goes on from, without those of a choice's candidates. */
export function partsOf(procedure: Procedure): readonly Procedure[] {
  switch (procedure.kind) {
    case 'base':
    case 'choice':
      return []
    case 'train':
    case 'chat-vector':
      return [procedure.from]
    case 'merge':
      return procedure.parts.map(({ of }) => of)
  }
}

/** Those whose results it takes, beside those that it goes on from. */
export function sourcesOfShares(procedure: Procedure): readonly TrainProcedure[] {
  if (procedure.kind !== 'train') return []
  const { shares } = procedure.data
  return typeof shares === 'string' ? [] : [shares.of]
}

/** Optimiser steps of so many tokens. */
export function stepsOf(tokens: number, batchTokens: number): number {
  return Math.max(1, Math.round(tokens / batchTokens))
}

/** The candidate with its own training at this many tokens; what is not trained stays as it is. */
export function withTokens(procedure: Procedure, tokens: number): Procedure {
  return procedure.kind === 'train' ? { ...procedure, tokens } : procedure
}

/**
 * Ids of the runs that were made to choose what a procedure rests on: trials, with what those go on from. They belong to its
 * cost. Of successive halving also those that a rung left out.
 */
export function trialsOf(procedure: Procedure): ReadonlySet<string> {
  const ids = new Set<string>()
  const seen = new Set<string>()
  const visit = (one: Procedure): void => {
    const hash = procedureHash(one)
    if (seen.has(hash)) return
    seen.add(hash)
    for (const part of [...partsOf(one), ...sourcesOfShares(one)]) visit(part)
    if (one.kind === 'choice') addTrials(one)
    if (one.kind === 'train' && typeof one.learningRate !== 'number') visit(one.learningRate.by)
  }
  const addTrials = ({ candidates, rungs, seed }: ChoiceProcedure): void => {
    for (const candidate of candidates) {
      visit(candidate)
      for (const part of partsOf(candidate)) ids.add(runId(part, seed))
      for (const { tokens } of rungs) ids.add(runId(withTokens(candidate, tokens), seed))
    }
  }
  visit(procedure)
  return ids
}
