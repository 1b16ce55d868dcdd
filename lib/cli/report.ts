import { CommanderError } from 'commander'
import { type PolyloraErrorCode, errorCodes, isPolyloraError } from '../errors.js'

/** What the user gave was wrong. */
export const exitUsage = 2
/** What was asked for failed. */
export const exitFailure = 1

// A file that cannot be written is an error of this kind too; then it carries what is needed.
const userCodes: readonly PolyloraErrorCode[] = [
  errorCodes.ConfigError,
  errorCodes.ArgumentError,
  errorCodes.FormatError,
  errorCodes.DataError,
]

/** 2 for what the user gave, 1 for what failed. */
export function exitCodeOf(error: unknown): number {
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitUsage
  if (!isPolyloraError(error)) return exitFailure
  const isWrite = 'bytesNeeded' in error.details
  return userCodes.includes(error.code) && !isWrite ? exitUsage : exitFailure
}

/** An error as one line without a stack trace; POLYLORA_DEBUG=1 in the environment adds the trace. */
export function describeError(error: unknown): string {
  if (process.env.POLYLORA_DEBUG && error instanceof Error) return error.stack ?? error.message
  const message = error instanceof Error ? error.message : String(error)
  const sentence = message.replace(/\s*[\r\n]+\s*/g, ' ').trim()
  // The message of an error that nobody foresaw says little without its kind.
  return isPolyloraError(error) || (error as { code?: unknown } | null)?.code !== undefined
    ? sentence
    : `unexpected ${error instanceof Error ? error.name : 'error'}: ${sentence}`
}
