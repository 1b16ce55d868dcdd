import { ConfigError, FormatError } from '../errors.js'
import { ConfigFields } from '../models/config-fields.js'
import { RE2JS } from 're2js'
import type { Adapter, AdapterModule } from './adapter.js'
import { lora, type LoraDeclaration, type LoraOptions, targetMatcher } from './declaration.js'
import { dora } from './kinds.js'

/** adapter_config.json as PEFT writes and reads it: which fields there are, and what each may be here. */

// The version whose format this follows.
const peftVersion = '0.21.2'

const maxEntries = 1024
const maxTargets = 1 << 16
const maxPatternLength = 4096

// What PEFT keeps beside A and B, or does to the base; any value but these changes the result.
const neutral: Readonly<Record<string, readonly unknown[]>> = {
  task_type: ['CAUSAL_LM'],
  use_qalora: [false],
  fan_in_fan_out: [false],
  lora_bias: [false],
  bias: ['none'],
  // pissa, olora, corda, loftq and lora_ga change the base weights.
  init_lora_weights: [true, false, 'gaussian', 'orthogonal', 'eva'],
  layer_replication: [],
  megatron_config: [],
  arrow_config: [],
  alora_invocation_tokens: [],
  use_bdlora: [],
}
// The same, where an empty list or object is neutral too.
const empty = ['modules_to_save', 'trainable_token_indices', 'target_parameters']
// Only for starting a training, or for telling where the adapter comes from.
const harmless = [
  'auto_mapping',
  'base_model_name_or_path',
  'corda_config',
  'ensure_weight_tying',
  'eva_config',
  'inference_mode',
  'loftq_config',
  'lora_ga_config',
  'megatron_core',
  'peft_version',
  'qalora_group_size',
  'revision',
  'runtime_config',
]

/** What a saved adapter does not fix: how it is trained further. */
export type TrainingOverrides = Pick<LoraOptions, 'dropout' | 'loraPlusRatio' | 'seed'>

/**
 * Checks the object of an adapter_config.json. What would change the result and is not supported is refused by name.
 *
 * @param paths every module that an adapter may update
 * @throws FormatError naming file and field
 */
export function parsePeftConfig(
  value: unknown,
  file: string,
  paths: readonly string[],
  overrides: TrainingOverrides = {},
): LoraDeclaration {
  const fields = new ConfigFields(file, value)
  const type = fields.string('peft_type')
  if (type !== 'LORA') throw fields.error('peft_type', type, '"LORA"')
  for (const [key, allowed] of Object.entries(neutral)) fields.only(key, allowed)
  for (const key of empty)
    if (!isEmpty(fields.raw(key)))
      throw fields.error(
        key,
        fields.raw(key),
        'absent, null or empty',
        'is not supported: it must be',
      )
  for (const key of harmless) fields.raw(key)
  const targets = readTargets(fields)
  const options: LoraOptions = {
    rank: fields.integer('r', 8, { max: 4096 }),
    alpha: fields.number('lora_alpha', 8, { max: 1e6 }),
    dropout:
      overrides.dropout ?? fields.number('lora_dropout', 0, { above: -Number.MIN_VALUE, max: 1 }),
    rsLora: fields.boolean('use_rslora', false),
    rankPattern: readPattern(fields, 'rank_pattern'),
    alphaPattern: readPattern(fields, 'alpha_pattern'),
    loraPlusRatio: overrides.loraPlusRatio,
    seed: overrides.seed,
    targets,
  }
  const declare = fields.boolean('use_dora', false) ? dora : lora
  const narrowed = narrowTargets(fields, targets, paths)
  refuseUnknownFeatures(fields)
  try {
    return declare({ ...options, targets: narrowed ?? targets })
  } catch (cause) {
    if (!(cause instanceof ConfigError)) throw cause
    throw new FormatError(`${file}: ${cause.message}`, {
      cause,
      details: { ...cause.details, file },
    })
  }
}

/**
 * The object for adapter_config.json, with module names and patterns made from what the adapter holds. PiSSA and OLoRA
 * are written as LoRA of the unaltered base: with twice the rank, the second half taking back where they started.
 */
export function peftConfig(adapter: Adapter, baseModel: string): Record<string, unknown> {
  const { declaration, modules } = adapter
  const { form, rsLora } = declaration
  const doubled = form.initialization !== 'zero'
  const ranks = doubled ? 2 : 1
  const alphas = doubled ? (rsLora ? Math.SQRT2 : 2) : 1
  return {
    alpha_pattern: exceptions(modules, ({ alpha }) => alphas * alpha, alphas * declaration.alpha),
    base_model_name_or_path: baseModel,
    bias: 'none',
    fan_in_fan_out: false,
    inference_mode: true,
    init_lora_weights: true,
    lora_alpha: alphas * declaration.alpha,
    lora_bias: false,
    lora_dropout: declaration.dropout,
    modules_to_save: null,
    peft_type: 'LORA',
    peft_version: peftVersion,
    r: ranks * declaration.rank,
    rank_pattern: exceptions(modules, ({ rank }) => ranks * rank, ranks * declaration.rank),
    revision: null,
    target_modules: targetNames(declaration, modules),
    task_type: 'CAUSAL_LM',
    use_dora: form.magnitude,
    use_rslora: rsLora,
  }
}

/** Names that PEFT matches exactly or as endings; never an expression, whose dialect might differ. */
function targetNames(
  { targets }: LoraDeclaration,
  modules: readonly AdapterModule[],
): readonly string[] {
  if (targets === 'all-linear') return [...new Set(modules.map(({ path }) => lastName(path)))]
  if ('pattern' in targets) return modules.map(({ path }) => path)
  return targets.filter((name) =>
    modules.some(({ path }) => path === name || path.endsWith(`.${name}`)),
  )
}

/** The values that differ from the default, by the last name where all modules of that name agree. */
function exceptions(
  modules: readonly AdapterModule[],
  valueOf: (module: AdapterModule) => number,
  fallback: number,
): Record<string, number> {
  const byName = new Map<string, AdapterModule[]>()
  for (const module of modules) {
    const name = lastName(module.path)
    byName.set(name, [...(byName.get(name) ?? []), module])
  }
  const pattern: Record<string, number> = {}
  for (const [name, group] of byName)
    if (group.every((module) => valueOf(module) === valueOf(group[0]))) {
      if (valueOf(group[0]) !== fallback) pattern[name] = valueOf(group[0])
    } else
      for (const module of group)
        if (valueOf(module) !== fallback) pattern[module.path] = valueOf(module)
  return pattern
}

function lastName(path: string): string {
  return path.slice(path.lastIndexOf('.') + 1)
}

function readTargets(fields: ConfigFields): NonNullable<LoraOptions['targets']> {
  const value = fields.raw('target_modules')
  if (typeof value === 'string') {
    if (value.toLowerCase() === 'all-linear') return 'all-linear'
    if (value.length <= maxPatternLength) return { pattern: value }
  } else if (isNames(value) && value.length > 0) return value
  throw fields.error(
    'target_modules',
    value,
    `a list of module names or an expression of at most ${maxPatternLength} characters`,
  )
}

function readPattern(fields: ConfigFields, key: string): Record<string, number> {
  const inner = fields.object(key)
  if (inner === null) return {}
  const keys = inner.rest()
  if (keys.length > maxEntries)
    throw fields.error(key, `${keys.length} entries`, `an object of at most ${maxEntries} entries`)
  return Object.fromEntries(
    keys.map((pattern) => {
      if (pattern.length > maxPatternLength)
        throw fields.error(key, pattern, `keys of at most ${maxPatternLength} characters`)
      return [
        pattern,
        key === 'rank_pattern'
          ? inner.integer(pattern, undefined, { max: 4096 })
          : inner.number(pattern, undefined, { max: 1e6 }),
      ]
    }),
  )
}

/**
 * The full names of the targets where `exclude_modules` or `layers_to_transform` leave some out; null where they do
 * not. The rules are PEFT's: a name given in full is not subject to layers_to_transform.
 */
function narrowTargets(
  fields: ConfigFields,
  targets: NonNullable<LoraOptions['targets']>,
  paths: readonly string[],
): readonly string[] | null {
  const excluded = fields.raw('exclude_modules')
  const layers = fields.raw('layers_to_transform')
  const layersPattern = fields.raw('layers_pattern')
  const isExcluded = excludedMatcher(fields, excluded)
  const isLayer = layerMatcher(fields, layers, layersPattern)
  if (!isExcluded && !isLayer) return null
  const isTarget = matcher(fields, 'target_modules', targets)
  const names = typeof targets === 'object' && !('pattern' in targets) ? new Set(targets) : null
  if (isLayer && names === null)
    throw fields.error('layers_to_transform', layers, 'absent where target_modules is no list')
  const narrowed = paths.filter(
    (path) =>
      isTarget(path) && !isExcluded?.(path) && (!isLayer || names?.has(path) || isLayer(path)),
  )
  if (narrowed.length === 0)
    throw fields.error(
      'target_modules',
      fields.raw('target_modules'),
      'names of layers of the model that are not excluded',
    )
  return narrowed
}

function excludedMatcher(fields: ConfigFields, value: unknown): ((path: string) => boolean) | null {
  if (isEmpty(value)) return null
  if (typeof value === 'string' && value.length <= maxPatternLength)
    return matcher(fields, 'exclude_modules', { pattern: value })
  if (isNames(value)) return matcher(fields, 'exclude_modules', value)
  throw fields.error('exclude_modules', value, 'a list of module names or an expression')
}

function layerMatcher(
  fields: ConfigFields,
  layers: unknown,
  names: unknown,
): ((path: string) => boolean) | null {
  if (isEmpty(layers)) return null
  const wanted: unknown[] = Array.isArray(layers) ? layers : [layers]
  if (!wanted.every((layer) => Number.isInteger(layer)))
    throw fields.error('layers_to_transform', layers, 'a layer number or a list of them')
  const list = isEmpty(names) ? ['[^.]*'] : typeof names === 'string' ? [names] : names
  if (!isNames(list) || list.length > maxEntries || list.join('').length > maxPatternLength)
    throw fields.error('layers_pattern', names, 'an expression or a short list of them')
  const patterns = list.map((name) => {
    try {
      return RE2JS.compile(`.*\\.${name}\\.([0-9]+)\\..*`)
    } catch {
      throw fields.error('layers_pattern', name, 'an expression in RE2 syntax')
    }
  })
  const numbers = new Set(wanted)
  return (path) => {
    for (const pattern of patterns) {
      const match = pattern.matcher(path)
      if (match.matches()) return numbers.has(Number(match.group(1)))
    }
    return false
  }
}

function matcher(
  fields: ConfigFields,
  key: string,
  targets: NonNullable<LoraOptions['targets']>,
): (path: string) => boolean {
  try {
    return targetMatcher({ targets })
  } catch (cause) {
    throw new FormatError(`${fields.file}: ${key}: ${(cause as Error).message}`, {
      cause,
      details: { file: fields.file, key },
    })
  }
}

/** PEFT drops fields that it does not know; one that turns a feature on is refused all the same. */
function refuseUnknownFeatures(fields: ConfigFields): void {
  for (const key of fields.rest()) {
    const value = fields.raw(key)
    if (
      /^use_/.test(key)
        ? value !== false && value !== null
        : /_config$/.test(key) && !isEmpty(value)
    )
      throw fields.error(key, value, 'absent', 'is a feature that is not supported: it must be')
  }
}

function isNames(value: unknown): value is string[] {
  return (
    Array.isArray(value) &&
    value.length <= maxTargets &&
    value.every((name) => typeof name === 'string' && name !== '')
  )
}

function isEmpty(value: unknown): boolean {
  if (value === null || value === '') return true
  return typeof value === 'object' && Object.keys(value).length === 0
}
