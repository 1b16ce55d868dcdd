import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, rmSync } from 'node:fs'
import { constants } from 'node:os'
import { join } from 'node:path'
import { isPolyloraError } from '../../lib/errors.js'
import { problemsOfOrder } from './durability.js'

/** What one call may do: see shim.cc. */
export const effects = ['EIO', 'ENOSPC', 'EACCES', 'EINTR', 'short', 'full'] as const
export type Effect = (typeof effects)[number]

/** Something that writes a folder, made to fail at each of its system calls in turn. */
export interface Scenario {
  readonly name: string
  /** What is there before; no call fails. */
  prepare?(folder: string): Promise<void>
  act(folder: string): Promise<unknown>
  /** Throws if anything is lost, damaged or left over, and whether all can be done again. No call fails. */
  check(folder: string, outcome: Outcome): Promise<void>
}

export interface Outcome {
  /** Null: the fault was overcome. */
  readonly error: unknown
  readonly effect: Effect
  /** The call that was hit: name and path. */
  readonly call: string
}

export interface SweepResult {
  readonly calls: number
  readonly faults: number
  readonly overcome: number
}

/** Whether an interruption or a short write is all that happened: nobody may notice. */
export const isHarmless = (effect: Effect) => effect === 'EINTR' || effect === 'short'

/**
 * Runs a scenario once for each effect and each of its calls, or each `stride`-th one.
 *
 * @param folder emptied before each
 */
export async function sweep(
  scenario: Scenario,
  folder: string,
  { stride = 1, only = effects }: { stride?: number; only?: readonly Effect[] } = {},
): Promise<SweepResult> {
  const once = async (nth: number, effect: Effect) => {
    rmSync(folder, { recursive: true, force: true })
    mkdirSync(folder, { recursive: true })
    await scenario.prepare?.(folder)
    arm(nth, effect, folder)
    let error: unknown = null
    try {
      await scenario.act(folder)
    } catch (reason) {
      error = reason
    }
    const calls = report()
    const call = calls[nth - 1] ?? ''
    const outcome = { error, effect, call }
    try {
      if (nth > 0 && error === null && !isHarmless(effect))
        assert.ok(mayBeOvercome(call, effect), 'nobody was told')
      await scenario.check(folder, outcome)
    } catch (cause) {
      const what = nth === 0 ? 'without a fault' : `with ${effect} in call ${nth}, ${call}`
      throw new Error(`${scenario.name} ${what}: ${String(cause)}; it gave: ${String(error)}`, {
        cause,
      })
    }
    return { calls, error }
  }
  const { calls, error } = await once(0, 'EIO')
  assert.ifError(error)
  assert.deepEqual(problemsOfOrder(calls), [], scenario.name)
  let [faults, overcome, turn] = [0, 0, 0]
  for (const effect of only)
    for (const [index, call] of calls.entries()) {
      if (!isPossible(effect, call) || turn++ % stride !== 0) continue
      const { error } = await once(index + 1, effect)
      faults++
      if (error === null) overcome++
    }
  return { calls: calls.length, faults, overcome }
}

/**
 * Whether a call tidies up: if it fails nobody is told, and the next writer does it again. And where a copy
 * cannot use sendfile (EIO), libuv reads and writes; where it may not truncate a new file (EACCES), it need not.
 */
function mayBeOvercome(call: string, effect: Effect): boolean {
  return (
    (effect === 'EIO' && call.startsWith('sendfile ')) ||
    (effect === 'EACCES' && call.startsWith('truncate ')) ||
    /^(unlink|rmdir) /.test(call) ||
    /^rename \S+\.removed /.test(call) ||
    /^open .*\.(partial|replaced)$/.test(call)
  )
}

function arm(nth: number, effect: Effect, folder: string): void {
  const errno = (constants.errno as Record<string, number>)[effect]
  assert.equal(readlinkSync(`polylora-faults:arm:${nth}:${errno ?? effect}:${folder}`), 'armed')
}

/** Ends the watch; the calls that were made. */
function report(): string[] {
  const count = Number(readlinkSync('polylora-faults:end'))
  return Array.from({ length: count }, (_, i) => readlinkSync(`polylora-faults:call:${i + 1}`))
}

/** Whether this effect may happen to this call. */
function isPossible(effect: Effect, call: string): boolean {
  const takesSpace = /^(create|write|sendfile|mkdir) /.test(call)
  if (effect === 'short') return /^(write|sendfile) /.test(call)
  return takesSpace || (effect !== 'ENOSPC' && effect !== 'full')
}

/** The error of a write that failed: typed, in one sentence, with the path, the cause and what to do. */
export function checkWriteError({ error, effect, call }: Outcome, path: string): void {
  assert.ok(!isHarmless(effect), 'it must be overcome')
  assert.ok(isPolyloraError(error), 'the error is not typed')
  assert.equal(error.code, 'ERR_POLYLORA_CHECKPOINT')
  const { message, details } = error
  assert.ok(message.includes(path), 'the message does not name the path')
  assert.doesNotMatch(message, /\n|\. [A-Z]/, 'the message is more than one sentence')
  assert.equal(details.error, effect === 'full' ? 'ENOSPC' : effect, call)
  assert.ok(error.cause instanceof Error, 'the error has no cause')
  const nextStep = { EIO: /disk/, ENOSPC: /free/, full: /free/, EACCES: /permission/ }[
    effect as string
  ]!
  assert.match(message, nextStep, 'the message does not say what to do')
}

/** Names of a folder that nobody but a writer may see. */
export function leftovers(folder: string): string[] {
  if (!existsSync(folder)) return []
  return readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter((name) =>
    /\.(partial|replaced|removed|tmp)(\/|$)/.test(name),
  )
}

/** Every file of a folder with its bytes, to compare. */
export function contentOf(folder: string): Record<string, Buffer> {
  const content: Record<string, Buffer> = {}
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    if (entry.isFile()) {
      const path = join(entry.parentPath, entry.name)
      content[path.slice(folder.length + 1)] = readFileSync(path)
    }
  return content
}
