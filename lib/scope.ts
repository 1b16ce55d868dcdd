import { ArgumentError } from './errors.js'

/** What a scope can own: every `release` gives up one ownership. */
export interface Releasable {
  release(): void
}

const stack: Scope[] = []

/**
 * Owns the tensors made while it is current and releases them at its end:
 *
 *     using scope = new Scope()
 *     const y = f(x)         // every tensor made in here ends with the scope,
 *     scope.keep(y)          // but not y: the enclosing scope owns it now, or the caller if there is none
 *
 * Scopes are one synchronous stack: end a scope before the next `await`. What must outlive that has an owner of its own
 * (`tensor.retain()`), or is made where no scope is current; then its maker owns it.
 */
export class Scope {
  #owned: Releasable[] | null = []

  /** Becomes the current scope. */
  constructor() {
    stack.push(this)
  }

  static get current(): Scope | null {
    return stack.at(-1) ?? null
  }

  /** Gives one ownership of a tensor to the current scope; where there is none it stays with the caller. */
  static adopt<T extends Releasable | null>(tensor: T): T {
    if (tensor !== null) stack.at(-1)?.own(tensor)
    return tensor
  }

  /** Gives one ownership of a tensor to this scope. */
  own<T extends Releasable>(tensor: T): T {
    if (this.#owned === null) throw new ArgumentError('a scope was used after its end')
    this.#owned.push(tensor)
    return tensor
  }

  /**
   * Moves this scope's ownership of a tensor to the enclosing scope, or to the caller if there is none. A tensor that
   * this scope does not own is left as it is.
   */
  keep<T extends Releasable>(tensor: T): T {
    if (this.#owned === null) throw new ArgumentError('a scope was used after its end')
    if (this.#forget(tensor)) stack[stack.lastIndexOf(this) - 1]?.own(tensor)
    return tensor
  }

  /** Releases a tensor that the current scope owns before the scope's end, where memory is dear. */
  static discard(tensor: Releasable): void {
    if (Scope.current !== null && Scope.current.#forget(tensor)) tensor.release()
  }

  /** Takes one ownership of a tensor from the innermost scope that has one: it is the caller's now. */
  static detach<T extends Releasable>(tensor: T): T {
    for (let i = stack.length - 1; i >= 0; --i) if (stack[i].#forget(tensor)) break
    return tensor
  }

  /** Releases what it owns, last first. Scopes opened inside and not ended (an exception passed) end too. Idempotent. */
  end(): void {
    const depth = stack.lastIndexOf(this)
    if (depth < 0) return
    while (stack.length > depth + 1) stack.at(-1)!.end()
    stack.pop()
    const owned = this.#owned!
    this.#owned = null
    for (let i = owned.length - 1; i >= 0; --i) owned[i].release()
  }

  [Symbol.dispose](): void {
    this.end()
  }

  #forget(tensor: Releasable): boolean {
    const index = this.#owned?.lastIndexOf(tensor) ?? -1
    if (index >= 0) this.#owned!.splice(index, 1)
    return index >= 0
  }
}

/**
 * Runs `body` in a scope of its own. Kept are its result, if that is a tensor, the tensors that are elements or
 * properties of its result, and what is given to `keep`; everything else ends with the scope.
 *
 * @throws ArgumentError if `body` returns a promise: a scope is synchronous
 */
export function scope<T>(body: (keep: <K extends Releasable>(tensor: K) => K) => T): T {
  const inner = new Scope()
  try {
    const result = body((tensor) => inner.keep(tensor))
    if (result instanceof Promise) {
      result.catch(() => undefined)
      throw new ArgumentError(
        'the function given to scope() returned a promise; a scope must end before the next await',
      )
    }
    for (const tensor of releasablesOf(result)) inner.keep(tensor)
    return result
  } finally {
    inner.end()
  }
}

function releasablesOf(result: unknown): Releasable[] {
  if (isReleasable(result)) return [result]
  if (typeof result !== 'object' || result === null) return []
  return Object.values(result).filter(isReleasable)
}

function isReleasable(value: unknown): value is Releasable {
  return (
    typeof value === 'object' &&
    value !== null &&
    typeof (value as Partial<Releasable>).release === 'function'
  )
}
