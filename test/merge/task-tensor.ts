import type { Chunk, Parameters, TaskTensor } from '../../lib/merge/composition.js'
import { methods } from '../../lib/merge/methods.js'
import { Random } from '../random.js'

/** A tensor of a merge that lies in memory, [rows, columns], given out `rowsAtOnce` rows at a time. */
export interface Case {
  readonly rows: number
  readonly columns: number
  readonly base: Float32Array
  readonly deltas: readonly Float32Array[]
  readonly information: readonly Float32Array[]
  readonly parameters: Parameters
  readonly each: readonly Parameters[]
  /** [model][element] */
  readonly draws: readonly Float32Array[]
}

export function randomCase(
  seed: number,
  [rows, columns]: readonly [number, number],
  parameters: Parameters,
  each: readonly Parameters[],
): Case {
  const random = new Random(seed)
  const size = rows * columns
  return {
    rows,
    columns,
    base: random.normal(size),
    // Different scales, and zeros, as where an adapter leaves something alone.
    deltas: each.map((_, m) => {
      const delta = random.normal(size, 0.1 * (m + 1))
      for (let i = m; i < size; i += 7) delta[i] = 0
      return delta
    }),
    information: each.map(() => random.normal(size).map((value) => value ** 2)),
    parameters,
    each,
    draws: each.map(() => Float32Array.from({ length: size }, () => random.next())),
  }
}

/** What a method of the table makes of a case. */
export async function merged(name: string, one: Case, rowsAtOnce = 2): Promise<Float32Array> {
  const { rows, columns, draws } = one
  const tensor: TaskTensor = {
    ...one,
    name: 'model.layers.0.mlp.up_proj.weight',
    count: one.deltas.length,
    async *chunks() {
      for (let row = 0; row < rows; row += rowsAtOnce) yield chunkOf(one, row, rowsAtOnce)
    },
    random: (model, begin, end) => Promise.resolve(draws[model].slice(begin, end)),
  }
  const rule = await methods[name].composition(tensor)
  const result = new Float32Array(rows * columns)
  for await (const chunk of tensor.chunks()) {
    const out = new Float32Array(chunk.base.length)
    await rule(chunk, out)
    result.set(out, chunk.begin)
  }
  return result
}

function chunkOf(
  { rows, columns, base, deltas, information }: Case,
  row: number,
  rowsAtOnce: number,
): Chunk {
  const [begin, end] = [row * columns, Math.min(rows, row + rowsAtOnce) * columns]
  return {
    begin,
    base: base.slice(begin, end),
    deltas: deltas.map((delta) => delta.slice(begin, end)),
    information: information.map((one) => one.slice(begin, end)),
  }
}
