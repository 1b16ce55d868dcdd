import type { Parameters, TaskTensor } from './composition.js'
import { gram, type LowRank, multiply, singularForm, stack } from './low-rank.js'
import { largest } from './magnitude.js'
import { taskArithmetic } from './task-arithmetic.js'

/**
 * KnOTS (Stoica et al. 2024): the task vectors side by side, [ΔW_1 … ΔW_n] = U Σ [V_1 … V_n]ᵀ, speak of the same
 * directions U, so that their V_i can be merged element by element, here as TIES does; then ΔW = U Σ Vᵀ. Exact on the
 * factors of adapters: nothing of the size of a weight is formed.
 */
export async function knots(
  factors: readonly LowRank[],
  parameters: Parameters,
  each: readonly Parameters[],
): Promise<LowRank> {
  const { rank: size, b } = stack(factors)
  const columns = factors[0].a.length / factors[0].rank
  // The models' columns are apart, so [A_1 … A_n] on its diagonal has a block for each.
  const blocks = new Float64Array(size * size)
  let begin = 0
  for (const { rank, a } of factors) {
    const product = gram(a, rank)
    for (let i = 0; i < rank; i++)
      blocks.set(product.subarray(i * rank, (i + 1) * rank), (begin + i) * size + begin)
    begin += rank
  }
  const { left, mix, singular } = singularForm(b, blocks)
  const r = singular.length
  begin = 0
  const right = factors.map(({ rank, a }) => {
    const part = new Float64Array(r * rank)
    for (let j = 0; j < r; j++)
      part.set(mix.subarray(j * size + begin, j * size + begin + rank), j * rank)
    begin += rank
    return Float32Array.from(multiply(part, a, r, columns))
  })
  return { rank: r, b: left, a: await mergeRight(right, r, columns, parameters, each) }
}

async function mergeRight(
  deltas: readonly Float32Array[],
  rows: number,
  columns: number,
  parameters: Parameters,
  each: readonly Parameters[],
): Promise<Float64Array> {
  const chunk = { begin: 0, base: new Float32Array(rows * columns), deltas, information: [] }
  const tensor: TaskTensor = {
    name: '',
    rows,
    columns,
    count: deltas.length,
    parameters,
    each,
    async *chunks() {
      yield chunk
    },
    random: () => Promise.reject(new Error('KnOTS draws nothing')),
  }
  const rule = await taskArithmetic({ sparsify: largest, electSigns: true })(tensor)
  const out = new Float32Array(rows * columns)
  await rule(chunk, out)
  return Float64Array.from(out)
}
