import { z } from 'zod'
import { configError } from '../config-error.js'
import { ConfigError } from '../errors.js'
import { type Method, methods } from './methods.js'
import { checkSettings, type Settings } from './settings.js'

/** mergekit's recipe file, as it is. A model may also be an adapter folder, or MODEL+ADAPTER. */

const scalar = z.union([z.number(), z.boolean()])
const values = z.union([scalar, z.array(scalar).min(1)])
const conditional = z.strictObject({ filter: z.string().nullish(), value: values })
const parameters = z.record(
  z.string(),
  z.union([values, conditional, z.array(conditional).min(1)], {
    error: 'must be a number, true or false, a list of these, or a list of { filter, value }',
  }),
)
const path = z.string().min(1)

// Ours: fisher, a folder in the form of the model with the diagonal of its Fisher information in place of weights; gram, a
// folder with the Gram matrices of its layers' inputs; data, a corpus from which the one or the other is gathered.
const model = z.strictObject({
  model: path,
  parameters: parameters.nullish(),
  fisher: path.nullish(),
  gram: path.nullish(),
  data: path.nullish(),
})
const layerNumber = z.int().min(0).max(4096)
const source = model.extend({ layer_range: z.tuple([layerNumber, layerNumber]) })
const slice = z.strictObject({
  sources: z.array(source).min(1).max(64),
  base_model: path.nullish(),
  parameters: parameters.nullish(),
})
const dtype = z.enum(['float32', 'bfloat16', 'float16'])

const recipeSchema = z.strictObject({
  merge_method: z.string(),
  base_model: path.nullish(),
  models: z.array(model).min(1).max(64).nullish(),
  slices: z.array(slice).min(1).max(1024).nullish(),
  parameters: parameters.nullish(),
  dtype: dtype.nullish(),
  out_dtype: dtype.nullish(),
  tokenizer_source: path.nullish(),
})

// What mergekit also takes, and why it is refused.
const refused: Readonly<Record<string, string>> = {
  modules: 'models of several modules are not supported; use models or slices',
  tokenizer: 'vocabularies are not rebuilt; use tokenizer_source: base or a model folder',
  chat_template: 'write it into the tokenizer of the merged folder',
}

export interface RecipeSource {
  /** A model folder, an adapter folder, or MODEL+ADAPTER. */
  readonly model: string
  readonly settings?: Settings
  /** The folder of its Fisher information. */
  readonly fisher?: string
  /** The folder of its Gram matrices. */
  readonly gram?: string
  /** In place of either: the corpus that it is gathered from. */
  readonly data?: string
  /** First layer and the one after the last; absent: all. */
  readonly layers?: readonly [number, number]
}

export interface RecipeSlice {
  readonly sources: readonly RecipeSource[]
  readonly base: string | null
  readonly settings?: Settings
}

/** A checked recipe. */
export interface Recipe {
  readonly methodName: string
  readonly method: Method
  readonly slices: readonly RecipeSlice[]
  readonly settings?: Settings
  /** Of the merged folder; null: what the base is stored as. */
  readonly dtype: 'f32' | 'bf16' | 'f16' | null
  /** Whose tokenizer is copied; null: the base's, or else the first model's. */
  readonly tokenizerFrom: string | null
  /** What was accepted and has no effect. */
  readonly messages: readonly string[]
}

const dtypes = { float32: 'f32', bfloat16: 'bf16', float16: 'f16' } as const

/** Checks the object of a recipe file. @throws ConfigError naming the key, the value received and what is allowed */
export function parseRecipe(value: unknown, file = 'recipe'): Recipe {
  const fail = (message: string, key: string): never => {
    throw new ConfigError(`${file}: ${message}`, { details: { file, key } })
  }
  for (const [key, reason] of Object.entries(refused))
    if (typeof value === 'object' && value !== null && Object.hasOwn(value, key))
      fail(`${key} is not supported: ${reason}`, key)
  const parsed = recipeSchema.safeParse(value)
  if (!parsed.success)
    throw configError(parsed.error, value, file, { whole: 'the recipe', keysAt: knownKeys })
  const recipe = parsed.data
  const methodName = recipe.merge_method
  if (!Object.hasOwn(methods, methodName))
    fail(
      `merge_method ${JSON.stringify(methodName)} is not known; there are ${Object.keys(methods).join(', ')}`,
      'merge_method',
    )
  const method = methods[methodName]
  if ((recipe.models == null) === (recipe.slices == null))
    fail('models or slices must be given, and not both', 'models')
  if (recipe.tokenizer_source === 'union')
    fail('tokenizer_source union is not supported; base or a model folder is', 'tokenizer_source')
  const slices: RecipeSlice[] = recipe.models
    ? [{ sources: recipe.models.map(sourceOf), base: recipe.base_model ?? null }]
    : recipe.slices!.map((one) => ({
        sources: one.sources.map((source) => ({ ...sourceOf(source), layers: source.layer_range })),
        base: one.base_model ?? recipe.base_model ?? null,
        settings: one.parameters ?? undefined,
      }))
  const settings = recipe.parameters ?? undefined
  const at = (where: string) => `${file}: ${where}`
  checkSettings(settings, method, methodName, at('parameters'))
  slices.forEach((one, i) => {
    const where = recipe.slices ? `slices.${i}.` : ''
    checkSettings(one.settings, method, methodName, at(`${where}parameters`))
    one.sources.forEach((source, j) => {
      const list = recipe.slices ? 'sources' : 'models'
      checkSettings(source.settings, method, methodName, at(`${where}${list}.${j}.parameters`))
    })
    checkModels(one, method, methodName, where, fail)
  })
  const dtypeName = recipe.out_dtype ?? recipe.dtype
  const isIgnored = (one: Settings | undefined) => one !== undefined && 'int8_mask' in one
  const ignoresMask =
    isIgnored(settings) ||
    slices.some((one) => isIgnored(one.settings) || one.sources.some((s) => isIgnored(s.settings)))
  const { tokenizer_source: tokenizer } = recipe
  return {
    methodName,
    method,
    slices,
    settings,
    dtype: dtypeName ? dtypes[dtypeName] : null,
    tokenizerFrom: tokenizer == null || tokenizer === 'base' ? null : tokenizer,
    messages: ignoresMask ? ['int8_mask has no effect: no mask is stored'] : [],
  }
}

function sourceOf(one: z.output<typeof model>): RecipeSource {
  return {
    model: one.model,
    settings: one.parameters ?? undefined,
    fisher: one.fisher ?? undefined,
    gram: one.gram ?? undefined,
    data: one.data ?? undefined,
  }
}

function checkModels(
  { sources, base }: RecipeSlice,
  method: Method,
  name: string,
  where: string,
  fail: (message: string, key: string) => never,
): void {
  if (base === null && method.base === 'required')
    fail(`${name} needs base_model`, `${where}base_model`)
  const others = sources.filter(({ model }) => method.mergesBase || model !== base).length
  const [min, max] = method.models
  if (others < min || others > max)
    fail(
      `${name} merges ${min === max ? min : `${min} to ${max}`} model${max > 1 ? 's' : ''}` +
        `${method.mergesBase ? '' : ' beside the base'}, not ${others}`,
      `${where}models`,
    )
  for (const source of sources) {
    if (source.model === base) continue
    const given = (['fisher', 'gram', 'data'] as const).filter((key) => source[key] !== undefined)
    const allowed = method.needs ? [method.needs, 'data'] : []
    const extra = given.find((key) => !allowed.includes(key))
    if (extra) fail(`${name} does not take ${extra} for ${source.model}`, `${where}${extra}`)
    if (method.needs && given.length !== 1)
      fail(
        `${name} needs ${method.needs} for ${source.model}, a folder of ${method.needs === 'gram' ? 'Gram matrices' : 'Fisher information'}, or data, a corpus to gather it from`,
        `${where}${method.needs}`,
      )
  }
  const lengths = sources.map(({ layers }) => (layers ? layers[1] - layers[0] : 0))
  if (sources.some(({ layers }) => layers) && !(lengths[0] > 0))
    fail(`${where}sources.0.layer_range must hold at least one layer`, `${where}layer_range`)
  if (lengths.some((length) => length !== lengths[0]))
    fail(
      `${where}sources have ${lengths.join(', ')} layers; all of a slice must have as many`,
      `${where}layer_range`,
    )
}

function knownKeys(path: readonly PropertyKey[]): readonly string[] {
  if (path.includes('parameters')) return Object.keys(conditional.shape)
  switch (path.findLast((part) => typeof part === 'string')) {
    case undefined:
      return Object.keys(recipeSchema.shape)
    case 'models':
      return Object.keys(model.shape)
    case 'slices':
      return Object.keys(slice.shape)
    default:
      return Object.keys(source.shape)
  }
}
