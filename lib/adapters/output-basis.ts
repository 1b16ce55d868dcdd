import { Tensor } from '../tensor.js'
import type { Adapter } from './adapter.js'
import { eigen } from './factors.js'

/**
 * Fills K of every gate that reads its experts' outputs: the root of B_eᵀB_e for each expert, from the B that is there
 * now. Such experts are frozen, so once is enough.
 */
export async function fillOutputBases({ modules, declaration, device }: Adapter): Promise<void> {
  const { experts } = declaration.form
  for (const { group, mixture, part, rank, outFeatures } of modules) {
    if (group.gate?.kind !== 'outputs') continue
    const b = await part.b.value.readFloats()
    const width = experts * rank
    const values = new Float32Array(width * width)
    for (let e = 0; e < experts; e++) {
      const begin = e * rank
      const gram = Array.from({ length: rank }, (_, i) =>
        Array.from({ length: rank }, (_, j) => {
          let sum = 0
          for (let row = 0; row < outFeatures; row++)
            sum += b[row * width + begin + i] * b[row * width + begin + j]
          return sum
        }),
      )
      squareRoot(gram).forEach((row, i) => {
        values.set(row, (begin + i) * width + begin)
      })
    }
    const { basis } = group.gate.readers[mixture]
    using root = Tensor.from(device, values, basis.shape)
    basis.copyFrom(root)
  }
}

/** Of a small symmetric matrix without negative eigenvalues, through them; symmetric. */
export function squareRoot(matrix: readonly (readonly number[])[]): number[][] {
  const { values, vectors } = eigen(matrix)
  const roots = values.map((value) => Math.sqrt(Math.max(0, value)))
  return matrix.map((_, i) =>
    matrix.map((_, j) =>
      roots.reduce((sum, root, k) => sum + vectors[i][k] * root * vectors[j][k], 0),
    ),
  )
}
