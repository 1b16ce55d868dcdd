import { FormatError } from '../errors.js'

/**
 * Reads the fields of an untrusted config.json one by one, each with its type and bounds, and remembers which were
 * read, so that whatever is left over can be judged.
 */
export class ConfigFields {
  readonly file: string
  readonly #path: string
  readonly #values: ReadonlyMap<string, unknown>
  readonly #read = new Set<string>()

  constructor(file: string, value: unknown, path = '') {
    if (typeof value !== 'object' || value === null || Array.isArray(value))
      throw new FormatError(
        `${file}: ${path || 'the document'} must be an object, not ${describe(value)}`,
        { details: { file, key: path } },
      )
    this.file = file
    this.#path = path
    this.#values = new Map(Object.entries(value))
  }

  /** Whether the field is there and not null. */
  has(key: string): boolean {
    return (this.#values.get(key) ?? null) !== null
  }

  raw(key: string): unknown {
    this.#read.add(key)
    return this.#values.get(key) ?? null
  }

  integer(key: string, fallback?: number, { min = 1, max = 1 << 24 } = {}): number {
    const value = this.#value(key, fallback)
    if (typeof value !== 'number' || !Number.isInteger(value) || value < min || value > max)
      throw this.error(key, value, `a whole number from ${min} to ${max}`)
    return value
  }

  number(key: string, fallback?: number, { above = 0, max = 1e12 } = {}): number {
    const value = this.#value(key, fallback)
    if (typeof value !== 'number' || !(value > above) || value > max)
      throw this.error(key, value, `a number above ${above} and at most ${max}`)
    return value
  }

  boolean(key: string, fallback?: boolean): boolean {
    const value = this.#value(key, fallback)
    if (typeof value !== 'boolean') throw this.error(key, value, 'true or false')
    return value
  }

  string(key: string, fallback?: string): string {
    const value = this.#value(key, fallback)
    if (typeof value !== 'string') throw this.error(key, value, 'a string')
    return value
  }

  /** The nested object, or null if the field is absent. */
  object(key: string): ConfigFields | null {
    const value = this.raw(key)
    return value === null ? null : new ConfigFields(this.file, value, this.#name(key))
  }

  /** Refuses the field unless it is absent, null or one of `allowed`: any other value would change the result. */
  only(key: string, allowed: readonly unknown[]): void {
    const value = this.raw(key)
    if (value !== null && !allowed.includes(value))
      throw this.error(
        key,
        value,
        allowed.length ? allowed.map((one) => JSON.stringify(one)).join(' or ') : 'absent or null',
        'is not supported: it must be',
      )
  }

  /** Keys that nobody has read. */
  rest(): string[] {
    return [...this.#values.keys()].filter((key) => !this.#read.has(key))
  }

  error(key: string, value: unknown, allowed: string, problem = 'must be'): FormatError {
    return new FormatError(
      `${this.file}: ${this.#name(key)} ${problem} ${allowed}, not ${describe(value)}`,
      { details: { file: this.file, key: this.#name(key), received: value, allowed } },
    )
  }

  #value(key: string, fallback: unknown): unknown {
    const value = this.raw(key)
    return value === null ? (fallback ?? null) : value
  }

  #name(key: string): string {
    return this.#path ? `${this.#path}.${key}` : key
  }
}

function describe(value: unknown): string {
  if (value === undefined || value === null) return 'missing'
  const text = JSON.stringify(value) ?? String(value)
  return text.length > 80 ? `${text.slice(0, 77)}...` : text
}
