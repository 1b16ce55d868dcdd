import { ArgumentError } from './errors.js'
import { add } from './ops/add.js'
import { Scope } from './scope.js'
import type { Tensor } from './tensor.js'

/** The backward rule of one recorded operation. */
export interface Rule {
  /** What the operation read; only those the tape tracks receive a gradient. */
  readonly inputs: readonly Tensor[]
  readonly outputs: readonly Tensor[]
  /** What `backward` reads again. The tape keeps these alive until the rule has run. */
  readonly saved: readonly Tensor[]
  /**
   * Gradients of `outputs` (null where nothing reached an output) to gradients of `inputs` (null where there is none, or
   * the tape does not track the input). A returned tensor may be one of the gradients passed in.
   */
  backward(gradients: readonly (Tensor | null)[], tape: Tape): (Tensor | null)[]
  /** Makes the first output again from what is saved, bit for bit, where that costs little: then its readers save none. */
  remake?(): Tensor
}

/** A tensor that a rule reads again. */
export interface Recalled {
  /** What the rule has to save for it. */
  readonly saved: readonly Tensor[]
  /** The tensor, or its like; call it within the rule's `backward`. */
  get(): Tensor
}

/**
 * The tape of one micro-batch: rules in the order of the forward pass, walked backwards once.
 *
 * Tensors on the tape are identified by handle, so an operation that wants a view makes it inside its rule. Gradients of
 * parameters do not pass through the tape: rules add them to `Parameter.gradient`.
 */
export class Tape {
  #rules: Rule[] = []
  /** By handle alone: what nobody saves does not stay in memory. */
  readonly #tracked = new Set<Tensor>()
  readonly #inputs: Tensor[] = []
  readonly #remakers = new Map<Tensor, Rule>()
  readonly #gradients = new Map<Tensor, Tensor>()

  /** Whether a gradient must flow into this tensor. */
  tracks(tensor: Tensor): boolean {
    return this.#tracked.has(tensor)
  }

  /** Starts tracking an input that no rule of this tape made. */
  track(tensor: Tensor): void {
    this.#tracked.add(tensor)
    this.#inputs.push(tensor.retain())
  }

  record(rule: Rule): void {
    for (const tensor of rule.saved) tensor.retain()
    for (const tensor of rule.outputs) this.#tracked.add(tensor)
    if (rule.remake) this.#remakers.set(rule.outputs[0], rule)
    this.#rules.push(rule)
  }

  /** For a rule about to be recorded that reads `tensor` again in its backward pass. */
  recall(tensor: Tensor): Recalled {
    const maker = this.#remakers.get(tensor)
    // The maker comes later in the backward pass, so it still has what it saved.
    return maker
      ? { saved: [], get: () => maker.remake!() }
      : { saved: [tensor], get: () => tensor }
  }

  /** Adds to the gradient of a tensor; the tape becomes an owner of `gradient`. Call it within a scope. */
  accumulate(tensor: Tensor, gradient: Tensor): void {
    const existing = this.takeGradient(tensor)
    this.#gradients.set(tensor, (existing ? add(existing, gradient) : gradient).retain())
  }

  /**
   * The gradient that has reached a tensor so far, or null. It leaves the tape for the current scope: a rule that takes
   * the gradient of an input folds it into the one it returns, and so adds to a residual stream in its own kernel.
   */
  takeGradient(tensor: Tensor): Tensor | null {
    const gradient = this.#gradients.get(tensor) ?? null
    this.#gradients.delete(tensor)
    return Scope.adopt(gradient)
  }

  /** Runs every rule once, last first. Afterwards the tape holds only gradients of tensors given to `track`. */
  backward(): void {
    for (let rule = this.#rules.pop(); rule !== undefined; rule = this.#rules.pop()) {
      // What the rule makes and does not hand to the tape ends here.
      const scope = new Scope()
      try {
        const gradients = rule.outputs.map((output) => this.takeGradient(output))
        const results = rule.backward(gradients, this)
        if (results.length !== rule.inputs.length)
          throw new ArgumentError(
            `a backward rule returned ${results.length} gradients for ${rule.inputs.length} inputs`,
          )
        rule.inputs.forEach((input, i) => {
          const gradient = results[i] ?? null
          if (gradient !== null && this.tracks(input)) this.accumulate(input, gradient)
        })
      } finally {
        scope.end()
        this.#forget(rule)
      }
    }
  }

  /** Releases everything, after `backward` or instead of it. */
  dispose(): void {
    for (const rule of this.#rules) this.#forget(rule)
    this.#rules = []
    for (const gradient of this.#gradients.values()) gradient.release()
    this.#gradients.clear()
    for (const tensor of this.#inputs.splice(0)) tensor.release()
    this.#tracked.clear()
  }

  [Symbol.dispose](): void {
    this.dispose()
  }

  #forget(rule: Rule): void {
    for (const tensor of rule.saved) tensor.release()
    for (const output of rule.outputs) {
      this.#tracked.delete(output)
      this.#remakers.delete(output)
    }
  }
}

/**
 * Activation checkpointing: runs `forward` without keeping what its backward needs, and runs it again in the backward
 * pass. `forward` must be a pure function of `x` and of values that do not change before the backward pass (dropout
 * masks are a function of step, sample and position, so they are the same).
 */
export function checkpoint(
  tape: Tape | null,
  x: Tensor,
  forward: (tape: Tape | null, x: Tensor) => Tensor,
): Tensor {
  const y = forward(null, x)
  tape?.record({
    inputs: [x],
    outputs: [y],
    saved: [x],
    backward([dy], outer) {
      if (!dy) return [null]
      const inner = new Tape()
      try {
        if (outer.tracks(x)) inner.track(x)
        const again = forward(inner, x)
        inner.accumulate(again, dy)
        const existing = outer.takeGradient(x)
        if (existing !== null) inner.accumulate(x, existing)
        inner.backward()
        return [inner.takeGradient(x)]
      } finally {
        inner.dispose()
      }
    },
  })
  return y
}
