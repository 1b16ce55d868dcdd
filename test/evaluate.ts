import { Scope } from '../lib/scope.js'
import type { Tensor } from '../lib/tensor.js'

/** Runs `body` in a scope of its own, and reads what it returns. */
export async function evaluate<K extends string>(
  body: () => Record<K, Tensor>,
): Promise<Record<K, Float32Array>> {
  const inner = new Scope()
  let pending: [string, Promise<Float32Array>][]
  try {
    const tensors: [string, Tensor][] = Object.entries(body())
    // Reads are queued here; the tensors may end with the scope.
    pending = tensors.map(([name, tensor]) => [name, tensor.readFloats()])
  } finally {
    inner.end()
  }
  const result: Partial<Record<string, Float32Array>> = {}
  for (const [name, values] of pending) result[name] = await values
  return result as Record<K, Float32Array>
}
