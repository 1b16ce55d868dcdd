import type { z } from 'zod'
import { ConfigError } from './errors.js'

export interface ConfigErrorOptions {
  /** What the value is as a whole. Default: the configuration. */
  readonly whole?: string
  /** The keys that may stand at a path, to be named where one is not known. */
  readonly keysAt?: (path: readonly PropertyKey[]) => readonly string[]
}

/** The first issue of a schema's error as a ConfigError, with the key, the value received and what is allowed. */
export function configError(
  error: z.ZodError,
  value: unknown,
  file: string,
  { whole = 'the configuration', keysAt }: ConfigErrorOptions = {},
): ConfigError {
  const issue = error.issues[0]
  const key = issue.path.map(String).join('.')
  let received: unknown = value
  for (const part of issue.path)
    received = (received as Record<PropertyKey, unknown> | undefined | null)?.[part]
  const shown = received === undefined ? 'missing' : JSON.stringify(received)
  const known = keysAt ? `; there are ${keysAt(issue.path).join(', ')}` : ''
  const problem =
    issue.code === 'unrecognized_keys'
      ? `${[...issue.path.map(String), issue.keys[0]].join('.')} is not a known key${known}`
      : `${key || whole}: ${issue.message}, received ${shown.length > 80 ? `${shown.slice(0, 77)}...` : shown}`
  return new ConfigError(`${file}: ${problem}`, { cause: error, details: { file, key, received } })
}
