import type { Parameter } from '../parameter.js'
import { Scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { Weight } from '../weight.js'
import { type Gate, gates, type Gates, rowDisciplines, type TaskGate } from './gate.js'
import type { Pass } from './pass.js'

/**
 * The low-rank path of the linear layers that read one x:
 *
 *     S = s · dropout(x) Aᵀ     P_e = g_e(x) S_e     y_i = x W_iᵀ + P B_iᵀ
 *
 * One shared shrink and one dropout mask; the rows of A belong to the layers in turn. A layer's update is one expert
 * (LoRA), or a mixture of E experts of rank r: S_e is [T, r] of its own, or the same for all where they share A; B_e is
 * r columns of B, or all of B where they share it.
 */
export interface LowRankGroup {
  /** f32 [R, in] */
  readonly a: Parameter
  /** f32 [R]: the scaling s of each rank row */
  readonly rankScale: Tensor
  /** One entry a layer of the group; null where a layer has no update. */
  readonly parts: readonly (LowRankPart | null)[]
  readonly dropout: { readonly probability: number; readonly seed: bigint; readonly module: number }
  /** Of the mixtures; absent: every part is one expert, whose gate is 1. */
  readonly gate?: Gate | null
  /** A frozen update beside this one, which sees x without dropout: what PiSSA and OLoRA take from the base. */
  readonly correction?: LowRankGroup | null
}

export interface LowRankPart {
  /** Rows begin … end - 1 of A, and so columns of S. */
  readonly begin: number
  readonly end: number
  /** f32 [out, columns of P] */
  readonly b: Parameter
  /** MTL-LoRA's Λ between A and B; absent: none. */
  readonly transform?: Transform | null
  /** DoRA's magnitude; absent: none. */
  readonly magnitude?: Magnitude | null
}

/** S becomes S Λᵀ with the matrix of the row's discipline. */
export interface Transform {
  /** f32 [D, r, r] */
  readonly matrices: Parameter
  /** s, which the gradient of S takes on after Λ's. */
  readonly scale: number
  readonly fallback: TaskGate['fallback']
}

/** y = m · (x Wᵀ + P Bᵀ) / norm of the rows of W + s B A (Liu et al. 2024); the norm is held constant on the way back. */
export interface Magnitude {
  /** f32 [out] */
  readonly value: Parameter
  /** f32 [out]: the norms of W's rows */
  readonly baseNorm: Tensor
  readonly scale: number
}

/** What a gate learns. */
export function gateParameters(gate: Gate): readonly Parameter[] {
  switch (gate.kind) {
    case 'fixed':
      return []
    case 'outputs':
      return gate.readers.map(({ weights }) => weights)
    default:
      return [gate.weights]
  }
}

function presentParts({ parts }: LowRankGroup): LowRankPart[] {
  return parts.filter((part) => part !== null)
}

/** Everything of a group that can be trained. */
export function trainsAnything(group: LowRankGroup): boolean {
  const { a, parts, gate } = group
  return (
    a.gradient !== null ||
    (gate ? gateParameters(gate).some(({ gradient }) => gradient !== null) : false) ||
    parts.some((part) =>
      [part?.b, part?.transform?.matrices, part?.magnitude?.value].some((one) => one?.gradient),
    )
  )
}

/** One group's path through one forward pass, and back. Nothing but `saved` needs to outlive the scope. */
export class LowRankPath {
  readonly #pass: Pass
  readonly #group: LowRankGroup
  readonly #dropout: object | null
  readonly #s: Tensor
  readonly #gates: Gates | null
  /** By layer: S Λᵀ, and P where it is not S itself. */
  readonly #transformed: (Tensor | null)[] = []
  readonly #p: (Tensor | null)[] = []
  readonly #rowDiscipline: Tensor | null = null
  readonly #correction: LowRankPath | null
  readonly #bf16Operands: boolean
  /** What the backward pass leaves for dX. */
  #t: Tensor | null = null
  #router: object | null = null

  /** @param bf16Operands operands may be rounded to bf16, as those of the base products are */
  constructor(pass: Pass, x: Tensor, group: LowRankGroup, bf16Operands: boolean) {
    const { device } = pass
    this.#pass = pass
    this.#group = group
    this.#bf16Operands = bf16Operands
    this.#dropout = dropoutArguments(pass, group)
    this.#s = Tensor.empty(device, [x.shape[0], group.a.value.shape[0]])
    device.run('low_rank_project', {
      x: x.native,
      a: group.a.value.native,
      rankScale: group.rankScale.native,
      dropout: this.#dropout,
      s: this.#s.native,
      bf16Operands,
    })
    this.#gates = group.gate
      ? gates(
          pass,
          x,
          group.gate,
          presentParts(group).map((part) => this.#sOf(part)),
        )
      : null
    const transform = group.parts.find((part) => part?.transform)?.transform
    if (transform) this.#rowDiscipline = rowDisciplines(pass, x, transform)
    let mixture = 0
    group.parts.forEach((part, i) => {
      this.#transformed[i] = part?.transform ? this.#transform(part, part.transform) : null
      this.#p[i] = part && this.#gates ? this.#mix(part, i, this.#gates.of(mixture)) : null
      if (part) mixture++
    })
    this.#correction = group.correction
      ? new LowRankPath(pass, x, group.correction, bf16Operands)
      : null
  }

  get saved(): readonly Tensor[] {
    const { dropout } = this.#pass
    return [
      this.#s,
      ...(this.#dropout && dropout ? [dropout.step, dropout.rowSample, dropout.rowPosition] : []),
      ...(this.#gates?.saved ?? []),
      ...[...this.#transformed, ...this.#p, this.#rowDiscipline].filter((one) => one !== null),
      ...(this.#correction?.saved ?? []),
    ]
  }

  /** What the path adds to layer i, as segments of its product. */
  segments(i: number): object[] {
    const part = this.#group.parts[i]
    return [
      ...(part ? [{ x: this.#pOf(part, i).native, w: part.b.value.native }] : []),
      ...(this.#correction?.segments(i) ?? []),
    ]
  }

  /**
   * Adds to the gradients of everything that is trained. Call it before the next two.
   *
   * @param gradients of the layers
   */
  backward(x: Tensor, gradients: readonly (Tensor | null)[]): void {
    const { device } = x
    const group = this.#group
    const t = (this.#t = Tensor.empty(device, this.#s.shape))
    const present = presentParts(group)
    const dGate = group.gate
      ? Tensor.empty(device, [x.shape[0], present.length, group.gate.experts])
      : null
    let mixture = 0
    group.parts.forEach((part, i) => {
      if (!part) return
      const rows = t.slice(1, part.begin, part.end)
      const dOfMixture = dGate
        ? dGate.slice(1, mixture, mixture + 1).view([x.shape[0], dGate.shape[2]])
        : null
      const dy = gradients[i]
      if (!dy) {
        for (const one of [rows, dOfMixture]) one?.fill(0)
      } else if (dOfMixture && this.#gates) {
        this.#mixtureBackward(part, i, dy, this.#gates.of(mixture), dOfMixture, rows)
      } else {
        const scale = group.rankScale.slice(0, part.begin, part.end)
        this.#partBackward(part, dy, this.#pOf(part, i), scale, rows)
      }
      mixture++
    })
    if (dGate && this.#gates)
      this.#router = this.#gates.backward(
        x,
        dGate,
        present.map(({ begin, end }) => t.slice(1, begin, end)),
      )
    const dA = group.a.gradient
    if (dA)
      device.run('matmul', {
        layout: 'tn',
        segments: [{ x: t.native, w: x.native, maskW: this.#dropout ? 1 : 0 }],
        dropout: this.#dropout,
        residual: dA.native,
        y: dA.native,
        bf16Operands: this.#bf16Operands,
      })
    this.#correction?.backward(x, gradients)
  }

  /** dropout's mask and the segment of dX that it masks: T A, which must be the first. */
  get maskedSegment(): { segment: object; dropout: object | null } {
    const segment = {
      x: this.#t!.native,
      w: this.#group.a.value.native,
      maskAfter: this.#dropout ? 1 : 0,
    }
    return { segment, dropout: this.#dropout }
  }

  /** The other segments of dX: the router sees x without dropout, and so does a correction. */
  get plainSegments(): object[] {
    const correction = this.#correction
    return [
      ...(this.#router ? [this.#router] : []),
      ...(correction ? [correction.maskedSegment.segment, ...correction.plainSegments] : []),
    ]
  }

  #sOf(part: LowRankPart): Tensor {
    return this.#s.slice(1, part.begin, part.end)
  }

  #pOf(part: LowRankPart, i: number): Tensor {
    return this.#p[i] ?? this.#transformed[i] ?? this.#sOf(part)
  }

  #transform(part: LowRankPart, { matrices }: Transform): Tensor {
    const s = this.#sOf(part)
    const y = Tensor.empty(s.device, s.shape)
    s.device.run('segmented_matmul', {
      x: s.native,
      w: matrices.value.native,
      segmentOf: this.#rowDiscipline!.native,
      transpose: true,
      y: y.native,
    })
    return y
  }

  #mix(part: LowRankPart, i: number, gate: Tensor): Tensor {
    const s = this.#transformed[i] ?? this.#sOf(part)
    const p = Tensor.empty(s.device, [s.shape[0], part.b.value.shape[1]])
    s.device.run('mixture', { s: s.native, gate: gate.native, p: p.native })
    return p
  }

  #partBackward(part: LowRankPart, dy: Tensor, p: Tensor, rankScale: Tensor, t: Tensor): void {
    dy.device.run('low_rank_backward', {
      dy: dy.native,
      b: part.b.value.native,
      p: p.native,
      rankScale: rankScale.native,
      t: t.native,
      dB: part.b.gradient?.native,
      bf16Operands: this.#bf16Operands,
    })
  }

  /** G = dY B without s, since S has it: else the router's gradient would have it twice. */
  #mixtureBackward(
    part: LowRankPart,
    i: number,
    dy: Tensor,
    gate: Tensor,
    dGate: Tensor,
    t: Tensor,
  ): void {
    const { device } = dy
    const p = this.#pOf(part, i)
    const g = Tensor.empty(device, p.shape)
    this.#partBackward(part, dy, p, Tensor.full(device, [p.shape[1]], 1), g)
    const transformed = this.#transformed[i]
    const s = transformed ?? this.#sOf(part)
    const rankScale = transformed
      ? Tensor.full(device, [s.shape[1]], 1)
      : this.#group.rankScale.slice(0, part.begin, part.end)
    const dS = transformed ? Tensor.empty(device, s.shape) : t
    device.run('mixture_backward', {
      g: g.native,
      s: s.native,
      gate: gate.native,
      rankScale: rankScale.native,
      dGate: dGate.native,
      t: dS.native,
    })
    if (part.transform) this.#transformBackward(part, part.transform, dS, t)
    Scope.discard(g)
  }

  #transformBackward(part: LowRankPart, transform: Transform, dS: Tensor, t: Tensor): void {
    const { device } = dS
    const { matrices, scale } = transform
    const segmentOf = this.#rowDiscipline!.native
    if (matrices.gradient)
      device.run('segmented_matmul_backward', {
        x: dS.native,
        dy: this.#sOf(part).native,
        segmentOf,
        dW: matrices.gradient.native,
      })
    const before = Tensor.empty(device, dS.shape)
    device.run('segmented_matmul', {
      x: dS.native,
      w: matrices.value.native,
      segmentOf,
      transpose: false,
      y: before.native,
    })
    device.run('add', { a: before.native, b: before.native, alpha: scale, beta: 0, y: t.native })
  }
}

/**
 * DoRA's scale of each output and the norm behind it: the rows of W + s B A have the squared norms
 * ‖W‖² + 2 s ⟨W Aᵀ, B⟩ + s² ⟨B A Aᵀ, B⟩, so that W + s B A is never made.
 */
export function magnitudeScale(
  weight: Weight,
  group: LowRankGroup,
  part: LowRankPart,
  magnitude: Magnitude,
): { scale: Tensor; norm: Tensor } {
  const { device } = weight
  const rank = part.end - part.begin
  const a = group.a.value.slice(0, part.begin, part.end)
  const s = magnitude.scale
  const product = Tensor.empty(device, [rank, weight.rows])
  device.run('matmul', {
    layout: 'nt',
    segments: [{ x: a.native, weight: weight.native }],
    y: product.native,
  })
  const u = Tensor.empty(device, [weight.rows, rank])
  const transposed = product.transpose().native
  device.run('add', { a: transposed, b: transposed, alpha: 2 * s, beta: 0, y: u.native })
  const gram = Tensor.empty(device, [rank, rank])
  device.run('matmul', {
    layout: 'nt',
    segments: [{ x: a.native, w: a.native }],
    columnScale: Tensor.full(device, [rank], s * s).native,
    y: gram.native,
  })
  device.run('matmul', {
    layout: 'nn',
    segments: [{ x: part.b.value.native, w: gram.native }],
    residual: u.native,
    y: u.native,
  })
  const norm = Tensor.empty(device, [weight.rows])
  const scale = Tensor.empty(device, [weight.rows])
  device.run('magnitude_scale', {
    baseNorm: magnitude.baseNorm.native,
    u: u.native,
    b: part.b.value.native,
    magnitude: magnitude.value.value.native,
    norm: norm.native,
    scale: scale.native,
  })
  return { scale, norm }
}

function dropoutArguments(pass: Pass, { dropout }: LowRankGroup): object | null {
  if (pass.dropout === null || dropout.probability === 0) return null
  return {
    ...dropout,
    step: pass.dropout.step.native,
    rowSample: pass.dropout.rowSample.native,
    rowPosition: pass.dropout.rowPosition.native,
  }
}
