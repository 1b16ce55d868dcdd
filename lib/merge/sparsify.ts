import type { Chunk, TaskTensor } from './composition.js'

/**
 * What a sparsifier makes of one chunk of one task vector: the elements that stay, scaled, and zero for the rest.
 */
export type Sparsify = (delta: Float32Array, chunk: Chunk) => Float32Array | Promise<Float32Array>

/** Looks at every task vector of a tensor and returns a sparsifier for each model. */
export type Sparsifier = (tensor: TaskTensor) => Promise<readonly Sparsify[]>

/** Every element stays. */
export const keepAll: Sparsifier = (tensor) =>
  Promise.resolve(Array.from({ length: tensor.count }, () => (delta: Float32Array) => delta))
