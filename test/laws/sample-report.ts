import type { LawName } from '../../lib/laws/arms/law.js'
import {
  jobsOf,
  makePlan,
  type PlanInputs,
  possibleSize,
  referenceSets,
  planHash,
} from '../../lib/laws/plan.js'
import { base, type Procedure, runId, trialsOf } from '../../lib/laws/procedure.js'
import type { ReportInputs } from '../../lib/laws/report/page.js'
import { judge } from '../../lib/laws/results.js'
import type { Design, RunRecord, Specialization } from '../../lib/laws/run-record.js'
import { parseStudyConfig } from '../../lib/laws/study-config.js'
import type { ItemSet, StudyData } from '../../lib/laws/study-data.js'
import type { StudyResults } from '../../lib/laws/study-results.js'
import { readConfig } from '../../lib/models/index.js'
import { Philox } from '../../lib/philox.js'
import { goldenModel } from '../decoder-logits.js'

const sizes: Readonly<Record<string, number>> = {
  mathematics: 50_000,
  chemistry: 20_000,
  'earth & planetary <sciences> | geography': 4_000,
  medicine: 2_000,
  biology: 1_000,
}
const names = Object.keys(sizes)
const items = 40

const set = (name: string, isChecked = false): [string, ItemSet] => [
  name,
  {
    name,
    path: `${name}.jsonl`,
    clusters: Array.from({ length: items }, (_, i) => String(i >> 1)),
    chances: Array.from({ length: items }, (_, i) => (i % 4 === 0 ? 0.25 : 0)),
    isChecked,
  },
]

const data: StudyData = {
  disciplines: names.map((name) => ({
    name,
    path: `${name}.jsonl`,
    items: sizes[name] / 5,
    tokens: 4 * sizes[name],
    trainedTokens: sizes[name],
    reserve: { path: `${name}.reserve.jsonl`, trainedTokens: 50_000 },
  })),
  alignment: 'instructions.jsonl',
  sets: new Map([
    ...names.flatMap((name) => [set(`test ${name}`), set(`validation ${name}`)]),
    set('cross'),
    set('instructions', true),
    set('general'),
  ]),
  fingerprint: 'data',
  notes: ['3 training items of chemistry left out: held out as well, or nearly (a_b.jsonl:1 is c)'],
}

/** A study that was planned, and whose runs are made up: everything that a report shows, in no time. */
export async function sampleReport(slice = false): Promise<{
  inputs: ReportInputs
  results: StudyResults
}> {
  const files = { train: 'a', validation: 'b', test: 'c', reserve: 'd' }
  const config = parseStudyConfig({
    model: 'model',
    output: 'study',
    slice,
    seeds: 5,
    data: {
      disciplines: Object.fromEntries(names.map((name) => [name, files])),
      cross: { test: 'c' },
      instructions: { train: 'a', test: 'c' },
      general: { test: 'c' },
    },
  })
  const model = await readConfig(goldenModel('qwen2-text'))
  const planned: PlanInputs = { config, data, model, modelFingerprint: 'model', survey: null }
  const size = possibleSize(planned, items)
  const plan = makePlan(planned, size, ['items of a set: 40 in place of 300'])
  const reference = made(runId(base, 1), base, 1, referenceSets(data))
  const records = new Map([[reference.id, reference]])
  const arms = new Map(
    plan.laws.map((law) => [
      law.name,
      new Map(law.arms.map(({ name }) => [name, [] as RunRecord[]])),
    ]),
  )
  for (const { law, arm, procedure, seed, sets } of jobsOf(plan, data)) {
    const id = runId(procedure, seed)
    const known = records.get(id)
    const record =
      procedure.kind === 'base'
        ? reference
        : made(id, procedure, seed, [...Object.keys(known?.sets ?? {}), ...sets])
    records.set(id, record)
    arms.get(law)!.get(arm)!.push(record)
    for (const trial of trialsOf(procedure))
      if (!records.has(trial)) records.set(trial, made(trial, procedure, plan.searchSeed, []))
  }
  const laws = judge(plan, data, arms)
  const device = { name: 'CPU', instructionSet: 'avx2', threads: 2 }
  const all = [...records.values()]
  const inputs = { config, plan, data, laws, arms, records: all, base: reference, device }
  const idsOf = (law: LawName) =>
    [...arms.get(law)!].map(([arm, runs]) => [arm, runs.map(({ id }) => id)] as const)
  const results: StudyResults = {
    planHash: planHash(plan),
    plan,
    status: 'finished',
    notes: data.notes,
    laws,
    arms: Object.fromEntries(plan.laws.map(({ name }) => [name, Object.fromEntries(idsOf(name))])),
    runs: Object.fromEntries([...records].map(([id, { seconds: _, ...record }]) => [id, record])),
  }
  return { inputs, results }
}

function made(id: string, procedure: Procedure, seed: number, sets: readonly string[]): RunRecord {
  const random = new Philox(parseInt(id.slice(0, 8), 16))
  const train = procedure.kind === 'train' ? procedure : null
  const level = train ? 0.5 + 0.2 * random.uniform() : 0.35
  const scores = sets.map((name) => [
    name,
    {
      right: Array.from({ length: items }, () => Number(random.uniform() < level)).join(''),
      logLikelihood: -items * (1 + 0.1 * random.normal()),
      tokens: items,
    },
  ])
  const trained = train && train.data.disciplines
  const mixture = (trained === 'instructions' ? [trained] : (trained ?? [])).map((name) => [
    name,
    Math.round(1000 * (1 + random.uniform())),
  ])
  const { kind = 'lora', gate } = (train?.method ?? {}) as { kind?: string; gate?: string }
  return {
    id,
    design: designOf(procedure),
    seed,
    status: 'finished',
    parameters: train ? 100_000 : 0,
    steps: train ? 130 : 0,
    tokens: train?.tokens ?? 0,
    losses: train
      ? Array.from({ length: 40 }, (_, i) => 1 + 2 / (1 + i / 4) + random.normal() / 20)
      : [],
    mixture: Object.fromEntries(mixture),
    sets: Object.fromEntries(scores),
    ...(kind !== 'lora' && gate === undefined ? { experts: specialization(random) } : {}),
    seconds: 20,
  }
}

function designOf(procedure: Procedure): Design {
  if (procedure.kind === 'base') return procedure
  if (procedure.kind !== 'train')
    return { kind: 'merge', operator: 'ties', weights: names.map(() => 0.35) }
  const { method, tokens } = procedure
  const shares = typeof procedure.data.shares === 'string' ? procedure.data.shares : 'realised'
  const data = { ...procedure.data, shares }
  return { kind: 'train', method: method, learningRate: 1e-3, data, tokens }
}

function specialization(random: Philox): Specialization {
  const modules = ['q', 'k', 'v', 'o'].map((name) => `self_attn.${name}_proj`)
  const layers = Array.from({ length: 6 }, (_, layer) =>
    modules.map((module) => {
      const masses = Array.from({ length: 4 }, () => 0.5 + random.uniform())
      const total = masses.reduce((a, b) => a + b, 0)
      const load = masses.map((mass) => mass / total)
      return {
        module: `model.layers.${layer}.${module}`,
        load,
        entropy: 0.9,
        dead: 0,
        cosine: 0.1 * random.normal(),
      }
    }),
  ).flat()
  const ablation = Array.from({ length: 4 }, () =>
    Object.fromEntries(names.map((name) => [name, 0.05 * random.normal()])),
  )
  return { layers, information: { value: 0.2, byChance: 0.01, p: 0.001 }, ablation }
}
