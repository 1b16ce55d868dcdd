import { RE2JS } from 're2js'
import { ConfigError } from '../errors.js'
import { type AdapterForm, plainForm } from './form.js'

/** What a LoRA adapter is, before it is attached to a model (Hu et al. 2021). Names follow PEFT's in camelCase. */
export interface LoraOptions {
  /** Columns of A and B; default 8. */
  rank?: number
  /** The update is scaled by alpha / rank; default 2 · rank. */
  alpha?: number
  /** `all-linear`: every linear layer of the blocks; a list: names or endings of names; a pattern: a regular expression
   * (RE2 syntax) that must match the whole name. Default all-linear. */
  targets?: 'all-linear' | readonly string[] | { readonly pattern: string }
  /** Dropout on the input of A; default 0. */
  dropout?: number
  /** Scale by alpha / sqrt(rank) instead (Kalajdzievski 2023); default false. */
  rsLora?: boolean
  /** LoRA+: learning rate of B over that of A (Hayou et al. 2024); default 1. */
  loraPlusRatio?: number
  /** Ranks of the modules whose name matches `^(.*\.)?(key)$`; the first match wins. */
  rankPattern?: Readonly<Record<string, number>>
  /** Likewise for alpha. */
  alphaPattern?: Readonly<Record<string, number>>
  /** Of the initial A and of dropout; default 0. */
  seed?: number
}

/** The names of the kinds, as `method.kind` in a configuration. */
export type AdapterKind =
  | 'lora'
  | 'dora'
  | 'pissa'
  | 'olora'
  | 'lora-moe'
  | 'hydra-lora'
  | 'mtl-lora'
  | 'mole'
  | 'arrow'
  | 'fixed'

/** A checked declaration of any kind with every default filled in. Ranks are those of one expert. */
export interface LoraDeclaration {
  readonly kind: AdapterKind
  readonly form: AdapterForm
  readonly rank: number
  readonly alpha: number
  readonly targets: 'all-linear' | readonly string[] | { readonly pattern: string }
  readonly dropout: number
  readonly rsLora: boolean
  readonly loraPlusRatio: number
  readonly rankPattern: Readonly<Record<string, number>>
  readonly alphaPattern: Readonly<Record<string, number>>
  readonly seed: number
}

const maxRank = 4096

/** Declares a LoRA adapter for `model.attach`. */
export function lora(options: LoraOptions = {}): LoraDeclaration {
  const rank = options.rank ?? 8
  checkRank('rank', rank)
  const alpha = options.alpha ?? 2 * rank
  checkAlpha('alpha', alpha)
  const dropout = options.dropout ?? 0
  if (!(dropout >= 0 && dropout < 1)) throw wrong('dropout', dropout, 'a number from 0 to below 1')
  const loraPlusRatio = options.loraPlusRatio ?? 1
  if (!(loraPlusRatio > 0 && loraPlusRatio <= 1e6))
    throw wrong('loraPlusRatio', loraPlusRatio, 'a number above 0 and at most 1e6')
  const seed = options.seed ?? 0
  if (!Number.isSafeInteger(seed) || seed < 0)
    throw wrong('seed', seed, 'a whole number from 0 to 2^53 - 1')
  const rankPattern = { ...options.rankPattern }
  for (const [key, value] of Object.entries(rankPattern)) checkRank(`rankPattern.${key}`, value)
  const alphaPattern = { ...options.alphaPattern }
  for (const [key, value] of Object.entries(alphaPattern)) checkAlpha(`alphaPattern.${key}`, value)
  const targets = options.targets ?? 'all-linear'
  const isList = Array.isArray(targets) && targets.every((one) => typeof one === 'string')
  const isPattern =
    typeof targets === 'object' && 'pattern' in targets && typeof targets.pattern === 'string'
  if (targets !== 'all-linear' && !(isList && targets.length > 0) && !isPattern)
    throw wrong('targets', targets, '"all-linear", a list of module names, or { pattern: "…" }')
  const declaration: LoraDeclaration = {
    kind: 'lora',
    form: plainForm,
    rank,
    alpha,
    targets,
    dropout,
    rsLora: options.rsLora ?? false,
    loraPlusRatio,
    rankPattern,
    alphaPattern,
    seed,
  }
  // Compiles every pattern, so that a bad one is refused here.
  targetMatcher(declaration)
  patternValue(rankPattern, '', 0)
  patternValue(alphaPattern, '', 0)
  return declaration
}

/** Whether a module's full name is a target, by PEFT's rules. */
export function targetMatcher({
  targets,
}: Pick<LoraDeclaration, 'targets'>): (path: string) => boolean {
  if (targets === 'all-linear') return () => true
  if ('pattern' in targets) {
    const pattern = compile(targets.pattern, 'targets')
    return (path) => pattern.matches(path)
  }
  return (path) => targets.some((target) => path === target || path.endsWith(`.${target}`))
}

/** The value of the first key that matches `^(.*\.)?(key)$`, or the fallback. */
export function patternValue(
  patterns: Readonly<Record<string, number>>,
  path: string,
  fallback: number,
): number {
  for (const { pattern, value } of compilePatterns(patterns))
    if (pattern.matches(path)) return value
  return fallback
}

type CompiledPatterns = readonly { readonly pattern: RE2JS; readonly value: number }[]
const compiledPatterns = new WeakMap<Readonly<Record<string, number>>, CompiledPatterns>()

// Every pattern is tried on every module, so each is compiled once.
function compilePatterns(patterns: Readonly<Record<string, number>>): CompiledPatterns {
  let compiled = compiledPatterns.get(patterns)
  if (!compiled) {
    compiled = Object.entries(patterns).map(([key, value]) => ({
      pattern: compile(`(.*\\.)?(${key})`, key),
      value,
    }))
    compiledPatterns.set(patterns, compiled)
  }
  return compiled
}

/** s in y = W x + s · B A x: alpha / rank, or alpha / sqrt(rank). */
export function loraScale(alpha: number, rank: number, rsLora: boolean): number {
  return alpha / (rsLora ? Math.sqrt(rank) : rank)
}

// RE2: a pattern from a file cannot take exponential time.
function compile(pattern: string, key: string): RE2JS {
  try {
    return RE2JS.compile(pattern)
  } catch (cause) {
    throw new ConfigError(
      `${key} must be a regular expression in RE2 syntax, not ${JSON.stringify(pattern)}: ${(cause as Error).message}`,
      { cause, details: { key, received: pattern } },
    )
  }
}

export function checkRank(key: string, value: unknown): void {
  if (!Number.isInteger(value) || (value as number) < 1 || (value as number) > maxRank)
    throw wrong(key, value, `a whole number from 1 to ${maxRank}`)
}

function checkAlpha(key: string, value: unknown): void {
  if (typeof value !== 'number' || !(value > 0 && value <= 1e6))
    throw wrong(key, value, 'a number above 0 and at most 1e6')
}

export function wrong(key: string, value: unknown, allowed: string): ConfigError {
  return new ConfigError(`${key} must be ${allowed}, not ${JSON.stringify(value)}`, {
    details: { key, received: value, allowed },
  })
}
