import { ArgumentError } from '../errors.js'
import type { DecoderWeights } from '../models/index.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import type { Weight } from '../weight.js'
import type { Adapter, AdapterModule } from './adapter.js'
import { orthonormalColumns, singularTriplets } from './factors.js'

/** What DoRA, PiSSA and OLoRA take from the weights they update. */

/**
 * Gives every module what it needs: the norms of W's rows, and for a fresh adapter the magnitudes, or the factors that
 * A and B start as.
 */
export async function initializeFromWeights(
  adapter: Adapter,
  weights: DecoderWeights,
  loaded: boolean,
): Promise<void> {
  for (const module of adapter.modules) {
    const { weight } = weights.layers[module.layer][module.linear].matrix
    if (weight.rows !== module.outFeatures || weight.columns !== module.inFeatures)
      throw new ArgumentError(
        `the adapter updates ${module.path} of [${module.outFeatures}, ${module.inFeatures}], but the model's is [${weight.rows}, ${weight.columns}]`,
      )
    const { magnitude } = module.part
    if (magnitude) {
      weight.device.run('weight_row_norms', {
        weight: weight.native,
        y: magnitude.baseNorm.native,
      })
      if (!loaded) magnitude.value.value.copyFrom(magnitude.baseNorm)
    }
    const { initialization } = adapter.declaration.form
    if (initialization !== 'zero' && !loaded) await startFromFactors(module, weight, initialization)
  }
}

/**
 * B A = the largest part of W over s. PiSSA: B = U √(S / s), A = √(S / s) Vᵀ. OLoRA: B = Q, A = R, unscaled as in PEFT,
 * so that s B A is taken from the base.
 */
async function startFromFactors(
  { rank, scale, part, group }: AdapterModule,
  weight: Weight,
  initialization: 'pissa' | 'olora',
): Promise<void> {
  const { device } = weight
  const values = {
    a: new Float32Array(rank * weight.columns),
    b: new Float32Array(weight.rows * rank),
  }
  if (initialization === 'pissa') {
    const { u, s, v } = await singularTriplets(weight, rank)
    for (let r = 0; r < rank; r++) {
      const root = Math.sqrt(s[r] / scale)
      for (let i = 0; i < weight.columns; i++) values.a[r * weight.columns + i] = root * v[r][i]
      for (let i = 0; i < weight.rows; i++) values.b[i * rank + r] = root * u[r][i]
    }
  } else {
    const { q, r } = await orthonormalColumns(weight, rank)
    for (let k = 0; k < rank; k++) {
      values.a.set(r[k], k * weight.columns)
      for (let i = 0; i < weight.rows; i++) values.b[i * rank + k] = q[k][i]
    }
  }
  scope(() => {
    const write = (target: Tensor, from: Float32Array) => {
      target.copyFrom(Tensor.from(device, from, target.shape))
    }
    const correction = group.correction!
    const index = group.parts.indexOf(part)
    const place = correction.parts[index]!
    write(group.a.value.slice(0, part.begin, part.end), values.a)
    write(part.b.value, values.b)
    write(correction.a.value.slice(0, place.begin, place.end), values.a)
    write(place.b.value, values.b)
  })
}
