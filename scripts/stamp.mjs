// Stamps: what a finished build step was made from, and what it made.
import { createHash } from 'node:crypto'
import {
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join, relative } from 'node:path'

/** Every file at or below the paths, sorted; paths that do not exist are left out. */
export function listFiles(paths) {
  const files = []
  for (const path of paths) {
    const stat = statSync(path, { throwIfNoEntry: false })
    if (stat?.isDirectory())
      files.push(...listFiles(readdirSync(path).map((name) => join(path, name))))
    else if (stat) files.push(path)
  }
  return files.sort()
}

/** A digest of the names and contents of the files at or below the paths, and of `extra`. */
export function hashInputs(root, paths, extra = '') {
  const hash = createHash('sha256').update(extra)
  for (const file of listFiles(paths.map((path) => join(root, path)))) {
    const content = readFileSync(file)
    hash.update(`\0${relative(root, file)}\0${content.length}\0`).update(content)
  }
  return hash.digest('hex')
}

/** A digest of the names, sizes and times of the files at or below the paths. */
export function fingerprintOutputs(root, paths) {
  const hash = createHash('sha256')
  for (const file of listFiles(paths.map((path) => join(root, path)))) {
    const { size, mtimeMs } = statSync(file)
    hash.update(`\0${relative(root, file)}\0${size}\0${mtimeMs}`)
  }
  return hash.digest('hex')
}

export function writeAtomically(path, text) {
  mkdirSync(dirname(path), { recursive: true })
  const next = `${path}.${process.pid}`
  writeFileSync(next, text)
  renameSync(next, path)
}

/** The record of one build step, written when the step is complete. */
export class Stamp {
  constructor(path) {
    this.path = path
    this.started = `${path}.started`
  }

  /** Whether the last complete step read these inputs, and its outputs are as it left them. */
  isCurrent(inputs, outputs) {
    try {
      const stamp = JSON.parse(readFileSync(this.path, 'utf8'))
      return stamp.inputs === inputs && stamp.outputs === outputs
    } catch {
      return false
    }
  }

  /** Whether the last step was killed, so that its outputs may be torn. */
  wasInterrupted() {
    return statSync(this.started, { throwIfNoEntry: false }) !== undefined
  }

  /** Runs the step, which returns `{ inputs, outputs }`. One that throws has ended in order. */
  async guard(step) {
    writeAtomically(this.started, '')
    rmSync(this.path, { force: true })
    try {
      writeAtomically(this.path, JSON.stringify(await step()))
    } finally {
      rmSync(this.started, { force: true })
    }
  }
}
