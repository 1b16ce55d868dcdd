// Running programs: quietly, with their output shown only if they fail.
import { spawn } from 'node:child_process'
import { accessSync, constants, statSync } from 'node:fs'
import { delimiter, isAbsolute, join } from 'node:path'
import { parseArgs } from 'node:util'

/** A failure whose message says everything the user needs: no stack is printed for it. */
export class ScriptError extends Error {
  name = 'ScriptError'
}

/** As parseArgs; a command line that does not fit is a ScriptError, which names the options that there are. */
export const parseOptions = /** @type {typeof parseArgs} */ (
  (config) => {
    try {
      return parseArgs(config)
    } catch (error) {
      if (!String(error?.code).startsWith('ERR_PARSE_ARGS')) throw error
      const names = Object.keys(config?.options ?? {}).map((name) => `--${name}`)
      throw new ScriptError(`${error.message.split('.')[0]}; the options are ${names.join(', ')}.`)
    }
  }
)

/**
 * An option's text as a whole number; anything else is a ScriptError.
 *
 * @param {string} name
 * @param {string} text
 * @param {number} [least]
 */
export function wholeNumber(name, text, least = 0) {
  const value = /^\d{1,15}$/.test(text) ? Number(text) : NaN
  if (value >= least) return value
  throw new ScriptError(`${name} takes a whole number from ${least}, not ${JSON.stringify(text)}.`)
}

/** The path of a program on PATH, or undefined. */
export function findProgram(name) {
  const candidates = isAbsolute(name)
    ? [name]
    : (process.env.PATH ?? '').split(delimiter).map((folder) => join(folder, name))
  return candidates.find((candidate) => {
    try {
      accessSync(candidate, constants.X_OK)
      return statSync(candidate).isFile()
    } catch {
      return false
    }
  })
}

/**
 * Runs a program. With `quiet`, its output is kept and returned; otherwise it goes to the terminal.
 * Resolves to `{ code, signal, output }`, whatever the program's end.
 *
 * @param {string} command
 * @param {readonly string[]} args
 * @param {{ cwd?: string, env?: NodeJS.ProcessEnv, quiet?: boolean, adopt?: (pid: number | null) => void,
 *   timeoutMs?: number }} [options]
 * @returns {Promise<{ code: number | null, signal: string | null, output: string }>}
 */
export function run(command, args, { cwd, env, quiet = false, adopt, timeoutMs } = {}) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, {
      cwd,
      env: env ?? process.env,
      stdio: quiet ? ['ignore', 'pipe', 'pipe'] : ['ignore', 'inherit', 'inherit'],
      timeout: timeoutMs,
      killSignal: 'SIGKILL',
    })
    const chunks = []
    child.stdout?.on('data', (chunk) => chunks.push(chunk))
    child.stderr?.on('data', (chunk) => chunks.push(chunk))
    child.on('error', reject)
    child.on('close', (code, signal) => {
      adopt?.(null)
      resolve({ code, signal, output: Buffer.concat(chunks).toString() })
    })
    if (child.pid !== undefined) adopt?.(child.pid)
  })
}

/** Runs a program quietly; a failure shows the end of its output and `sentence`. */
export async function runOrFail(sentence, command, args, options = {}) {
  const { code, signal, output } = await run(command, args, { ...options, quiet: true })
  if (code === 0) return output
  const lines = output.trimEnd().split('\n')
  const shown = lines.slice(-80)
  if (shown.length < lines.length) shown.unshift(`(${lines.length - shown.length} earlier lines)`)
  throw new ScriptError(
    `${shown.join('\n')}\n${sentence} (${signal ? `ended by ${signal}` : `exit code ${code}`}).`,
  )
}

/** Runs a script's main function: its failure is printed and becomes the exit code. */
export function runMain(main) {
  main().catch((error) => {
    console.error(error instanceof ScriptError ? `polylora: ${error.message}` : error)
    process.exitCode = 1
  })
}
