import type { TaskTensor } from './composition.js'
import type { Sparsifier, Sparsify } from './sparsify.js'

/**
 * Keeps the elements of a task vector whose place lies in [first, last) when all are ordered by magnitude, of equal ones
 * the earlier counting as larger. Exact for a tensor that never is in memory as a whole: two passes of counting by the
 * bits of |x| find the magnitude at each place, and how many of its equals lie on either side.
 */
export function magnitudeSparsifier(
  places: (
    size: number,
    model: Readonly<Record<string, number>>,
  ) => { first: number; last: number },
): Sparsifier {
  return async (tensor) => {
    const size = tensor.rows * tensor.columns
    const ranges = tensor.each.map((model) => places(size, model))
    const bounds = await magnitudesAt(
      tensor,
      ranges.map(({ first, last }) => [first, last]),
    )
    const scales = tensor.parameters.rescale
      ? await rescales(tensor, () => bounds.map(([low, high]) => select(low, high)))
      : bounds.map(() => 1)
    return bounds.map(([low, high], i) => scaled(select(low, high), scales[i]))
  }
}

/** TIES's trim and magnitude pruning: the largest `density` of the elements, at least one. */
export const largest = magnitudeSparsifier((size, { density }) => ({
  first: density <= 0 ? size : Math.min(size, size - Math.max(1, Math.floor(density * size))),
  last: size,
}))

/**
 * Model Breadcrumbs (Davari and Belilovsky 2023): the largest `gamma` of the elements are outliers and go, then the
 * smallest, until `density` is left.
 */
export const withoutOutliers = magnitudeSparsifier((size, { density, gamma }) => {
  if (density >= 1) return { first: 0, last: size }
  const kept = Math.max(0, Math.floor(density * size))
  const first = Math.max(0, size - kept - Math.floor(gamma * size))
  return { first, last: first + kept }
})

/**
 * A place in the order by magnitude: elements above `magnitude` lie at or behind it, and of those equal to it the first
 * `equals` of the tensor do.
 */
export interface Bound {
  readonly magnitude: number
  readonly equals: number
}

/** The bounds of several places for each task vector. */
export async function magnitudesAt(
  tensor: TaskTensor,
  places: readonly (readonly number[])[],
  values: (chunk: { deltas: readonly Float32Array[] }) => readonly Float32Array[] = (chunk) =>
    chunk.deltas,
): Promise<Bound[][]> {
  const size = tensor.rows * tensor.columns
  const isInside = (place: number) => place > 0 && place < size
  if (!places.flat().some(isInside)) return places.map((list) => list.map((p) => edge(p, size)))
  // Floats of one sign are ordered as their bits are: the upper half first.
  const upper = places.map(() => new Float64Array(1 << 15))
  for await (const chunk of tensor.chunks())
    values(chunk).forEach((delta, m) => {
      countUpper(delta, upper[m])
    })
  const wanted = places.map((list, m) => list.map((place) => bucketOf(upper[m], place)))
  const lower = wanted.map((list) => new Map(list.map(({ bucket }) => [bucket, lowerCounts()])))
  for await (const chunk of tensor.chunks())
    values(chunk).forEach((delta, m) => {
      for (const [bucket, histogram] of lower[m]) countLower(delta, bucket, histogram)
    })
  return places.map((list, i) =>
    list.map((place, j) => {
      if (!isInside(place)) return edge(place, size)
      const { bucket, rest } = wanted[i][j]
      const histogram = lower[i].get(bucket)!
      const found = bucketOf(histogram, rest)
      const magnitude = new Float32Array(Uint32Array.of((bucket << 16) | found.bucket).buffer)[0]
      return { magnitude, equals: histogram[found.bucket] - found.rest }
    }),
  )
}

const lowerCounts = () => new Float64Array(1 << 16)

function countUpper(values: Float32Array, histogram: Float64Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < bits.length; i++) histogram[(bits[i] & 0x7fffffff) >>> 16]++
}

function countLower(values: Float32Array, bucket: number, histogram: Float64Array): void {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length)
  for (let i = 0; i < bits.length; i++)
    if ((bits[i] & 0x7fffffff) >>> 16 === bucket) histogram[bits[i] & 0xffff]++
}

function edge(place: number, size: number): Bound {
  return place <= 0
    ? { magnitude: -1, equals: 0 }
    : place >= size
      ? { magnitude: Infinity, equals: 0 }
      : { magnitude: 0, equals: 0 }
}

/** The bucket that holds the element at a place, and the place within it. */
function bucketOf(histogram: Float64Array, place: number): { bucket: number; rest: number } {
  let rest = Math.max(0, place)
  let bucket = 0
  while (bucket < histogram.length - 1 && rest >= histogram[bucket]) rest -= histogram[bucket++]
  return { bucket, rest }
}

/** Chunks come in order, so elements equal to a bound are counted on the way. */
export function select(low: Bound, high: Bound): Sparsify {
  const isBehind = counter()
  const isBeyond = counter()
  return (delta, { begin }) => {
    if (begin === 0) {
      isBehind.restart()
      isBeyond.restart()
    }
    const kept = new Float32Array(delta.length)
    for (let i = 0; i < delta.length; i++) {
      const magnitude = Math.abs(delta[i])
      const behind = isBehind.at(magnitude, low)
      const beyond = isBeyond.at(magnitude, high)
      if (behind && !beyond) kept[i] = delta[i]
    }
    return kept
  }
}

function counter() {
  let seen = 0
  return {
    restart() {
      seen = 0
    },
    at(magnitude: number, bound: Bound): boolean {
      if (magnitude !== bound.magnitude) return magnitude > bound.magnitude
      return seen++ < bound.equals
    },
  }
}

/** What gives each sparsified task vector the sum of magnitudes that it had. */
async function rescales(
  tensor: TaskTensor,
  sparsifiers: () => readonly Sparsify[],
): Promise<number[]> {
  const before = new Float64Array(tensor.count)
  const after = new Float64Array(tensor.count)
  const those = sparsifiers()
  for await (const chunk of tensor.chunks())
    for (let m = 0; m < tensor.count; m++) {
      before[m] += sumOfMagnitudes(chunk.deltas[m])
      after[m] += sumOfMagnitudes(await those[m](chunk.deltas[m], chunk))
    }
  return Array.from(before, (sum, m) => (sum < 1e-7 || after[m] < 1e-7 ? 1 : sum / after[m]))
}

function sumOfMagnitudes(values: Float32Array): number {
  let sum = 0
  for (const value of values) sum += Math.abs(value)
  return sum
}

function scaled(sparsify: Sparsify, scale: number): Sparsify {
  if (scale === 1) return sparsify
  return async (delta, chunk) => {
    const kept = await sparsify(delta, chunk)
    for (let i = 0; i < kept.length; i++) kept[i] *= scale
    return kept
  }
}
