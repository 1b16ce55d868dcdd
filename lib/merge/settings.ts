import { ConfigError } from '../errors.js'
import type { Parameters } from './composition.js'
import type { Method, ParameterSpec } from './methods.js'

/**
 * A parameter in a recipe: a value, a list that is interpolated over the layers (a gradient), or values for the tensors
 * whose names contain a filter, of which the first that fits counts.
 */
export type Setting = Scalar | readonly Scalar[] | Conditional | readonly Conditional[]
export type Scalar = number | boolean
export interface Conditional {
  readonly filter?: string | null
  readonly value: Scalar | readonly Scalar[]
}

export type Settings = Readonly<Record<string, Setting>>

/** What is given where, the most particular first: a source, its slice, the recipe. */
export type Scopes = readonly (Settings | undefined)[]

/** Where a tensor stands: its name, and how far through the layers of its slice it lies, from 0 to 1. */
export interface Position {
  readonly name: string
  readonly depth: number
}

/**
 * The values of a method's parameters for one tensor.
 *
 * @throws ConfigError for one that must be given and is not, or has a wrong kind or range
 */
export function resolveParameters(
  method: Method,
  of: ParameterSpec['of'],
  scopes: Scopes,
  position: Position,
  whose: string,
): Parameters {
  const values: Record<string, number> = {}
  for (const [name, spec] of Object.entries(method.parameters)) {
    if (spec.of !== of) continue
    const given = firstGiven(scopes, name, position)
    const value = given === undefined ? spec.default : check(name, spec, given, whose)
    if (value === undefined)
      throw new ConfigError(
        `${name} must be given${whose && ` for ${whose}`}: ${describeSpec(spec)}`,
        { details: { key: name, allowed: describeSpec(spec) } },
      )
    values[name] = value
  }
  return values
}

/** Refuses what no method or not this one takes. @throws ConfigError */
export function checkSettings(
  settings: Settings | undefined,
  method: Method,
  methodName: string,
  where: string,
): void {
  for (const name of Object.keys(settings ?? {}))
    if (!Object.hasOwn(method.parameters, name))
      throw new ConfigError(
        `${where}.${name} is no parameter of ${methodName}, which takes ${Object.keys(method.parameters).join(', ')}`,
        { details: { key: `${where}.${name}`, allowed: Object.keys(method.parameters) } },
      )
}

function firstGiven(scopes: Scopes, name: string, position: Position): Scalar | undefined {
  for (const settings of scopes) {
    if (!settings || !Object.hasOwn(settings, name)) continue
    const value = evaluate(settings[name], position)
    if (value !== undefined) return value
  }
  return undefined
}

function evaluate(setting: Setting, { name, depth }: Position): Scalar | undefined {
  if (!Array.isArray(setting))
    return isConditional(setting) ? evaluate([setting], { name, depth }) : (setting as Scalar)
  const list = setting as readonly (Scalar | Conditional)[]
  if (list.some(isConditional)) {
    const first = (list as readonly Conditional[]).find(
      ({ filter }) => filter == null || filter === '*' || name.includes(filter),
    )
    return first && evaluate(first.value, { name, depth })
  }
  if (!list.every((value) => typeof value === 'number'))
    return list[Math.floor(depth * (list.length - 1))] as Scalar
  const place = depth * (list.length - 1)
  const below = Math.floor(place)
  const above = Math.min(list.length - 1, below + 1)
  return (1 - (place - below)) * list[below] + (place - below) * list[above]
}

function isConditional(setting: Setting): setting is Conditional {
  return typeof setting === 'object' && !Array.isArray(setting)
}

function check(name: string, spec: ParameterSpec, value: Scalar, whose: string): number {
  const fits =
    spec.kind === 'boolean'
      ? typeof value === 'boolean' || value === 0 || value === 1
      : typeof value === 'number' && value >= spec.min! && value <= spec.max!
  if (!fits)
    throw new ConfigError(
      `${name}${whose && ` of ${whose}`} must be ${describeSpec(spec)}, not ${JSON.stringify(value)}`,
      { details: { key: name, received: value, allowed: describeSpec(spec) } },
    )
  return Number(value)
}

function describeSpec({ kind, min, max }: ParameterSpec): string {
  return kind === 'boolean' ? 'true or false' : `a number from ${min} to ${max}`
}
