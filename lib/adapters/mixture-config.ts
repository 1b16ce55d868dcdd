import { ConfigError, FormatError } from '../errors.js'
import { ConfigFields } from '../models/config-fields.js'
import type { Adapter } from './adapter.js'
import { type AdapterKind, lora, type LoraDeclaration } from './declaration.js'
import { type AdapterForm, type GateForm, plainForm } from './form.js'
import { checkDisciplines, checkExperts } from './kinds.js'
import type { TrainingOverrides } from './peft-config.js'

/** mixture_config.json: what docs/mixture-format.md describes. */

const version = 1
const maxModules = 1 << 16
const kinds: readonly AdapterKind[] = [
  'lora-moe',
  'hydra-lora',
  'mtl-lora',
  'mole',
  'arrow',
  'fixed',
]

/** The object for mixture_config.json. */
export function mixtureConfig(adapter: Adapter, baseModel: string): Record<string, unknown> {
  const { declaration, modules } = adapter
  const { kind, form, dropout, rsLora } = declaration
  return {
    format: 'polylora-mixture',
    version,
    kind,
    base_model_name_or_path: baseModel,
    experts: form.experts,
    shares: form.shares,
    gate: form.gate && gateConfig(form.gate),
    transform: form.transform,
    frozen_experts: form.frozenExperts,
    disciplines: form.disciplines,
    use_rslora: rsLora,
    dropout,
    modules: modules.map(({ path, rank, alpha }) => ({ path, rank, alpha })),
  }
}

function gateConfig(gate: GateForm): Record<string, unknown> {
  switch (gate.kind) {
    case 'router': {
      const { kind, topK, scale, absolute, trained, losses, biasRate } = gate
      return { kind, top_k: topK, scale, absolute, trained, losses, bias_rate: biasRate }
    }
    case 'outputs':
      return { kind: gate.kind, scale: gate.scale, losses: gate.losses }
    case 'task':
      return { kind: gate.kind, temperature: gate.temperature }
    case 'fixed':
      return { kind: gate.kind, weights: gate.weights }
  }
}

/** Checks the object of a mixture_config.json. @throws FormatError naming file and field */
export function parseMixtureConfig(
  value: unknown,
  file: string,
  paths: readonly string[],
  overrides: TrainingOverrides = {},
): LoraDeclaration {
  const fields = new ConfigFields(file, value)
  const format = fields.string('format')
  if (format !== 'polylora-mixture') throw fields.error('format', format, '"polylora-mixture"')
  const written = fields.integer('version')
  if (written !== version) throw fields.error('version', written, String(version))
  const kind = fields.string('kind') as AdapterKind
  if (!kinds.includes(kind)) throw fields.error('kind', kind, kinds.join(', '))
  fields.raw('base_model_name_or_path')
  const modules = readModules(fields, file, paths)
  const form = readForm(fields, file)
  const rsLora = fields.boolean('use_rslora', false)
  const dropout = fields.number('dropout', 0, { above: -Number.MIN_VALUE, max: 1 })
  for (const key of fields.rest())
    throw fields.error(key, fields.raw(key), 'absent', 'is not a known field: it must be')
  const [first] = modules
  const pattern = (of: (module: ReadModule) => number) =>
    Object.fromEntries(
      modules
        .filter((module) => of(module) !== of(first))
        .map((module) => [module.path.replaceAll('.', '\\.'), of(module)]),
    )
  try {
    const options = {
      rank: first.rank,
      alpha: first.alpha,
      targets: modules.map(({ path }) => path),
      rsLora,
      rankPattern: pattern(({ rank }) => rank),
      alphaPattern: pattern(({ alpha }) => alpha),
      dropout: overrides.dropout ?? dropout,
      loraPlusRatio: overrides.loraPlusRatio,
      seed: overrides.seed,
    }
    return { ...lora(options), kind, form }
  } catch (cause) {
    throw formatError(file, cause)
  }
}

interface ReadModule {
  readonly path: string
  readonly rank: number
  readonly alpha: number
}

function readModules(fields: ConfigFields, file: string, paths: readonly string[]): ReadModule[] {
  const list = fields.raw('modules')
  if (!Array.isArray(list) || list.length === 0 || list.length > maxModules)
    throw fields.error('modules', list, `a list of 1 to ${maxModules} modules`)
  const known = new Set(paths)
  return list.map((entry: unknown, i) => {
    const inner = new ConfigFields(file, entry, `modules.${i}`)
    const path = inner.string('path')
    if (!known.delete(path))
      throw inner.error('path', path, 'a linear layer of the model, named once')
    const rank = inner.integer('rank', undefined, { max: 4096 })
    const alpha = inner.number('alpha', undefined, { max: 1e6 })
    for (const key of inner.rest())
      throw inner.error(key, inner.raw(key), 'absent', 'is not a known field: it must be')
    return { path, rank, alpha }
  })
}

function readForm(fields: ConfigFields, file: string): AdapterForm {
  const shares = fields.string('shares')
  if (shares !== 'nothing' && shares !== 'a' && shares !== 'b')
    throw fields.error('shares', shares, '"nothing", "a" or "b"')
  try {
    const experts = checkExperts(fields.raw('experts'))
    const disciplines = checkDisciplines(fields.raw('disciplines') ?? [], 0)
    const gate = readGate(fields, experts)
    const transform = fields.boolean('transform', false)
    if ((transform || gate?.kind === 'task') && disciplines.length === 0)
      throw fields.error(
        'disciplines',
        [],
        'a list of names where gates or matrices go by discipline',
      )
    if (transform && shares !== 'a')
      throw fields.error('shares', shares, '"a" where there is a transform')
    const frozenExperts = fields.boolean('frozen_experts', false)
    if (gate?.kind === 'outputs' && !(frozenExperts && shares === 'nothing'))
      throw fields.error(
        'frozen_experts',
        frozenExperts,
        'true, and shares "nothing", where the gate reads the outputs of the experts',
      )
    return { ...plainForm, experts, shares, gate, transform, frozenExperts, disciplines }
  } catch (cause) {
    throw formatError(file, cause)
  }
}

function readGate(fields: ConfigFields, experts: number): GateForm | null {
  const gate = fields.object('gate')
  if (!gate) return null
  const kind = gate.string('kind')
  const coefficient = (of: ConfigFields, key: string) =>
    of.number(key, 0, { above: -Number.MIN_VALUE, max: 1e6 })
  const finish = (form: GateForm): GateForm => {
    for (const key of gate.rest())
      throw gate.error(key, gate.raw(key), 'absent', 'is not a known field: it must be')
    return form
  }
  if (kind === 'task')
    return finish({ kind, temperature: gate.number('temperature', undefined, { max: 1e3 }) })
  if (kind === 'fixed') {
    const weights = gate.raw('weights')
    if (
      !Array.isArray(weights) ||
      weights.length !== experts ||
      !weights.every((one) => typeof one === 'number' && Number.isFinite(one))
    )
      throw gate.error('weights', weights, `a list of ${experts} numbers`)
    return finish({ kind, weights: weights as number[] })
  }
  if (kind !== 'router' && kind !== 'outputs')
    throw gate.error('kind', kind, '"router", "outputs", "task" or "fixed"')
  const given = gate.object('losses')
  const losses = {
    balance: given ? coefficient(given, 'balance') : 0,
    variance: given ? coefficient(given, 'variance') : 0,
    z: given ? coefficient(given, 'z') : 0,
    supervised: given ? coefficient(given, 'supervised') : 0,
  }
  const scale = gate.number('scale', 1, { max: 1e6 })
  if (kind === 'outputs') return finish({ kind, scale, losses: { ...losses, supervised: 0 } })
  return finish({
    kind,
    topK: gate.integer('top_k', experts, { max: experts }),
    scale,
    absolute: gate.boolean('absolute', false),
    trained: gate.boolean('trained', true),
    losses,
    biasRate: coefficient(gate, 'bias_rate'),
  })
}

function formatError(file: string, cause: unknown): unknown {
  if (!(cause instanceof ConfigError)) return cause
  return new FormatError(`${file}: ${cause.message}`, {
    cause,
    details: { ...cause.details, file },
  })
}
