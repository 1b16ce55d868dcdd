import { Presets, SingleBar } from 'cli-progress'

/** Where progress goes: a bar on a terminal, plain lines elsewhere. Results go to standard output; this does not. */
export interface ProgressStream extends NodeJS.WritableStream {
  readonly isTTY?: boolean
}

export interface ProgressOptions {
  readonly stream?: ProgressStream
  /** Milliseconds; for tests. */
  readonly now?: () => number
  /** Least time between two plain lines. Default 1000. */
  readonly interval?: number
}

/** Shows how far something has come, and what else there is to say about it. */
export class Progress {
  readonly #label: string
  readonly #stream: ProgressStream
  readonly #now: () => number
  readonly #interval: number
  readonly #bar: SingleBar | null
  #started = false
  #first: { done: number; time: number } | null = null
  #lastLine = -Infinity
  #shown = ''

  constructor(label: string, options: ProgressOptions = {}) {
    this.#label = label
    this.#stream = options.stream ?? process.stderr
    this.#now = options.now ?? (() => performance.now())
    this.#interval = options.interval ?? 1000
    this.#bar = this.#stream.isTTY
      ? new SingleBar(
          {
            format: `${label} {bar} {value}/{total}{rest}`,
            stream: this.#stream,
            hideCursor: true,
            fps: 10,
            linewrap: false,
            gracefulExit: false,
          },
          Presets.shades_classic,
        )
      : null
  }

  /** @param facts such as 'loss 2.134' */
  update(done: number, total: number, facts: readonly string[] = []): void {
    const now = this.#now()
    this.#first ??= { done, time: now }
    const left = this.#timeLeft(done, total, now)
    const rest = [...facts, ...(left ? [left] : [])].map((fact) => `, ${fact}`).join('')
    if (this.#bar) {
      if (!this.#started) this.#bar.start(total, done, { rest })
      else {
        this.#bar.setTotal(total)
        this.#bar.update(done, { rest })
      }
      this.#started = true
      return
    }
    const line = `${this.#label} ${done}/${total}${rest}`
    const isDue = now - this.#lastLine >= this.#interval || done >= total
    if (!isDue || line === this.#shown) return
    this.#lastLine = now
    this.#shown = line
    this.#stream.write(`${line}\n`)
  }

  /** A line of its own, above the bar. */
  message(text: string): void {
    if (!this.#bar || !this.#started) this.#stream.write(`${text}\n`)
    else {
      // The bar ends by going back to where the cursor was saved: that is its new line from now on.
      this.#stream.write(`\r\u001b[K${text}\n\u001b7`)
      this.#bar.render()
    }
  }

  stop(): void {
    if (this.#started) this.#bar?.stop()
    this.#started = false
  }

  /** From the mean pace since the first update, which a resumed run does not start at 0. */
  #timeLeft(done: number, total: number, now: number): string | null {
    const first = this.#first!
    if (done <= first.done || done >= total) return null
    const seconds = ((now - first.time) / 1000 / (done - first.done)) * (total - done)
    return `${formatDuration(seconds)} left`
  }
}

/** 42 s, 3 min 5 s, 2 h 7 min */
export function formatDuration(seconds: number): string {
  const s = Math.max(0, Math.round(seconds))
  if (s < 60) return `${s} s`
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`
  return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`
}

/** 512 B, 3.4 MiB */
export function formatBytes(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let unit = 0
  let value = bytes
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 ? value : value.toFixed(1)} ${units[unit]}`
}
