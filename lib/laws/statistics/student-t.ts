import { ArgumentError } from '../../errors.js'

/** Student's t with whole degrees of freedom, to some units of a double's last place. */

/** P(T > t). @param degrees of freedom, from 1 */
export function upperTail(t: number, degrees: number): number {
  checkDegrees(degrees)
  if (Number.isNaN(t)) return NaN
  if (t < 0) return 1 - upperTail(-t, degrees)
  return incompleteBeta(t, degrees) / 2
}

/** The t with P(T > t) = tail. @param tail from above 0 to 1/2 */
export function upperQuantile(tail: number, degrees: number): number {
  checkDegrees(degrees)
  if (!(tail > 0 && tail <= 0.5))
    throw new ArgumentError(`tail must be above 0 and at most 0.5, not ${tail}`)
  let low = 0
  let high = 1
  while (upperTail(high, degrees) > tail) [low, high] = [high, 2 * high]
  // Until no double lies between.
  for (;;) {
    const middle = low + (high - low) / 2
    if (middle === low || middle === high) return high
    if (upperTail(middle, degrees) > tail) low = middle
    else high = middle
  }
}

/** I_x(a, 1/2) for a = ν/2 and x = ν / (ν + t²): the probability that |T| > t. */
function incompleteBeta(t: number, degrees: number): number {
  const a = degrees / 2
  const square = t * t
  if (square === Infinity) return 0
  const x = degrees / (degrees + square)
  const complement = square / (degrees + square)
  // x^a (1 - x)^(1/2) / B(a, 1/2), without forming 1 - x.
  const front = (Math.exp(-a * Math.log1p(square / degrees)) * Math.sqrt(complement)) / betaHalf(a)
  return x < (a + 1) / (a + 2.5)
    ? (front * continuedFraction(x, a, 0.5)) / a
    : 1 - 2 * front * continuedFraction(complement, 0.5, a)
}

/** B(a, 1/2) for a = 1/2, 1, 3/2, …, by B(a + 1, b) = B(a, b) a / (a + b). */
function betaHalf(a: number): number {
  let value = a % 1 === 0 ? 2 : Math.PI
  for (let at = a % 1 === 0 ? 1 : 0.5; at < a; at++) value *= at / (at + 0.5)
  return value
}

/** Of the incomplete beta function, by Lentz's method (Thompson and Barnett 1986). */
function continuedFraction(x: number, a: number, b: number): number {
  const tiny = 1e-300
  const away = (value: number) => (Math.abs(value) < tiny ? tiny : value)
  let c = 1
  let d = 1 / away(1 - ((a + b) * x) / (a + 1))
  let value = d
  for (let m = 1; m < 10_000; m++) {
    const even = (m * (b - m) * x) / ((a + 2 * m - 1) * (a + 2 * m))
    d = 1 / away(1 + even * d)
    c = away(1 + even / c)
    value *= d * c
    const odd = (-(a + m) * (a + b + m) * x) / ((a + 2 * m) * (a + 2 * m + 1))
    d = 1 / away(1 + odd * d)
    c = away(1 + odd / c)
    value *= d * c
    if (Math.abs(d * c - 1) < 1e-16) break
  }
  return value
}

function checkDegrees(degrees: number): void {
  if (!Number.isInteger(degrees) || degrees < 1 || degrees > 1e6)
    throw new ArgumentError(
      `degrees of freedom must be a whole number from 1 to 1000000, not ${degrees}`,
    )
}
