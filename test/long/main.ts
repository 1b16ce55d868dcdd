/**
 * npm run test:long -- [--only TEXT] [--fresh] [--seed N] [--jobs N] [--list]
 *
 * Everything that takes too long for npm test: faults, endurance and the plan of a million items at full length, then the
 * whole fuzz, as it is and under the sanitizers (under ThreadSanitizer without the files). What has gone well is written
 * down in build/long-tests.jsonl, so that a run that was stopped goes on where it was, as long as the sources are the
 * same.
 *
 *   --only TEXT  the units whose names contain this: 'faults', 'endurance', 'fuzz', 'asan', 'tsan', 'run matmul'
 *   --fresh      all of them again
 *   --list       their names
 */

import { spawn } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { availableParallelism, cpus, loadavg, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { type Entry, Ledger, runUnit, unitsNamed } from '../../scripts/ledger.mjs'
import { parseOptions, wholeNumber } from '../../scripts/run.mjs'
import { hashInputs } from '../../scripts/stamp.mjs'
import { closingLine, isSuccess, sum } from '../../scripts/totals.mjs'
import { allParts } from '../fuzz/parts.js'
import type { Part } from '../fuzz/part.js'
import { type FuzzOptions, fuzzOptions, problemsOf } from '../fuzz/runner.js'
import type { Sanitizer } from '../fuzz/sanitizer.js'

const root = fileURLToPath(new URL('../..', import.meta.url))

type Totals = Pick<Entry, 'passed' | 'failed' | 'skipped'>

interface Unit {
  readonly name: string
  /** Whether nothing may run beside it, since it measures. */
  readonly alone: boolean
  run(): Promise<Totals>
}

const { values } = parseOptions({
  options: {
    only: { type: 'string', default: '' },
    fresh: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    seed: { type: 'string', default: '1' },
    jobs: { type: 'string', default: String(availableParallelism()) },
  },
})
const seed = wholeNumber('--seed', values.seed)
const jobs = wholeNumber('--jobs', values.jobs, 1)

// ---- Faults and endurance ----

async function mocha(file: string, ...args: string[]): Promise<number | null> {
  const running = spawn(process.execPath, ['node_modules/mocha/bin/mocha.js', file, ...args], {
    cwd: root,
    env: { ...process.env, POLYLORA_FULL: '1' },
    stdio: ['ignore', 'inherit', 'inherit'],
  })
  return new Promise((resolve, reject) => {
    running.on('error', reject)
    running.on('close', (code) => {
      resolve(code)
    })
  })
}

/** Hands a file's name to `use`, and gives back what is in it afterwards. */
async function contentMadeBy(use: (file: string) => Promise<unknown>): Promise<string> {
  const folder = mkdtempSync(join(tmpdir(), 'polylora-long-'))
  try {
    await use(join(folder, 'output'))
    return readFileSync(join(folder, 'output'), 'utf8')
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** A unit a test. @param part of the titles of those that are meant */
async function mochaUnits(file: string, part?: string): Promise<Unit[]> {
  const filter = part === undefined ? [] : ['--fgrep', part]
  const json = ['--reporter', 'json', '--reporter-option']
  const list = await contentMadeBy((output) =>
    mocha(file, '--dry-run', ...filter, ...json, `output=${output}`),
  )
  const { tests } = JSON.parse(list) as { tests: { fullTitle: string }[] }
  return tests.map(({ fullTitle }) => ({
    name: fullTitle,
    alone: true,
    async run() {
      const totals = await contentMadeBy((output) =>
        mocha(
          file,
          '--fgrep',
          fullTitle,
          '--reporter',
          'scripts/mocha-reporter.mjs',
          '--reporter-option',
          `totals=${output}`,
        ),
      )
      return JSON.parse(totals) as Totals
    },
  }))
}

// ---- Fuzz ----

function fuzzUnit(part: Part, sanitizer: Sanitizer | undefined, options: () => FuzzOptions): Unit {
  return {
    name: `${sanitizer ?? 'fuzz'}: ${part.name}`,
    alone: false,
    async run() {
      const problems = await problemsOf(part, [0, part.rounds], options())
      for (const problem of problems) console.log(problem.replaceAll(/^/gm, '    '))
      return problems.length === 0
        ? { passed: 1, failed: 0, skipped: 0 }
        : { passed: 0, failed: 1, skipped: 0 }
    },
  }
}

/**
 * All parts; under ThreadSanitizer those that have threads of ours. It takes memory of each thread's stack, more than
 * Node's workers keep free of JavaScript, so that a template that calls itself without end runs over the end there.
 */
function fuzzUnits(sanitizer: Sanitizer | undefined): Unit[] {
  let options: FuzzOptions | undefined
  return allParts()
    .filter(({ name }) => sanitizer !== 'tsan' || !name.startsWith('file '))
    .map((part) => fuzzUnit(part, sanitizer, () => (options ??= fuzzOptions(seed, sanitizer))))
}

// ---- All ----

async function main(): Promise<void> {
  const all = [
    ...(await mochaUnits('test/faults/faults.test.ts')),
    ...(await mochaUnits('test/endurance/endurance.test.ts')),
    ...(await mochaUnits('test/data/balance/plan.test.ts', 'a million items')),
    ...fuzzUnits(undefined),
    ...fuzzUnits('asan'),
    ...fuzzUnits('tsan'),
  ]
  const units = unitsNamed(all, values.only)
  if (values.list) {
    for (const { name } of units) console.log(name)
    return
  }
  const sources = ['src', 'lib', 'test', 'scripts', 'CMakeLists.txt', 'package-lock.json']
  const ledger = new Ledger(
    join(root, 'build/long-tests.jsonl'),
    hashInputs(root, sources, String(seed)),
    { fresh: values.fresh },
  )
  const done = units.filter(({ name }) => ledger.find(name)).length
  console.log(
    `${units.length} units, of which ${done} are done; seed ${seed}; ${cpus()[0].model}, ${availableParallelism()} processors, load ${loadavg()[0].toFixed(1)}`,
  )
  const entries: Entry[] = []
  for (const unit of units.filter(({ alone }) => alone)) entries.push(await runUnit(unit, ledger))
  const waiting = units.filter(({ alone }) => !alone)
  const lane = async () => {
    for (let unit = waiting.shift(); unit !== undefined; unit = waiting.shift())
      entries.push(await runUnit(unit, ledger))
  }
  await Promise.all(Array.from({ length: jobs }, lane))
  const minutes = (key: 'seconds' | 'cpuSeconds') =>
    (entries.reduce((sum, entry) => sum + entry[key], 0) / 60).toFixed(1)
  console.log(
    `${minutes('cpuSeconds')} minutes of the processor; ${minutes('seconds')} minutes of units, side by side or not`,
  )
  const totals = sum(entries)
  if (!isSuccess(totals)) process.exitCode = 1
  console.log(closingLine(totals))
}

await main()
