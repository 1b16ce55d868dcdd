/**
 * What an error says of the file. A TypeError or RangeError comes from reading something as what it
 * is not: its message speaks of the code.
 */
export function reasonOf(error: unknown): string {
  const message = error instanceof Error ? error.message : String(error)
  return error instanceof TypeError || error instanceof RangeError
    ? `the file is damaged (${message})`
    : message
}
