import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const folder = join(dirname(fileURLToPath(import.meta.url)), 'golden')

/** The path of a file or folder under test/golden. */
export function goldenPath(name: string): string {
  return join(folder, name)
}

export function goldenJson<T>(name: string): T {
  return JSON.parse(readFileSync(goldenPath(name), 'utf8')) as T
}

export interface GoldenTensor {
  readonly dtype: string
  readonly shape: readonly number[]
  /** Of F32 and I32 alike. */
  readonly values: Float32Array | Int32Array
}

export function goldenTensors(name: string): ReadonlyMap<string, GoldenTensor> {
  return plainTensors(goldenPath(name))
}

/** Every tensor of a small safetensors file, read without the product's own reader; F32, I32 and BF16. */
export function plainTensors(path: string): ReadonlyMap<string, GoldenTensor> {
  const bytes = readFileSync(path)
  const headerSize = Number(bytes.readBigUInt64LE(0))
  const header = JSON.parse(bytes.toString('utf8', 8, 8 + headerSize)) as Record<
    string,
    { dtype: string; shape: number[]; data_offsets: [number, number] }
  >
  const tensors = new Map<string, GoldenTensor>()
  for (const [key, { dtype, shape, data_offsets }] of Object.entries(header)) {
    if (key === '__metadata__') continue
    const [begin, end] = data_offsets.map((offset) => 8 + headerSize + offset)
    // A copy is aligned, a view of the file need not be.
    const buffer = new Uint8Array(bytes.subarray(begin, end)).buffer
    tensors.set(key, { dtype, shape, values: decode(dtype, buffer, `${path}: ${key}`) })
  }
  return tensors
}

function decode(dtype: string, buffer: ArrayBuffer, label: string): Float32Array | Int32Array {
  if (dtype === 'F32') return new Float32Array(buffer)
  if (dtype === 'I32') return new Int32Array(buffer)
  assert.equal(dtype, 'BF16', `${label} has a dtype that the tests do not read`)
  const bits = Uint32Array.from(new Uint16Array(buffer), (half) => half << 16)
  return new Float32Array(bits.buffer)
}
