/** Files that are damaged, or that were made to do harm: a typed error with file and reason, soon, in little memory. */

import { createHash } from 'node:crypto'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { errorCodes, isPolyloraError } from '../../lib/errors.js'
import { chance, type Part, pick, type Round } from './part.js'
import { type HostileFile, type Kind } from './kind.js'
import { modelFileKinds } from './model-files.js'
import { bombs, textFileKinds } from './text-files.js'
import type { Random } from '../random.js'

/** What a hostile file may cost; of the processor, since others may be at it too. */
const mostCpuMs = 5_000
const mostMs = 60_000
const mostMiB = 300

/** What refuses a file: its name and the reason are in the message. */
const codes: readonly string[] = [
  errorCodes.FormatError,
  errorCodes.ConfigError,
  errorCodes.DataError,
  errorCodes.ShapeError,
  errorCodes.DTypeError,
  errorCodes.OutOfMemoryError,
]

/** What is wrong with how `file` was dealt with; null: nothing. */
export async function problemOf(
  file: HostileFile,
  parent: string,
  slowness: number,
): Promise<string | null> {
  const folder = mkdtempSync(join(parent, 'file-'))
  for (const [name, content] of Object.entries(file.files)) {
    mkdirSync(dirname(join(folder, name)), { recursive: true })
    writeFileSync(join(folder, name), content)
  }
  // The folder beside is where the process is: a relative path leads there.
  const names = () => [...readdirSync(parent), ...readdirSync('.')].join()
  const [before, namesBefore] = [snapshot(folder), names()]
  const memory = new PeakMemory()
  const start = performance.now()
  const startCpu = process.cpuUsage()
  let problem: string | null = null
  try {
    await file.open(folder)
    if (file.expected === 'refused') problem = 'was taken for a good one'
  } catch (error) {
    problem =
      file.expected === 'taken'
        ? `was refused: ${String(error)}`
        : problemWithError(error, folder, file)
  }
  const ms = performance.now() - start
  const { user, system } = process.cpuUsage(startCpu)
  const cpuMs = (user + system) / 1000
  const grown = memory.grownMiB()
  if (ms > mostMs * slowness || cpuMs > mostCpuMs * slowness)
    problem ??= `took ${Math.round(ms)} ms, ${Math.round(cpuMs)} of the processor`
  if (grown > mostMiB * Math.min(slowness, 4)) problem ??= `took ${Math.round(grown)} MiB of memory`
  if (snapshot(folder) !== before)
    problem ??= `changed the folder, which holds ${readdirSync(folder).join(', ')}`
  if (names() !== namesBefore) problem ??= `wrote beside the folder: ${names()}`
  rmSync(folder, { recursive: true, force: true })
  return problem
}

function problemWithError(error: unknown, folder: string, file: HostileFile): string | null {
  if (!isPolyloraError(error))
    return `not a typed error: ${(error as Error).stack ?? String(error)}`
  // It is the text that is refused then.
  if (/too long for this tokenizer/.test(error.message)) return null
  const said = `${error.name}: ${error.message}`
  if (!codes.includes(error.code)) return `an error of another kind: ${said}`
  if (
    !error.message.includes(basename(folder)) &&
    !JSON.stringify(error.details).includes(basename(folder))
  )
    return `an error that does not name the file: ${said}`
  if (file.reason && !file.reason.test(error.message))
    return `not the reason expected (${String(file.reason)}): ${said}`
  return null
}

/** Every name below the folder, with what is in it. */
function snapshot(folder: string): string {
  const hash = createHash('sha256')
  for (const entry of readdirSync(folder, { recursive: true, withFileTypes: true }))
    hash
      .update(`${join(entry.parentPath, entry.name)}\0`)
      .update(entry.isFile() ? readFileSync(join(entry.parentPath, entry.name)) : '')
  return hash.digest('hex')
}

/** By how much the resident memory of this process grew at its highest. */
class PeakMemory {
  readonly #start: number

  constructor() {
    try {
      // The peak counts from here.
      writeFileSync('/proc/self/clear_refs', '5')
    } catch {
      // Where that is not allowed the peak is that of the process, and only a growth of it is seen.
    }
    this.#start = statusMiB('VmHWM')
  }

  grownMiB(): number {
    return statusMiB('VmHWM') - this.#start
  }
}

function statusMiB(field: string): number {
  const line = new RegExp(`^${field}:\\s+(\\d+) kB$`, 'm').exec(
    readFileSync('/proc/self/status', 'utf8'),
  )
  return Number(line![1]) / 1024
}

// ---- Damage ----

const truncated = (bytes: Buffer, length: number): Buffer => bytes.subarray(0, length)

function flipped(bytes: Buffer, random: Random): Buffer {
  const copy = Buffer.from(bytes)
  for (let flips = chance(random, 0.7) ? 1 : 3; flips > 0; --flips)
    copy[random.integer(copy.length)] ^= 1 << random.integer(8)
  return copy
}

const hostileValues: readonly unknown[] = [
  null,
  true,
  -1,
  0,
  1,
  0.5,
  2 ** 31,
  2 ** 53,
  1e308,
  '',
  'x',
  '../../etc/passwd',
  '\0',
  '(a+)+$',
  '$.^[',
  [],
  {},
  [[]],
  [null],
  [1, 2, 3],
  { __proto__: null, type: 'x' },
  'x'.repeat(5000),
  Array.from({ length: 5000 }, () => 1),
]

/** A copy of a JSON document in which one thing is another, missing, or nested without end. */
function changed(document: unknown, random: Random): unknown {
  if (
    typeof document === 'object' &&
    document !== null &&
    Object.keys(document).length > 0 &&
    chance(random, 0.8)
  ) {
    const copy = (
      Array.isArray(document) ? [...(document as unknown[])] : { ...document }
    ) as Record<string, unknown>
    const key = pick(random, Object.keys(copy))
    const how = random.next()
    if (how < 0.8) copy[key] = changed(copy[key], random)
    else if (how < 0.9) Reflect.deleteProperty(copy, key)
    else copy[pick(random, ['constructor', 'unknown', '99'])] = pick(random, hostileValues)
    return copy
  }
  if (typeof document === 'number' && chance(random, 0.5))
    return pick(random, [document + 1, -document, document * 1000, document / 2])
  return pick(random, hostileValues)
}

/** `kind`'s good files with one of them damaged. */
function damaged(kind: Kind, random: Random): HostileFile {
  const good = kind.good()
  const bytes = Buffer.from(good[kind.file])
  const isJson = kind.file.endsWith('.json')
  const how = random.next()
  const [what, content] =
    isJson && how < 0.6
      ? ['changed', JSON.stringify(changed(JSON.parse(bytes.toString()), random))]
      : how < 0.7
        ? ['truncated', truncated(bytes, random.integer(bytes.length))]
        : ['flipped', flipped(bytes, random)]
  return {
    what,
    files: { ...good, [kind.file]: content },
    open: (folder) => kind.open(folder),
    expected: 'either',
  }
}

async function examine(
  file: HostileFile,
  { folder, note, slowness }: Round,
  where: string,
): Promise<void> {
  note(() => `${where}: ${file.what}`)
  const problem = await problemOf(file, folder, slowness)
  if (problem === null) return
  for (const [name, content] of Object.entries(file.files))
    if (content.length < 3000)
      console.error(`${name}: ${JSON.stringify(Buffer.from(content).toString('latin1'))}`)
  throw new Error(`${where}, ${file.what}: ${problem}`)
}

export function fileParts(): Part[] {
  return [...modelFileKinds, ...textFileKinds]
    .flatMap((kind): Part[] => [
      {
        name: `file ${kind.name} made to do harm`,
        rounds: 1,
        run: async (round) => {
          // What is refused below is refused for its damage.
          await examine(
            {
              what: 'as it is',
              files: kind.good(),
              open: (folder) => kind.open(folder),
              expected: kind.unreadable === undefined ? 'taken' : 'either',
            },
            round,
            kind.name,
          )
          const list = kind.hostile()
          for (const file of round.calls === undefined ? list : list.slice(0, round.calls))
            await examine(file, round, kind.name)
        },
      },
      {
        name: `file ${kind.name} damaged`,
        rounds: Math.ceil(kind.damages / 250),
        run: async (round) => {
          const count = round.calls ?? Math.min(250, kind.damages)
          for (let i = 0; i < count; ++i)
            await examine(damaged(kind, round.random), round, kind.name)
        },
      },
      ...(kind.everyTruncation
        ? [
            {
              name: `file ${kind.name} truncated everywhere`,
              rounds: 1,
              run: async (round: Round) => {
                const good = kind.good()
                const bytes = Buffer.from(good[kind.file])
                const step = Math.ceil(bytes.length / (round.calls ?? Infinity)) || 1
                for (let length = 0; length < bytes.length; length += step)
                  await examine(
                    {
                      what: `${length} bytes`,
                      files: { ...good, [kind.file]: truncated(bytes, length) },
                      open: (folder) => kind.open(folder),
                      expected: 'refused',
                    },
                    round,
                    kind.name,
                  )
              },
            },
          ]
        : []),
    ])
    .concat({
      name: 'file bombs',
      rounds: 1,
      run: async (round) => {
        for (const file of bombs()) await examine(file, round, 'bombs')
      },
    })
}
