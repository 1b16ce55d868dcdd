// What a long run of tests has done, kept beside what was built: a run that was stopped goes on where it was.
import { appendFileSync, mkdirSync, readFileSync } from 'node:fs'
import { dirname } from 'node:path'
import { ScriptError } from './run.mjs'

/**
 * One unit of work that came to its end. cpuSeconds is the processor's time of whatever ended since the entry before:
 * where units run side by side only the sum is right.
 *
 * @typedef {{ readonly unit: string, readonly passed: number, readonly failed: number, readonly skipped: number,
 *   readonly seconds: number, readonly cpuSeconds: number }} Entry
 */

/**
 * A line a unit, in a file that outlives a run that is stopped. It counts only for the same sources and seed, which
 * `key` stands for; ledgers of other keys may share the file.
 */
export class Ledger {
  #path
  #key
  /** @type {Map<string, Entry>} */
  #done = new Map()

  /**
   * @param {string} path
   * @param {string} key
   * @param {{ fresh?: boolean }} [options] `fresh`: what was done before does not count
   */
  constructor(path, key, { fresh = false } = {}) {
    this.#path = path
    this.#key = key
    mkdirSync(dirname(path), { recursive: true })
    if (!fresh) this.#read()
  }

  /**
   * The unit's last ending, if it went well; what failed is to be run again.
   *
   * @param {string} unit
   * @returns {Entry | undefined}
   */
  find(unit) {
    const entry = this.#done.get(unit)
    return entry?.failed === 0 ? entry : undefined
  }

  /** @param {Entry} entry */
  add(entry) {
    this.#done.set(entry.unit, entry)
    appendFileSync(this.#path, `${JSON.stringify({ key: this.#key, ...entry })}\n`)
  }

  #read() {
    let text
    try {
      text = readFileSync(this.#path, 'utf8')
    } catch {
      return
    }
    for (const line of text.split('\n')) {
      try {
        const { key, ...entry } = JSON.parse(line)
        if (key === this.#key) this.#done.set(entry.unit, entry)
      } catch {
        // A line that was cut short: its unit is run again.
      }
    }
  }
}

/**
 * The units whose names contain the text.
 *
 * @template {{ readonly name: string }} Unit
 * @param {readonly Unit[]} units
 * @param {string} text
 * @returns {Unit[]}
 */
export function unitsNamed(units, text) {
  const chosen = units.filter(({ name }) => name.includes(text))
  if (chosen.length > 0) return chosen
  throw new ScriptError(`no unit's name contains ${JSON.stringify(text)}; --list prints them.`)
}

let counted = 0

/** Seconds that processes which have ended since the last call had of the processor. */
function cpuSecondsSince() {
  const stat = readFileSync('/proc/self/stat', 'utf8')
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ')
  // Of waited-for children, in ticks of a hundredth of a second.
  const total = (Number(fields[13]) + Number(fields[14])) / 100
  const since = total - counted
  counted = total
  return since
}

/**
 * Runs a unit unless the ledger has it, and enters how it ended.
 *
 * @param {{ readonly name: string, run(): Promise<{ passed?: number, failed?: number, skipped?: number }> }} unit
 * @param {Ledger} ledger
 * @param {(line: string) => void} [print]
 * @returns {Promise<Entry>}
 */
export async function runUnit(unit, ledger, print = console.log) {
  const { name } = unit
  const before = ledger.find(name)
  if (before) return before
  const start = performance.now()
  let totals
  try {
    totals = await unit.run()
  } catch (error) {
    print(`    ${String(error)}`)
    totals = { failed: 1 }
  }
  const { passed = 0, failed = 0, skipped = 0 } = totals
  const seconds = (performance.now() - start) / 1000
  const entry = { unit: name, passed, failed, skipped, seconds, cpuSeconds: cpuSecondsSince() }
  ledger.add(entry)
  const mark = failed > 0 ? '✘' : passed > 0 ? '✔' : '-'
  print(`  ${mark} ${name} (${seconds.toFixed(0)} s)`)
  return entry
}
