import { join } from 'node:path'
import { EmbeddingMemory } from '../data/balance/embedding.js'
import { Device } from '../device.js'
import { ConfigError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import { Model } from '../model.js'
import { modelFingerprint } from '../train/model-fingerprint.js'
import { fitPlan, type Speed, secondsOf } from './budget.js'
import { Laboratory, type LaboratoryOptions } from './laboratory.js'
import type { LawName } from './arms/law.js'
import { base } from './procedure.js'
import {
  jobsOf,
  makePlan,
  planHash,
  type PlanInputs,
  referenceSets,
  type StudyPlan,
  type Workload,
  workloadOf,
} from './plan.js'
import { type ArmRuns, judge } from './results.js'
import { type RunRecord, writeWhole } from './run-record.js'
import { measureSpeed } from './speed.js'
import type { StudyConfig } from './study-config.js'
import { prepareData, type StudyData } from './study-data.js'
import { StudyFolder } from './study-folder.js'
import type { StudyResults } from './study-results.js'
import { surveyCorpus } from './survey.js'
import { type Transfer, transferOf } from './transfer.js'

export interface StudyOptions {
  readonly signal?: AbortSignal
  /** Before the first run. */
  readonly onPlan?: (plan: StudyPlan, workload: Workload, seconds: number) => void
  /** Runs that are done, of those that are planned. */
  readonly onProgress?: (done: number, total: number, facts: readonly string[]) => void
  readonly onMessage?: (message: string) => void
}

export type { StudyResults } from './study-results.js'

const resultsName = 'results.json'
const speedName = 'speed.json'
const reportName = 'report.html'
const summaryName = 'summary.md'
/** A file for `data.mixing.transfer`. */
const transferName = 'transfer.json'
const resultsCap = 1 << 30

/**
 * Plans a study, runs what has not been run yet, and writes results.json, report.html, and its tables as summary.md. The plan (arms, contrasts, delta,
 * preconditions) is written and hashed before the first run; a study that was stopped goes on with the plan it had.
 *
 * @throws ConfigError, DataError in one sentence before any run; AbortedError after a signal, with all finished runs kept
 */
export async function runStudy(
  config: StudyConfig,
  options: StudyOptions = {},
): Promise<StudyResults> {
  const { signal } = options
  using folder = await StudyFolder.open(config, 'study')
  const output = folder.path
  const device = Device.open(config.device, { threads: config.threads })
  try {
    await using model = await Model.load(config.model, { device, dtype: config.dtype, signal })
    const saved = await savedPlan(output)
    const memory = new EmbeddingMemory()
    const { plan, data, speed } = await settlePlan(config, model, saved, memory, options)
    const hash = planHash(plan)
    if (saved && planHash(saved) !== hash)
      throw new ConfigError(
        `${output} holds a study of another plan: ${firstDifference(saved, plan)}; restore it, or choose another output folder`,
        { details: { path: output } },
      )
    const workload = workloadOf(plan, data)
    options.onPlan?.(plan, workload, secondsOf(workload, speed))
    for (const note of data.notes) options.onMessage?.(note)
    const planned = { planHash: hash, plan, notes: data.notes, laws: [], arms: {}, runs: {} }
    if (!saved) await writeResults(output, { ...planned, status: 'planned' })
    const { tokenizer } = model
    const laboratory = { config, data, device, memory, tokenizer }
    const { base, arms, records } = await carryOut(laboratory, plan, workload, options)
    const laws = judge(plan, data, arms)
    const transfer = transferBetween(plan, data, arms, base)
    const results: StudyResults = {
      ...planned,
      status: 'finished',
      laws,
      ...(transfer ? { transfer } : {}),
      arms: idsOf(arms),
      runs: runsOf(records),
    }
    await writeResults(output, results)
    // Charts take a moment to load, and most programs draw none.
    const { reportPage, summaryMarkdown } = await import('./report/index.js')
    const inputs = { config, plan, data, laws, arms, records, base, device: device.info }
    await writeWhole(join(output, reportName), reportPage(inputs))
    await writeWhole(join(output, summaryName), summaryMarkdown(results))
    if (transfer) await writeWhole(join(output, transferName), `${JSON.stringify(transfer)}\n`)
    return results
  } finally {
    await device.close()
  }
}

async function savedPlan(output: string): Promise<StudyPlan | null> {
  const path = join(output, resultsName)
  if ((await nodeFileSystem.inspect(path)) === null) return null
  const { plan } = (await readJsonFile(path, resultsCap)) as Partial<StudyResults>
  if (plan?.version === 1) return plan
  throw new ConfigError(`${path} holds no plan of a study; choose another output folder`, {
    details: { path },
  })
}

/** Reads the data and sizes the plan: from the machine's speed, or as it was. */
async function settlePlan(
  config: StudyConfig,
  model: Model,
  saved: StudyPlan | null,
  memory: EmbeddingMemory,
  { signal, onMessage }: StudyOptions,
): Promise<{ plan: StudyPlan; data: StudyData; speed: Speed }> {
  const folder = join(config.output, 'data')
  const read = (items?: number) => prepareData(config, model, folder, { items, signal })
  const fingerprint = await modelFingerprint(config.model)
  const data = await read(saved?.size.items)
  const survey = config.laws.includes('balance')
    ? await surveyCorpus(config, model, data, {
        modelFingerprint: fingerprint,
        memory,
        signal,
        onMessage,
      })
    : null
  const inputs = (data: StudyData): PlanInputs => ({
    config,
    data,
    model: model.config,
    modelFingerprint: fingerprint,
    survey,
  })
  const speed = await speedOf(config, model, data, { signal, onMessage })
  if (saved) return { data, speed, plan: makePlan(inputs(data), saved.size, saved.cuts) }
  const { plan } = fitPlan(inputs(data), speed)
  if (!plan.cuts.some((cut) => cut.startsWith('items'))) return { data, speed, plan }
  const fewer = await read(plan.size.items)
  return { data: fewer, speed, plan: makePlan(inputs(fewer), plan.size, plan.cuts) }
}

/** Measured once: a study that goes on need not wait for it again. */
async function speedOf(
  config: StudyConfig,
  model: Model,
  data: StudyData,
  { signal, onMessage }: StudyOptions,
): Promise<Speed> {
  const path = join(config.output, speedName)
  if (await nodeFileSystem.inspect(path)) return (await readJsonFile(path, 1 << 16)) as Speed
  onMessage?.('measuring the speed of this machine')
  const speed = await measureSpeed(model, config, data, signal)
  await writeWhole(path, `${JSON.stringify(speed)}\n`)
  return speed
}

async function carryOut(
  equipment: Pick<LaboratoryOptions, 'config' | 'data' | 'device' | 'memory' | 'tokenizer'>,
  plan: StudyPlan,
  workload: Workload,
  { signal, onProgress, onMessage }: StudyOptions,
): Promise<{
  base: RunRecord
  arms: Map<LawName, Map<string, RunRecord[]>>
  records: readonly RunRecord[]
}> {
  const { config, data } = equipment
  let done = 0
  const counts = { failed: 0, diverged: 0 }
  const laboratory = new Laboratory({
    ...equipment,
    folder: config.output,
    signal,
    onMessage,
    onRun: ({ status }) => {
      if (status !== 'finished') counts[status]++
      const facts = Object.entries(counts).flatMap(([what, count]) =>
        count > 0 ? [`${count} ${what}`] : [],
      )
      onProgress?.(Math.min(++done, workload.runs), workload.runs, facts)
    },
  })
  const jobs = jobsOf(plan, data)
  for (const { procedure } of jobs) laboratory.announce(procedure)
  const reference = await laboratory.run(base, config.seed, referenceSets(data))
  const arms = new Map<LawName, Map<string, RunRecord[]>>(
    plan.laws.map((law) => [law.name, new Map(law.arms.map((arm) => [arm.name, []]))]),
  )
  for (const { law, arm, procedure, seed, sets } of jobs)
    arms
      .get(law)!
      .get(arm)!
      .push(await laboratory.run(procedure, seed, sets))
  return { base: reference, arms, records: laboratory.records }
}

/** Of the first law that has arms for it. */
function transferBetween(
  plan: StudyPlan,
  data: StudyData,
  arms: ReadonlyMap<LawName, ArmRuns>,
  base: RunRecord,
): Transfer | null {
  for (const law of plan.laws) {
    const found = transferOf(law, arms.get(law.name)!, data, base)
    if (found) return found
  }
  return null
}

function idsOf(arms: ReadonlyMap<LawName, ArmRuns>): StudyResults['arms'] {
  return Object.fromEntries(
    [...arms].map(([law, runs]) => [
      law,
      Object.fromEntries([...runs].map(([arm, records]) => [arm, records.map(({ id }) => id)])),
    ]),
  )
}

/** Without the time they took, which is no result. */
function runsOf(records: readonly RunRecord[]): StudyResults['runs'] {
  const sorted = [...records].sort((a, b) => (a.id < b.id ? -1 : 1))
  return Object.fromEntries(sorted.map(({ seconds: _, ...record }) => [record.id, record]))
}

async function writeResults(output: string, results: StudyResults): Promise<void> {
  await writeWhole(join(output, resultsName), `${JSON.stringify(results, null, 1)}\n`)
}

/** The first key by which two plans differ. */
function firstDifference(saved: unknown, current: unknown, path = ''): string {
  if (
    typeof saved === 'object' &&
    saved !== null &&
    typeof current === 'object' &&
    current !== null
  ) {
    const [one, other] = [saved, current] as Record<string, unknown>[]
    for (const key of new Set([...Object.keys(one), ...Object.keys(other)]))
      if (JSON.stringify(one[key]) !== JSON.stringify(other[key]))
        return firstDifference(one[key], other[key], path === '' ? key : `${path}.${key}`)
  }
  const shown = (value: unknown) => (JSON.stringify(value) ?? 'absent').slice(0, 80)
  return `${path} was ${shown(saved)} and is now ${shown(current)}`
}
