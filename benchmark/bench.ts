/**
 * Measures polylora on this machine, beside transformers and PEFT where Python has them, and writes the figures to
 * docs/measurements as JSON and as a table.
 *
 *     npm run bench -- [--only kernels,step,peer,kinds,decode] [--dtype f32|bf16] [--quick]
 *         [--python PATH] [--threads N] [--output FOLDER]
 *
 * With --only, what the file of the same day has of other sections stays. With --quick nothing is written unless
 * --output says where: such figures are for trying, not for the record.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { format, resolveConfig } from 'prettier'
import { root } from '../scripts/bootstrap.mjs'
import { findProgram, parseOptions, run, ScriptError } from '../scripts/run.mjs'
import { Device } from '../lib/device.js'
import {
  type Case,
  type CaseFiles,
  cases,
  type DType,
  dtypes,
  quickCases,
  writeCase,
} from './cases.js'
import { measureKinds } from './kinds.js'
import {
  type BenchmarkRecord,
  type Circumstances,
  machine,
  type Peak,
  type Sections,
  underCircumstances,
} from './record.js'
import { report } from './report.js'
import {
  measureDecoding,
  measureKernels,
  measurePeak,
  measurePeer,
  measureSteps,
  type Setting,
} from './sections.js'

const sectionNames = ['kernels', 'step', 'peer', 'kinds', 'decode'] as const

const started = performance.now()
const say = (text: string) => {
  console.error(`${((performance.now() - started) / 1000).toFixed(0).padStart(4)} s  ${text}`)
}

function options() {
  const { values } = parseOptions({
    options: {
      only: { type: 'string' },
      dtype: { type: 'string' },
      quick: { type: 'boolean', default: false },
      python: { type: 'string' },
      threads: { type: 'string' },
      output: { type: 'string' },
    },
  })
  const only = values.only?.split(',') ?? [...sectionNames]
  for (const name of only)
    if (!(sectionNames as readonly string[]).includes(name))
      throw new ScriptError(`--only takes ${sectionNames.join(', ')}, not ${JSON.stringify(name)}`)
  const chosen = dtypes.filter((dtype) => values.dtype === undefined || values.dtype === dtype)
  if (chosen.length === 0)
    throw new ScriptError(`--dtype takes ${dtypes.join(' or ')}, not ${values.dtype}`)
  if (values.threads !== undefined && !/^[1-9]\d{0,3}$/.test(values.threads))
    throw new ScriptError(`--threads takes a whole number from 1, not ${values.threads}`)
  return { ...values, only: new Set(only), chosen }
}

/** A Python that imports torch, transformers and PEFT, or null. */
async function findPeer(asked: string | undefined): Promise<string | null> {
  const named = asked ?? process.env.PYTHON
  const python = findProgram(named ?? 'python3')
  const { code } = python
    ? await run(python, ['-c', 'import torch, transformers, peft'], { quiet: true })
    : { code: 1 }
  if (code === 0) return python!
  if (named !== undefined)
    throw new ScriptError(`${named} is no Python that imports torch, transformers and peft`)
  say('no Python with torch, transformers and peft: there is nothing to compare with')
  return null
}

async function main(): Promise<void> {
  const { only, chosen, quick, ...given } = options()
  const device = Device.open('cpu')
  const { threads: available, instructionSet } = device.info
  await device.close()
  const threads = given.threads === undefined ? available : Number(given.threads)
  const needsPeer = ['peer', 'kinds', 'decode'].some((name) => only.has(name))
  const python = needsPeer ? await findPeer(given.python) : null
  const folder = mkdtempSync(join(tmpdir(), 'polylora-bench-'))
  const made = new Map<string, Promise<CaseFiles>>()
  const peaks = new Map<number, Peak>()
  const versions: Record<string, string> = {}
  const circumstances: Partial<Record<keyof Sections, Circumstances>> = {}
  const sections: Partial<Sections> = {}
  const common = {
    cases: quick ? quickCases : cases,
    dtypes: chosen,
    quick,
    threads,
    instructionSet,
    python,
    say,
    versions: (told: Readonly<Record<string, string>>) => Object.assign(versions, told),
    files: (one: Case, dtype: DType) => {
      const name = `${one.name}-${dtype}`
      if (!made.has(name)) made.set(name, writeCase(one, dtype, join(folder, name)))
      return made.get(name)!
    },
  }
  const output = given.output ?? (quick ? null : join(root, 'docs/measurements'))
  const record = (): BenchmarkRecord => ({
    date: new Date().toISOString().slice(0, 10),
    ...machine(),
    threads,
    versions,
    peaks: [...peaks.values()],
    circumstances,
    sections,
  })
  const measure = async <Name extends keyof Sections>(
    name: Name,
    body: () => Promise<Sections[Name]>,
  ) => {
    if (!only.has(name)) return
    const measured = await underCircumstances(body)
    sections[name] = measured.result
    circumstances[name] = measured.circumstances
    // What a section has found outlives a stop in the next.
    if (output !== null) await write(record(), output)
  }
  try {
    await measure('kernels', () =>
      measureKernels(common, (peak) => {
        peaks.set(peak.threads, peak)
      }),
    )
    if (!peaks.has(threads)) peaks.set(threads, await measurePeak(threads, instructionSet))
    const peak = peaks.get(threads)!
    const rates = {
      fma: peak.fmaFlopsPerThread * threads,
      dot: peak.dotFlopsPerThread * threads,
      read: peak.readBytes,
    }
    const setting: Setting = { ...common, rates }
    await measure('step', () => measureSteps(setting))
    if (python !== null) await measure('peer', () => measurePeer(setting))
    await measure('kinds', () => measureKinds(setting))
    await measure('decode', () => measureDecoding(setting))
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
  if (output === null) console.log(report(record()))
  else say(`written to ${pathOf(record(), output)}.json and .md`)
}

/** The files of a processor's day, without their endings. */
function pathOf({ date, processor }: BenchmarkRecord, folder: string): string {
  return join(folder, `${date}-${processor.toLowerCase().replace(/[^a-z0-9]+/g, '-')}`)
}

/** Writes the record and its table beside what the same day has of other sections. */
async function write(record: BenchmarkRecord, folder: string): Promise<void> {
  const path = pathOf(record, folder)
  const merged = merge(readRecord(`${path}.json`), record)
  mkdirSync(folder, { recursive: true })
  for (const [file, content] of [
    [`${path}.json`, JSON.stringify(merged)],
    [`${path}.md`, report(merged)],
  ]) {
    const style = await resolveConfig(file)
    writeFileSync(file, await format(content, { ...style, filepath: file }))
  }
}

function readRecord(path: string): BenchmarkRecord | null {
  try {
    return JSON.parse(readFileSync(path, 'utf8')) as BenchmarkRecord
  } catch {
    return null
  }
}

function merge(old: BenchmarkRecord | null, now: BenchmarkRecord): BenchmarkRecord {
  if (old?.processor !== now.processor || old.threads !== now.threads) return now
  const peaks = new Map([...old.peaks, ...now.peaks].map((peak) => [peak.threads, peak]))
  return {
    ...now,
    versions: { ...old.versions, ...now.versions },
    peaks: [...peaks.values()].toSorted((a, b) => a.threads - b.threads),
    circumstances: { ...old.circumstances, ...now.circumstances },
    sections: { ...old.sections, ...now.sections },
  }
}

main().catch((error: unknown) => {
  console.error(error instanceof ScriptError ? `polylora: ${error.message}` : error)
  process.exitCode = 1
})
