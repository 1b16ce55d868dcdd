// A lock file that survives its owner's death: one build at a time in a clone.
import {
  closeSync,
  openSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

/** A file that was created but never written, or a guard left behind, counts as dead after this. */
const ABANDONED_MS = 10_000

/**
 * What tells a process from a later one with the same number: the boot and the start time within
 * it. Null where there is no such process.
 */
export function processIdentity(pid) {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    // The second field is the program's name in parentheses and may itself hold any of both.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
    const [state, started] = [fields[0], fields[19]]
    if (state === 'Z' || state === 'X') return null
    return `${readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim()}:${started}`
  } catch {
    return null
  }
}

function isAlive({ pid, identity }) {
  return identity !== null && processIdentity(pid) === identity
}

function read(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'))
  } catch {
    return null
  }
}

function age(path) {
  try {
    return Date.now() - statSync(path).mtimeMs
  } catch {
    return 0
  }
}

function create(path, text) {
  let descriptor
  try {
    descriptor = openSync(path, 'wx')
  } catch (error) {
    if (error.code === 'EEXIST') return false
    throw error
  }
  writeFileSync(descriptor, text)
  closeSync(descriptor)
  return true
}

/** Whether nobody holds the lock any more, though its file is there. */
export function isStale(path) {
  const record = read(path)
  if (!record?.holders) return age(path) > ABANDONED_MS
  return !record.holders.some(isAlive)
}

function breakStale(path) {
  // Two waiters may both find the lock stale; without the guard the second would remove the lock
  // that the first has taken meanwhile.
  const guard = `${path}.guard`
  if (!create(guard, '')) {
    if (age(guard) > ABANDONED_MS) rmSync(guard, { force: true })
    return
  }
  try {
    if (isStale(path)) rmSync(path, { force: true })
  } finally {
    rmSync(guard, { force: true })
  }
}

/**
 * Runs `action(lock)` while this process holds the lock file `path`; waits for another holder, and
 * takes over from a dead one. `lock.adopt(pid)` also keeps the lock for a child process that may
 * outlive this one; `lock.adopt(null)` ends that. `onWait(pid)` is called once, before waiting.
 *
 * @template T
 * @param {string} path
 * @param {(lock: { adopt(pid: number | null): void }) => Promise<T>} action
 * @param {{ onWait?: (pid: number) => void, pollMs?: number }} [options]
 */
export async function withLock(path, action, { onWait, pollMs = 200 } = {}) {
  const self = { pid: process.pid, identity: processIdentity(process.pid) }
  let told = false
  while (!create(path, JSON.stringify({ holders: [self] }))) {
    if (isStale(path)) {
      breakStale(path)
      continue
    }
    if (!told) onWait?.(read(path)?.holders?.find(isAlive)?.pid)
    told = true
    await sleep(pollMs)
  }
  const adopt = (pid) => {
    const holders = pid === null ? [self] : [self, { pid, identity: processIdentity(pid) }]
    const next = `${path}.${process.pid}`
    writeFileSync(next, JSON.stringify({ holders }))
    renameSync(next, path)
  }
  try {
    return await action({ adopt })
  } finally {
    rmSync(path, { force: true })
  }
}
