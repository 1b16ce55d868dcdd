import { type ChildProcess, spawn } from 'node:child_process'
import { existsSync } from 'node:fs'

const main = new URL('../../dist/cli/main.js', import.meta.url).pathname

export interface Finished {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

export interface Running {
  readonly child: ChildProcess
  /** Standard error so far. */
  stderr(): string
  /** Resolves when standard error matches; rejects if the process ends before. */
  says(pattern: RegExp): Promise<void>
  readonly finished: Promise<Finished>
}

/** The command line as a process of its own, from what `npm run build` compiled. */
export function start(args: readonly string[], cwd: string): Running {
  if (!existsSync(main)) throw new Error('dist/cli/main.js is not there: npm run build first')
  const child = spawn(process.execPath, [main, ...args], {
    cwd,
    stdio: ['ignore', 'pipe', 'pipe'],
    env: { ...process.env, POLYLORA_DEBUG: '' },
  })
  let [stdout, stderr] = ['', '']
  child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text))
  child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text))
  const finished = new Promise<Finished>((resolve, reject) => {
    child.on('error', reject)
    child.on('close', (code, signal) => {
      resolve({ code, signal, stdout, stderr })
    })
  })
  return {
    child,
    finished,
    stderr: () => stderr,
    says: (pattern) =>
      new Promise((resolve, reject) => {
        const check = () => {
          if (pattern.test(stderr)) resolve()
        }
        child.stderr.on('data', check)
        child.on('close', () => {
          reject(new Error(`it ended without saying ${pattern}: ${stderr}`))
        })
        check()
      }),
  }
}

export function polylora(args: readonly string[], cwd: string): Promise<Finished> {
  return start(args, cwd).finished
}
