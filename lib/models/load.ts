import { readFile, stat } from 'node:fs/promises'
import { basename, join } from 'node:path'
import type { Device } from '../device.js'
import { FormatError } from '../errors.js'
import { random } from '../ops/random.js'
import { type Matrix, Parameter } from '../parameter.js'
import { SafetensorsFile } from '../safetensors.js'
import { Scope, scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { Weight } from '../weight.js'
import type { DecoderConfig } from './config.js'
import type { DecoderWeights } from './decoder.js'
import { buildWeights, eachWeight, type WeightSource } from './layout.js'

/** How the products of a model compute: float32, or bf16 operands with float32 accumulation. */
export type ComputeDType = 'f32' | 'bf16'

export interface LoadOptions {
  /** Default f32. Weights stored as bf16 stay bf16 in memory either way. */
  compute?: ComputeDType
  signal?: AbortSignal
  /** Bytes read so far, and in all. */
  onProgress?: (read: number, total: number) => void
  /** False: memory is reserved, and nothing is read into it. Default true. */
  readsValues?: boolean
}

/** Reads the weights of a Hugging Face folder, single or sharded, straight into packed memory. */
export async function loadWeights(
  device: Device,
  folder: string,
  config: DecoderConfig,
  options: LoadOptions = {},
): Promise<DecoderWeights> {
  const { readsValues = true } = options
  const shards = await openShards(folder)
  const made: (Matrix | Parameter)[] = []
  try {
    const entries = new Map<string, SafetensorsFile>()
    let total = 0
    for (const shard of shards)
      for (const [name, entry] of shard.entries) {
        if (entries.has(name))
          throw new FormatError(`${folder}: tensor ${name} is in two files`, {
            details: { file: folder, key: name },
          })
        entries.set(name, shard)
        total += entry.end - entry.begin
      }
    if (config.tieWordEmbeddings === false && !entries.has('lm_head.weight'))
      throw missing(folder, 'lm_head.weight')
    let read = 0
    const find = (name: string, shape: readonly number[]) => {
      options.signal?.throwIfAborted()
      const shard = entries.get(name)
      const entry = shard?.entries.get(name)
      if (!shard || !entry) throw missing(folder, name)
      if (entry.shape.join() !== shape.join())
        throw new FormatError(
          `${shard.path}: tensor ${name} has shape [${entry.shape.join(', ')}], config.json asks for [${shape.join(', ')}]`,
          { details: { file: shard.path, key: name, received: entry.shape, allowed: shape } },
        )
      if (!['F32', 'BF16', 'F16'].includes(entry.dtype))
        throw new FormatError(
          `${shard.path}: tensor ${name} has dtype ${entry.dtype}; F32, BF16 and F16 are supported`,
          { details: { file: shard.path, key: name, received: entry.dtype } },
        )
      read += entry.end - entry.begin
      return { shard, dtype: entry.dtype }
    }
    const source: WeightSource = {
      async matrix(name, rows, columns) {
        const { shard, dtype } = find(name, [rows, columns])
        const compute = options.compute ?? 'f32'
        // f16 does not fit in bf16: it widens.
        const storage = compute === 'bf16' || dtype === 'BF16' ? 'bf16' : 'f32'
        const weight = Weight.create(device, { rows, columns, storage, compute })
        const matrix: Matrix = { name, weight, master: null }
        made.push(matrix)
        if (readsValues) await shard.readWeight(name, weight, 0)
        options.onProgress?.(read, total)
        return matrix
      },
      async vector(name, length) {
        const { shard } = find(name, [length])
        const parameter = new Parameter(name, Tensor.empty(device, [length]))
        made.push(parameter)
        if (readsValues) await shard.readTensor(name, parameter.value)
        return parameter
      },
    }
    return await buildWeights(config, source)
  } catch (error) {
    for (const one of made) disposeWeight(one)
    throw error
  } finally {
    for (const shard of shards) shard.close()
  }
}

/** Random weights for training from scratch: matrices N(0, initializer_range), norms 1, biases 0. */
export async function initializeWeights(
  device: Device,
  config: DecoderConfig,
  seed: number,
  { compute = 'f32' }: { compute?: ComputeDType } = {},
): Promise<DecoderWeights> {
  let subsequence = 0n
  const source: WeightSource = {
    matrix(name, rows, columns) {
      const storage = compute === 'bf16' ? 'bf16' : 'f32'
      const weight = Weight.create(device, { rows, columns, storage, compute })
      scope(() => {
        const values = Tensor.empty(device, [rows, columns])
        const deviation = config.initializerRange
        random(values, { kind: 'normal', mean: 0, deviation }, BigInt(seed), subsequence++)
        weight.update(values, 0)
      })
      return Promise.resolve({ name, weight, master: null })
    },
    vector(name, length, kind) {
      const value = new Float32Array(length).fill(kind === 'norm' ? 1 : 0)
      return Promise.resolve(new Parameter(name, Tensor.from(device, value, [length])))
    },
  }
  return buildWeights(config, source)
}

/**
 * Makes every weight trainable: matrices get a float32 master beside their packed copy, which is widened if the products
 * are float32, and all get gradients.
 */
export function unfreezeWeights(device: Device, weights: DecoderWeights): Parameter[] {
  return Array.from(eachWeight(weights), (one) => {
    const parameter = one instanceof Parameter ? one : (one.master ??= createMaster(one))
    parameter.gradient ??= Tensor.zeros(device, parameter.value.shape)
    return parameter
  })
}

export function disposeWeights(weights: DecoderWeights): void {
  for (const one of eachWeight(weights)) disposeWeight(one)
}

function createMaster(matrix: Matrix): Parameter {
  const { name, weight } = matrix
  const value = weight.read()
  if (weight.storage === 'bf16' && weight.compute === 'f32') {
    // Updates smaller than a step of bf16 must reach the products.
    const { device, rows, columns } = weight
    try {
      matrix.weight = Weight.create(device, { rows, columns }).update(value)
    } catch (error) {
      Scope.detach(value).release()
      throw error
    }
    weight.dispose()
  }
  return new Parameter(name, value, matrix.weight)
}

function disposeWeight(one: Matrix | Parameter): void {
  if (one instanceof Parameter) {
    one.dispose()
    return
  }
  one.master?.dispose()
  one.master = null
  one.weight.dispose()
}

/** The safetensors files of a folder: model.safetensors, or what model.safetensors.index.json names. */
async function openShards(folder: string): Promise<SafetensorsFile[]> {
  const names = await shardNames(folder)
  const shards: SafetensorsFile[] = []
  try {
    for (const name of names) shards.push(await SafetensorsFile.open(join(folder, name)))
  } catch (error) {
    for (const shard of shards) shard.close()
    throw error
  }
  return shards
}

async function shardNames(folder: string): Promise<string[]> {
  const index = join(folder, 'model.safetensors.index.json')
  const info = await stat(index).catch(() => null)
  if (info === null) return ['model.safetensors']
  if (info.size > 64 << 20)
    throw new FormatError(
      `${index}: ${info.size} bytes is too large for an index, 64 MiB is allowed`,
    )
  let map: unknown
  try {
    map = (JSON.parse(await readFile(index, 'utf8')) as { weight_map?: unknown }).weight_map
  } catch (cause) {
    throw new FormatError(`${index}: is not JSON: ${(cause as Error).message}`, { cause })
  }
  if (typeof map !== 'object' || map === null)
    throw new FormatError(`${index}: weight_map must be an object`, { details: { file: index } })
  const names = new Set<unknown>(Object.values(map))
  for (const name of names)
    if (typeof name !== 'string' || name !== basename(name) || /^\.{0,2}$|\0/.test(name))
      throw new FormatError(
        `${index}: weight_map names ${JSON.stringify(name)}, which must be a file name without a folder`,
        { details: { file: index, received: name } },
      )
  return ([...names] as string[]).sort()
}

function missing(folder: string, name: string): FormatError {
  return new FormatError(`${folder}: no safetensors file has the tensor ${name}`, {
    details: { file: folder, key: name },
  })
}
