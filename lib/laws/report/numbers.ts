/** How a report writes its numbers. */

/** A fraction in points. */
export const points = (fraction: number) => 100 * fraction

/** As it was set, without what binary fractions add: 0.07 is 7. */
export const wholePoints = (fraction: number) => String(Number(points(fraction).toPrecision(12)))

/** A fraction in points, as text. */
export const inPoints = (value: number | null, digits = 2) =>
  value === null ? '–' : points(value).toFixed(digits)

/** So many digits that count. */
export const significant = (value: number | null, digits = 2) =>
  value === null ? '–' : value.toPrecision(digits)

/** From one to the other, in points, on one line. */
export const between = (lower: number | null, upper: number | null) =>
  lower === null || upper === null ? '–' : `${inPoints(lower)}\u00a0to\u00a0${inPoints(upper)}`
