// Counting: what every suite gives, and the line that ends a run.

/** Adds up `{ passed, failed, skipped }`. */
export function sum(totals) {
  const result = { passed: 0, failed: 0, skipped: 0 }
  for (const each of totals) for (const key of Object.keys(result)) result[key] += each[key] ?? 0
  return result
}

export function closingLine({ passed, failed, skipped }) {
  return `${passed} passed, ${failed} failed${skipped ? `, ${skipped} skipped` : ''}`
}

/** The last closing line of a program's output, as totals; null if it printed none. */
export function parseClosingLine(output) {
  const lines = [...output.matchAll(/^(\d+) passed, (\d+) failed(?:, (\d+) skipped)?\s*$/gm)]
  const last = lines.at(-1)
  if (!last) return null
  const [passed, failed, skipped] = last.slice(1).map((digits) => Number(digits ?? 0))
  return { passed, failed, skipped }
}

/** A run counts as good if something passed and nothing failed. */
export function isSuccess({ passed, failed }) {
  return passed > 0 && failed === 0
}
