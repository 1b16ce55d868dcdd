import assert from 'node:assert/strict'

type Values = ArrayLike<number>

/** Largest absolute difference over the largest absolute value expected. */
export function relativeError(actual: Values, expected: Values): number {
  assert.equal(actual.length, expected.length, 'number of elements')
  let [largest, difference] = [0, 0]
  for (let i = 0; i < expected.length; ++i) {
    largest = Math.max(largest, Math.abs(expected[i]))
    // NaN must not vanish in a comparison.
    if (Number.isNaN(actual[i]) !== Number.isNaN(expected[i])) return Infinity
    difference = Math.max(difference, Math.abs(actual[i] - expected[i]))
  }
  return difference === 0 ? 0 : difference / largest
}

/** Fails unless every element is within `tolerance` times the largest value expected. */
export function assertClose(
  actual: Values,
  expected: Values,
  tolerance: number,
  label = 'values',
): void {
  const error = relativeError(actual, expected)
  if (!(error <= tolerance))
    assert.fail(
      `${label}: relative error ${error.toExponential(2)} exceeds ${tolerance.toExponential(2)}; ${firstDifference(actual, expected, tolerance)}`,
    )
}

function firstDifference(actual: Values, expected: Values, tolerance: number): string {
  let largest = 0
  for (let i = 0; i < expected.length; ++i) largest = Math.max(largest, Math.abs(expected[i]))
  let count = 0
  let first = -1
  for (let i = 0; i < expected.length; ++i)
    if (!(Math.abs(actual[i] - expected[i]) <= tolerance * largest)) {
      if (first < 0) first = i
      count++
    }
  return `${count} of ${expected.length} differ, the first at ${first}: ${actual[first]} instead of ${expected[first]}`
}

/** Fails unless all bits are the same; 0 and -0 differ, a NaN equals the same NaN. */
export function assertSameBits(actual: Float32Array, expected: Float32Array, label = 'values') {
  assert.equal(actual.length, expected.length, `${label}: number of elements`)
  const bits = (values: Float32Array) =>
    new Uint32Array(values.buffer, values.byteOffset, values.length)
  const [a, b] = [bits(actual), bits(expected)]
  for (let i = 0; i < a.length; ++i)
    if (a[i] !== b[i])
      assert.fail(`${label}: element ${i} of ${a.length} is ${actual[i]}, not ${expected[i]}`)
}

/** 2^-24: half the distance from 1 to the next float32, the error of one rounding. */
export const unitRoundoff = 2 ** -24

/**
 * The error allowed to a float32 chain of n roundings. Roundings are as good as independent, so they add up like a
 * random walk, sqrt(n) of them; 8 covers the largest of the many elements that are compared, and values that are small
 * differences of larger ones.
 */
export function roundingTolerance(n: number): number {
  return 8 * Math.sqrt(Math.max(n, 16)) * unitRoundoff
}
