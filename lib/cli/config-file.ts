import { LineCounter, parse as parseYaml, parseDocument } from 'yaml'
import { readFile, stat } from 'node:fs/promises'
import { ConfigError } from '../errors.js'

const fileCap = 1 << 20

/** The value in a YAML file. @throws ConfigError with file, line and column */
export async function readYaml(path: string): Promise<unknown> {
  let text: string
  try {
    const info = await stat(path)
    if (!info.isFile()) throw new Error('it is not a file')
    if (info.size > fileCap)
      throw new Error(`it has ${info.size} bytes, at most ${fileCap} are allowed`)
    text = await readFile(path, 'utf8')
  } catch (cause) {
    throw new ConfigError(
      `${path}: the configuration cannot be read: ${(cause as Error).message}`,
      {
        cause,
        details: { file: path },
      },
    )
  }
  const lineCounter = new LineCounter()
  const document = parseDocument(text, { lineCounter, prettyErrors: false })
  const problem = document.errors[0] ?? document.warnings[0]
  if (problem) {
    const { line, col } = lineCounter.linePos(problem.pos[0])
    throw new ConfigError(`${path}:${line}:${col}: ${problem.message}`, {
      cause: problem,
      details: { file: path, line, column: col },
    })
  }
  try {
    return document.toJS({ maxAliasCount: 100 }) as unknown
  } catch (cause) {
    throw new ConfigError(`${path}: ${(cause as Error).message}`, {
      cause,
      details: { file: path },
    })
  }
}

/** A key in dotted form and the value that it is given on the command line. */
export interface Override {
  readonly key: string
  readonly value: unknown
}

/** `optimizer.learningRate=1e-4`; the value is YAML. @throws ConfigError */
export function parseOverride(text: string): Override {
  const at = text.indexOf('=')
  if (at < 1)
    throw new ConfigError(
      `--set takes KEY=VALUE, such as optimizer.learningRate=1e-4, not ${JSON.stringify(text)}`,
      { details: { key: '--set', received: text } },
    )
  const key = text.slice(0, at)
  try {
    return { key, value: parseYaml(text.slice(at + 1), { maxAliasCount: 0 }) as unknown }
  } catch (cause) {
    throw new ConfigError(
      `--set ${key}: the value ${JSON.stringify(text.slice(at + 1))} is not YAML: ${firstLine(cause)}`,
      { cause, details: { key, received: text.slice(at + 1) } },
    )
  }
}

/**
 * A copy of `config` with the overrides in it; later ones win. Objects on the way are made, lists must be there.
 *
 * @throws ConfigError if a key leads through something that is neither
 */
export function applyOverrides(config: unknown, overrides: readonly Override[]): unknown {
  const holder = { config: structuredClone(config) }
  for (const { key, value } of overrides) {
    const names = ['config', ...key.split('.')]
    let parent: object = holder
    for (const [depth, name] of names.slice(0, -1).entries()) {
      const path = names.slice(1, depth + 1).join('.') || 'the configuration'
      const held = own(parent, name) ?? {}
      if (typeof held !== 'object')
        throw new ConfigError(`${key} cannot be set: ${path} is ${JSON.stringify(held)}`, {
          details: { key, received: held },
        })
      const next = names[depth + 1]
      if (Array.isArray(held) && !(/^\d+$/.test(next) && Number(next) <= held.length))
        throw new ConfigError(
          `${key} cannot be set: ${JSON.stringify(next)} is no place in ${path}, a list of ${held.length}`,
          { details: { key, received: next } },
        )
      put(parent, name, held)
      parent = held
    }
    put(parent, names.at(-1)!, value)
  }
  return holder.config
}

// Own properties alone: a key may be called __proto__.
function own(parent: object, name: string): unknown {
  return Object.hasOwn(parent, name) ? (parent as Record<string, unknown>)[name] : undefined
}

function put(parent: object, name: string, value: unknown): void {
  Object.defineProperty(parent, name, {
    value,
    writable: true,
    enumerable: true,
    configurable: true,
  })
}

function firstLine(error: unknown): string {
  return (error as Error).message.split('\n', 1)[0]
}
