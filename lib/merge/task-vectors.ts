import { createHash } from 'node:crypto'
import type { Device } from '../device.js'
import { random } from '../ops/random.js'
import { Tensor } from '../tensor.js'
import type { Chunk, Parameters, TaskTensor } from './composition.js'
import type { ModelFiles } from './model-files.js'

/** Rows of an adapter's ΔW on the same rows of W; null where it leaves the layer alone. */
export interface DeltaRows {
  updates(path: string): boolean
  rows(
    path: string,
    begin: number,
    end: number,
    weights: Float32Array,
  ): Promise<Float32Array | null>
}

/** One model of a merge at one tensor: whole weights, an adapter, or both. */
export interface TaskSource {
  readonly files: ModelFiles | null
  readonly adapter: DeltaRows | null
  /** Its Fisher information, in the form of a model. */
  readonly information?: ModelFiles | null
  /** The tensor's name there. */
  readonly name: string
}

export interface TaskTensorOptions {
  readonly device: Device
  readonly name: string
  readonly shape: readonly number[]
  readonly base: TaskSource | null
  readonly sources: readonly TaskSource[]
  readonly parameters: Parameters
  readonly each: readonly Parameters[]
  readonly seed: bigint
  /** Elements of a chunk, unless one row has more. */
  readonly chunkElements: number
  readonly signal?: AbortSignal
}

// Elements that share a Philox subsequence. Part of the results: never to be changed.
const blockElements = 1 << 16

/** Whether a source has nothing at this tensor that the base has not. */
export function isUntouched({ files, adapter, name }: TaskSource, base: TaskSource): boolean {
  return files === base.files && name === base.name && !adapter?.updates(pathOf(name))
}

/** The module of a weight. */
export function pathOf(name: string): string {
  return name.replace(/\.weight$/, '')
}

/** A tensor whose task vectors are read from files and multiplied out as they are asked for. */
export function taskTensor(options: TaskTensorOptions): TaskTensor {
  const { shape, sources, name, parameters, each } = options
  const columns = shape.at(-1)!
  const rows = shape.length > 1 ? shape[0] : 1
  return {
    name,
    rows,
    columns,
    count: sources.length,
    parameters,
    each,
    async *chunks() {
      const rowsAtOnce = Math.max(1, Math.floor(options.chunkElements / columns))
      for (let begin = 0; begin < rows; begin += rowsAtOnce) {
        options.signal?.throwIfAborted()
        yield await readChunk(options, columns, begin, Math.min(rows, begin + rowsAtOnce))
      }
    },
    random: (model, begin, end) => draws(options, model, begin, end),
  }
}

async function readChunk(
  { base, sources }: TaskTensorOptions,
  columns: number,
  rowBegin: number,
  rowEnd: number,
): Promise<Chunk> {
  const [begin, end] = [rowBegin * columns, rowEnd * columns]
  const baseRows = (await base?.files?.read(base.name, begin, end)) ?? new Float32Array(end - begin)
  const deltas = await Promise.all(
    sources.map(async ({ files, adapter, name }) => {
      const isBase = files === (base?.files ?? null) && (files === null || name === base!.name)
      const own = isBase || !files ? baseRows : await files.read(name, begin, end)
      const update = await adapter?.rows(pathOf(name), rowBegin, rowEnd, own)
      const delta = update ?? new Float32Array(end - begin)
      if (own === baseRows) return delta
      for (let i = 0; i < own.length; i++) delta[i] += own[i] - baseRows[i]
      return delta
    }),
  )
  const information = await Promise.all(
    sources.flatMap((one) => one.information?.read(one.name, begin, end) ?? []),
  )
  return { begin, base: baseRows, deltas, information }
}

/** Subsequences are the digest of model and tensor, and the block within it: where a chunk begins makes no difference. */
async function draws(
  { device, name, seed }: TaskTensorOptions,
  model: number,
  begin: number,
  end: number,
): Promise<Float32Array> {
  const digest = createHash('sha256').update(`${model}\0${name}`).digest()
  const stream = digest.readBigUInt64LE() << 24n
  const values = new Float32Array(end - begin)
  for (let block = Math.floor(begin / blockElements); block * blockElements < end; block++) {
    const first = block * blockElements
    using y = Tensor.empty(device, [Math.min(blockElements, end - first)])
    const subsequence = BigInt.asUintN(64, stream | BigInt(block))
    random(y, { kind: 'uniform', low: 0, high: 1 }, seed, subsequence)
    const part = (await y.readFloats()).subarray(Math.max(0, begin - first))
    values.set(part, first + Math.max(0, begin - first) - begin)
  }
  return values
}
