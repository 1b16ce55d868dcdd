import { appendFileSync, mkdirSync, readFileSync } from 'node:fs'
import { dirname } from 'node:path'

export interface Totals {
  readonly passed: number
  readonly failed: number
  readonly skipped: number
}

/** One unit of work that came to its end. */
export interface Entry extends Totals {
  readonly unit: string
  readonly seconds: number
  /** Of the processor, by whatever ended since the entry before: where units run side by side only the sum is right. */
  readonly cpuSeconds: number
}

/**
 * What has been done, a line a unit, in a file that outlives a run that is stopped. It counts only for the same sources
 * and seed, which `key` stands for.
 */
export class Ledger {
  readonly #path: string
  readonly #key: string
  readonly #done = new Map<string, Entry>()

  constructor(path: string, key: string, { fresh }: { fresh: boolean }) {
    this.#path = path
    this.#key = key
    mkdirSync(dirname(path), { recursive: true })
    if (!fresh) this.#read()
  }

  /** The unit's last ending, if it went well; what failed is to be run again. */
  find(unit: string): Entry | undefined {
    const entry = this.#done.get(unit)
    return entry?.failed === 0 ? entry : undefined
  }

  add(entry: Entry): void {
    this.#done.set(entry.unit, entry)
    appendFileSync(this.#path, `${JSON.stringify({ key: this.#key, ...entry })}\n`)
  }

  #read(): void {
    let text: string
    try {
      text = readFileSync(this.#path, 'utf8')
    } catch {
      return
    }
    for (const line of text.split('\n')) {
      try {
        const { key, ...entry } = JSON.parse(line) as Entry & { key: string }
        if (key === this.#key) this.#done.set(entry.unit, entry)
      } catch {
        // A line that was cut short: its unit is run again.
      }
    }
  }
}
