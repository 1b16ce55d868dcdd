import type { Device } from '../device.js'
import { ArgumentError, ConfigError } from '../errors.js'
import type {
  DecoderConfig,
  DecoderWeights,
  LinearGroupName,
  LowRankSource,
} from '../models/index.js'
import { layerName, linearGroups, linearNames } from '../models/index.js'
import type { OutputGate, RouterGate } from '../ops/gate.js'
import type { LowRankGroup } from '../ops/low-rank.js'
import type { Parameter } from '../parameter.js'
import type { Tensor } from '../tensor.js'
import { initializeFromWeights } from './base-weights.js'
import { type LoraDeclaration, patternValue, targetMatcher } from './declaration.js'
import { type AdapterModule, createGroup, disposeGroup, planGroup } from './group.js'

export type { AdapterModule } from './group.js'

/** A trained value, and how much faster than the rest it learns. */
export interface TrainedParameter {
  readonly parameter: Parameter
  readonly learningRateScale: number
  readonly decays: boolean
}

/**
 * A low-rank adapter of any kind attached to one model. The layers of a block that read the same input share one A
 * matrix (their ranks stacked), so that it is projected once; each keeps its own B.
 */
export class Adapter implements LowRankSource {
  readonly declaration: LoraDeclaration
  readonly device: Device
  readonly modules: readonly AdapterModule[]
  readonly #groups: ReadonlyMap<string, LowRankGroup>
  /** What rows are taken for where nobody says their discipline: an index into `form.disciplines`. */
  readonly #fallback: { discipline: number }
  #needsWeights: boolean

  private constructor(
    declaration: LoraDeclaration,
    device: Device,
    modules: readonly AdapterModule[],
    groups: ReadonlyMap<string, LowRankGroup>,
    fallback: { discipline: number },
  ) {
    this.declaration = declaration
    this.device = device
    this.modules = modules
    this.#groups = groups
    this.#fallback = fallback
    const { magnitude, initialization } = declaration.form
    this.#needsWeights = magnitude || initialization !== 'zero'
  }

  /**
   * A from U(-1/sqrt(in), 1/sqrt(in)), which is Kaiming-uniform with a = sqrt(5), and routers likewise; B zero: the
   * update starts at zero. A kind that starts from the base weights is of use only after {@link bind}.
   *
   * @throws ConfigError if a target or a pattern's key matches no linear layer; with `lenient`, only if none does, as PEFT
   */
  static create(
    device: Device,
    config: DecoderConfig,
    declaration: LoraDeclaration,
    { lenient = false } = {},
  ): Adapter {
    checkTargets(config, declaration, lenient)
    const isTarget = targetMatcher(declaration)
    const groups = new Map<string, LowRankGroup>()
    const modules: AdapterModule[] = []
    const fallback = { discipline: 0 }
    const names = Object.keys(linearGroups) as LinearGroupName[]
    for (let layer = 0; layer < config.numLayers; layer++)
      names.forEach((name, groupIndex) => {
        const made = createGroup(
          device,
          declaration,
          planGroup(config, declaration, layer, name, isTarget),
          `${layerName(layer)}.${name}`,
          layer * names.length + groupIndex,
          fallback,
        )
        if (!made) return
        groups.set(`${layer}.${name}`, made.group)
        modules.push(...made.modules)
      })
    return new Adapter(declaration, device, modules, groups, fallback)
  }

  /**
   * Tells the adapter the weights it updates: DoRA keeps the norms of their rows; a fresh adapter of PiSSA or OLoRA
   * starts from them.
   *
   * @param loaded the values come from a file: nothing is started anew
   */
  async bind(weights: DecoderWeights, { loaded = false } = {}): Promise<void> {
    if (!this.#needsWeights) return
    await initializeFromWeights(this, weights, loaded)
    this.#needsWeights = false
  }

  /** @throws ArgumentError if the adapter needs the base weights and has not been given them */
  group(layer: number, name: LinearGroupName): LowRankGroup | null {
    if (this.#needsWeights)
      throw new ArgumentError(
        `an adapter of kind ${this.declaration.kind} needs the base weights: call bind() before it is used`,
      )
    return this.#groups.get(`${layer}.${name}`) ?? null
  }

  /** The groups with the names of their parameters, in a fixed order. */
  get groups(): ReadonlyMap<string, LowRankGroup> {
    return this.#groups
  }

  /** Everything that is trained, in a fixed order: of every group A, each B, what belongs to them, and the gate. */
  *parameters(): Generator<TrainedParameter> {
    const { loraPlusRatio, form } = this.declaration
    for (const { a, parts, gate } of this.#groups.values()) {
      if (!form.frozenExperts) {
        yield { parameter: a, learningRateScale: 1, decays: true }
        for (const part of parts) {
          if (!part) continue
          yield { parameter: part.b, learningRateScale: loraPlusRatio, decays: true }
          if (part.transform)
            yield { parameter: part.transform.matrices, learningRateScale: 1, decays: false }
          if (part.magnitude)
            yield { parameter: part.magnitude.value, learningRateScale: 1, decays: false }
        }
      }
      if (gate?.kind === 'outputs')
        for (const { weights } of gate.readers)
          yield { parameter: weights, learningRateScale: 1, decays: true }
      if (gate?.kind === 'task')
        yield { parameter: gate.weights, learningRateScale: 1, decays: false }
      if (gate?.kind === 'router' && form.gate?.kind === 'router' && form.gate.trained)
        yield { parameter: gate.weights, learningRateScale: 1, decays: true }
    }
  }

  /** The routers, with the name of their group; none where gates are not routed. */
  *routers(): Generator<{
    name: string
    gate: RouterGate | OutputGate
    modules: readonly AdapterModule[]
  }> {
    for (const [name, group] of this.#groups)
      if (group.gate?.kind === 'router' || group.gate?.kind === 'outputs')
        yield {
          name,
          gate: group.gate,
          modules: this.modules.filter((module) => module.group === group),
        }
  }

  /** Of all that is trained. */
  get numParameters(): number {
    let count = 0
    for (const { parameter } of this.parameters()) count += parameter.value.size
    return count
  }

  /** The discipline that rows are taken for in generation and evaluation, where the adapter tells them apart. */
  get discipline(): string | null {
    return this.declaration.form.disciplines[this.#fallback.discipline] ?? null
  }

  /** Whether what it computes depends on the discipline of a row, which nobody can see from the row itself. */
  get needsDiscipline(): boolean {
    const { gate, transform, disciplines } = this.declaration.form
    return (gate?.kind === 'task' || transform) && disciplines.length > 1
  }

  /** @throws ArgumentError if the adapter knows no discipline of this name */
  useDiscipline(name: string): void {
    this.#fallback.discipline = this.disciplineIndex(name)
  }

  /** @throws ArgumentError if the adapter knows no discipline of this name */
  disciplineIndex(name: string): number {
    const { disciplines } = this.declaration.form
    const index = disciplines.indexOf(name)
    if (index < 0)
      throw new ArgumentError(
        `the adapter knows no discipline ${JSON.stringify(name)}, only ${disciplines.map((one) => JSON.stringify(one)).join(', ') || 'none at all'}`,
        { details: { received: name, allowed: disciplines } },
      )
    return index
  }

  /** What changes between steps and is not trained: the routers' biases. */
  *buffers(): Generator<{ name: string; tensor: Tensor }> {
    for (const { name, gate } of this.routers())
      if (gate.state.bias) yield { name: `${name}.lora_router.bias`, tensor: gate.state.bias }
  }

  dispose(): void {
    for (const group of this.#groups.values()) disposeGroup(group)
  }

  [Symbol.dispose](): void {
    this.dispose()
  }
}

/** What is asked for and not there would be a silent mistake. */
function checkTargets(config: DecoderConfig, declaration: LoraDeclaration, lenient: boolean): void {
  const { targets, rankPattern, alphaPattern } = declaration
  const paths = Object.values(linearNames).flatMap((name) =>
    Array.from({ length: config.numLayers }, (_, layer) => `${layerName(layer)}.${name}`),
  )
  const refuse = (key: string, received: unknown, layers: string) => {
    throw new ConfigError(
      `${key} ${JSON.stringify(received)} matches no ${layers} of the model; its layers are named like ${paths[0]}`,
      { details: { key, received } },
    )
  }
  const targeted = paths.filter(targetMatcher(declaration))
  if (targeted.length === 0) refuse('targets', targets, 'linear layer')
  if (lenient) return
  if (Array.isArray(targets))
    for (const target of targets as readonly string[])
      if (!paths.some(targetMatcher({ targets: [target] })))
        refuse('targets', target, 'linear layer')
  for (const [key, patterns] of Object.entries({ rankPattern, alphaPattern }))
    for (const pattern of Object.keys(patterns))
      if (!targeted.some((path) => patternValue({ [pattern]: 1 }, path, 0) === 1))
        refuse(key, pattern, 'target')
}
