/**
 * The errors that polylora throws.
 *
 * Each class has one stable `code`; programs branch on the code or on the class, never on the
 * message. A message is one sentence: what was wrong, the value received, what is allowed, where.
 */

/** Every code, by the class that carries it. Codes are part of the public interface. */
export const errorCodes = {
  /** A configuration (file, option or flag) holds a value that is not allowed. */
  ConfigError: 'ERR_POLYLORA_CONFIG',
  /** A function was called with a value that is not allowed. */
  ArgumentError: 'ERR_POLYLORA_ARGUMENT',
  /** Tensors do not fit together, or a size is out of range. */
  ShapeError: 'ERR_POLYLORA_SHAPE',
  /** A tensor has an element type that the operation does not take. */
  DTypeError: 'ERR_POLYLORA_DTYPE',
  /** A tensor, model or device was used after it was disposed. */
  DisposedError: 'ERR_POLYLORA_DISPOSED',
  /** Memory could not be had within the device's budget. */
  OutOfMemoryError: 'ERR_POLYLORA_OUT_OF_MEMORY',
  /** A device could not be opened, or its stream failed. */
  DeviceError: 'ERR_POLYLORA_DEVICE',
  /** A file is not what its format says: damaged, truncated, or of an unsupported kind. */
  FormatError: 'ERR_POLYLORA_FORMAT',
  /** A record of a corpus cannot be used. */
  DataError: 'ERR_POLYLORA_DATA',
  /** A checkpoint could not be written, or cannot be resumed from. */
  CheckpointError: 'ERR_POLYLORA_CHECKPOINT',
  /** The caller's AbortSignal ended the work; `cause` is the signal's reason. */
  AbortedError: 'ERR_POLYLORA_ABORTED',
} as const

export type PolyloraErrorName = keyof typeof errorCodes
export type PolyloraErrorCode = (typeof errorCodes)[PolyloraErrorName]

export interface PolyloraErrorOptions {
  /** What the message speaks of, for programs: `{ file, line }`, `{ key, received, allowed }` … */
  details?: Readonly<Record<string, unknown>>
  /** The error that led to this one. */
  cause?: unknown
}

// Recognises errors of another copy of the package too (two installed versions, a worker).
const brand: unique symbol = Symbol.for('polylora.error')

/** Names that files and callers give can be megabytes long; beginning and end of the sentence are kept. */
function shortened(message: string): string {
  const most = 1000
  if (message.length <= most) return message
  return `${message.slice(0, most - 300)} … ${message.slice(-297)}`
}

/** The base of every error that polylora throws on purpose. */
export abstract class PolyloraError extends Error {
  abstract override readonly name: PolyloraErrorName
  abstract readonly code: PolyloraErrorCode
  readonly details: Readonly<Record<string, unknown>>

  constructor(message: string, options: PolyloraErrorOptions = {}) {
    super(shortened(message), 'cause' in options ? { cause: options.cause } : undefined)
    this.details = options.details ?? {}
  }

  /** @internal */
  get [brand](): true {
    return true
  }
}

export class ConfigError extends PolyloraError {
  override readonly name = 'ConfigError'
  override readonly code = errorCodes.ConfigError
}

export class ArgumentError extends PolyloraError {
  override readonly name = 'ArgumentError'
  override readonly code = errorCodes.ArgumentError
}

export class ShapeError extends PolyloraError {
  override readonly name = 'ShapeError'
  override readonly code = errorCodes.ShapeError
}

export class DTypeError extends PolyloraError {
  override readonly name = 'DTypeError'
  override readonly code = errorCodes.DTypeError
}

export class DisposedError extends PolyloraError {
  override readonly name = 'DisposedError'
  override readonly code = errorCodes.DisposedError
}

export class OutOfMemoryError extends PolyloraError {
  override readonly name = 'OutOfMemoryError'
  override readonly code = errorCodes.OutOfMemoryError
}

export class DeviceError extends PolyloraError {
  override readonly name = 'DeviceError'
  override readonly code = errorCodes.DeviceError
}

export class FormatError extends PolyloraError {
  override readonly name = 'FormatError'
  override readonly code = errorCodes.FormatError
}

export class DataError extends PolyloraError {
  override readonly name = 'DataError'
  override readonly code = errorCodes.DataError
}

export class CheckpointError extends PolyloraError {
  override readonly name = 'CheckpointError'
  override readonly code = errorCodes.CheckpointError
}

export class AbortedError extends PolyloraError {
  override readonly name = 'AbortedError'
  override readonly code = errorCodes.AbortedError
}

const classes = {
  ConfigError,
  ArgumentError,
  ShapeError,
  DTypeError,
  DisposedError,
  OutOfMemoryError,
  DeviceError,
  FormatError,
  DataError,
  CheckpointError,
  AbortedError,
} satisfies Record<PolyloraErrorName, unknown>

/** Whether `value` is an error that polylora threw on purpose. */
export function isPolyloraError(value: unknown): value is PolyloraError {
  return (
    value instanceof Error && (value instanceof PolyloraError || (value as never)[brand] === true)
  )
}

/**
 * The typed error for `code`, for errors that arrive as plain fields: from the addon, or from a
 * worker, whose messages lose their class. Undefined if the code is not one of {@link errorCodes}.
 */
export function errorFromCode(
  code: string,
  message: string,
  options: PolyloraErrorOptions = {},
): PolyloraError | undefined {
  for (const name of Object.keys(classes) as PolyloraErrorName[])
    if (errorCodes[name] === code) return new classes[name](message, options)
  return undefined
}
