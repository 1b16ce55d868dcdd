import type { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import type { DecoderConfig, LinearGroupName, LowRankSource } from '../models/index.js'
import { layerName, linearGroups, linearNames, linearShape } from '../models/index.js'
import type { LowRankGroup, LowRankPart } from '../ops/linear.js'
import { random } from '../ops/random.js'
import { Parameter } from '../parameter.js'
import { Tensor } from '../tensor.js'
import { type LoraDeclaration, loraScale, patternValue, targetMatcher } from './declaration.js'

/** The update of one linear layer: rows begin … end of its group's A, and its own B. */
export interface AdapterModule {
  /** As Hugging Face names it: model.layers.0.self_attn.q_proj */
  readonly path: string
  readonly inFeatures: number
  readonly outFeatures: number
  readonly rank: number
  readonly alpha: number
  /** s in y += s · B A x */
  readonly scale: number
  readonly group: LowRankGroup
  readonly part: LowRankPart
}

/** A trained value, and how much faster than the rest it learns. */
export interface TrainedParameter {
  readonly parameter: Parameter
  readonly learningRateScale: number
  readonly decays: boolean
}

/**
 * A low-rank adapter attached to one model. The layers of a block that read the same input share one A matrix (their
 * ranks stacked), so that it is projected once; each keeps its own B.
 */
export class Adapter implements LowRankSource {
  readonly declaration: LoraDeclaration
  readonly device: Device
  readonly modules: readonly AdapterModule[]
  readonly #groups: ReadonlyMap<string, LowRankGroup>

  private constructor(
    declaration: LoraDeclaration,
    device: Device,
    modules: readonly AdapterModule[],
    groups: ReadonlyMap<string, LowRankGroup>,
  ) {
    this.declaration = declaration
    this.device = device
    this.modules = modules
    this.#groups = groups
  }

  /**
   * A from U(-1/sqrt(in), 1/sqrt(in)), which is Kaiming-uniform with a = sqrt(5); B zero: the update starts at zero.
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
    for (let layer = 0; layer < config.numLayers; layer++)
      Object.keys(linearGroups).forEach((key, groupIndex) => {
        const name = key as LinearGroupName
        const index = layer * Object.keys(linearGroups).length + groupIndex
        const made = createGroup(device, config, declaration, layer, name, index, isTarget)
        if (!made) return
        groups.set(`${layer}.${name}`, made.group)
        modules.push(...made.modules)
      })
    return new Adapter(declaration, device, modules, groups)
  }

  group(layer: number, name: LinearGroupName): LowRankGroup | null {
    return this.#groups.get(`${layer}.${name}`) ?? null
  }

  /** A of every group and B of every module, in a fixed order. */
  *parameters(): Generator<TrainedParameter> {
    const { loraPlusRatio } = this.declaration
    for (const group of this.#groups.values()) {
      yield { parameter: group.a, learningRateScale: 1, decays: true }
      for (const part of group.parts)
        if (part) yield { parameter: part.b, learningRateScale: loraPlusRatio, decays: true }
    }
  }

  get numParameters(): number {
    let count = 0
    for (const { parameter } of this.parameters()) count += parameter.value.size
    return count
  }

  dispose(): void {
    for (const group of this.#groups.values()) {
      group.a.dispose()
      group.rankScale.release()
      for (const part of group.parts) part?.b.dispose()
    }
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

function createGroup(
  device: Device,
  config: DecoderConfig,
  declaration: LoraDeclaration,
  layer: number,
  name: LinearGroupName,
  index: number,
  isTarget: (path: string) => boolean,
): { group: LowRankGroup; modules: AdapterModule[] } | null {
  const seed = BigInt(declaration.seed)
  let end = 0
  const planned = linearGroups[name].map((linear) => {
    const path = `${layerName(layer)}.${linearNames[linear]}`
    if (!isTarget(path)) return null
    const rank = patternValue(declaration.rankPattern, path, declaration.rank)
    const alpha = patternValue(declaration.alphaPattern, path, declaration.alpha)
    const [outFeatures, inFeatures] = linearShape(config, linear)
    const begin = end
    end += rank
    const scale = loraScale(alpha, rank, declaration.rsLora)
    return { path, rank, alpha, scale, inFeatures, outFeatures, begin, end }
  })
  const first = planned.find((plan) => plan !== null)
  if (!first) return null
  const { inFeatures } = first
  const a = Tensor.empty(device, [end, inFeatures])
  const bound = 1 / Math.sqrt(inFeatures)
  random(a, { kind: 'uniform', low: -bound, high: bound }, seed, BigInt(index))
  const scales = planned.flatMap((plan) =>
    plan ? Array.from({ length: plan.rank }, () => plan.scale) : [],
  )
  const parts = planned.map((plan) =>
    plan
      ? {
          begin: plan.begin,
          end: plan.end,
          b: new Parameter(
            `${plan.path}.lora_B.weight`,
            Tensor.zeros(device, [plan.outFeatures, plan.rank]),
          ),
        }
      : null,
  )
  const group: LowRankGroup = {
    a: new Parameter(`${layerName(layer)}.${name}.lora_A.weight`, a),
    rankScale: Tensor.from(device, Float32Array.from(scales), [end]),
    parts,
    dropout: { probability: declaration.dropout, seed, module: index },
  }
  const modules = planned.flatMap((plan, i) => (plan ? [{ ...plan, group, part: parts[i]! }] : []))
  return { group, modules }
}
