import type { Law, ScoreSet } from '../arms/law.js'
import { trialsOf } from '../procedure.js'
import { armDifferences, scoreOf, setsOf } from '../results.js'
import type { RunRecord } from '../run-record.js'
import { logLikelihoodOf } from '../scoring.js'
import { mean, pairedDifference } from '../statistics/index.js'
import { table } from './html.js'
import { inPoints } from './numbers.js'
import type { ReportInputs } from './page.js'

export interface ArmWithRuns {
  readonly arm: Law['arms'][number]
  readonly records: readonly RunRecord[]
}

/** Sets that a law's arms are measured on, by name, all disciplines together first. */
export function scoredSets(law: Law, { data }: ReportInputs): [string, ScoreSet][] {
  const disciplines = data.disciplines.map(({ name }) => name)
  const others = (['cross', 'instructions', 'general'] as const).filter(
    (set) => law.name === 'align' && data.sets.has(set),
  )
  return [
    ['all disciplines', disciplines],
    ...others.map((set) => [set, set] as [string, ScoreSet]),
  ]
}

/** Discipline by method: every arm's scores with half of their 90% intervals, over seeds and items. */
export function scoreTable(law: Law, arms: readonly ArmWithRuns[], inputs: ReportInputs): string {
  const { data, plan, base } = inputs
  const disciplines = data.disciplines.map(({ name }) => name)
  const [all, ...others] = scoredSets(law, inputs)
  const columns: [string, ScoreSet][] = [
    all,
    ...disciplines.map((name): [string, ScoreSet] => [name, [name]]),
    ...others,
  ]
  const cell = (records: readonly RunRecord[], on: ScoreSet): string => {
    const sets = setsOf(on)
    const measured = records.filter((run) => sets.every((set) => Object.hasOwn(run.sets, set)))
    if (measured.length === 0) return '–'
    const differences = armDifferences(sets, [{ weight: 1, runs: measured }], data)
    const { estimate, upper } = pairedDifference(differences, { seed: plan.bootstrapSeed })
    return upper === null
      ? inPoints(estimate, 1)
      : `${inPoints(estimate, 1)}\u00a0±\u00a0${inPoints(upper - estimate, 1)}`
  }
  const worst = (records: readonly RunRecord[]) => {
    const scores = records.map((run) => disciplines.map((name) => scoreOf(run, [name], data)))
    const least = scores.flatMap((one) =>
      one.includes(null) ? [] : [Math.min(...(one as number[]))],
    )
    return least.length === 0 ? '–' : inPoints(mean(least), 1)
  }
  const perToken = (records: readonly RunRecord[]) => {
    const values = records.flatMap((run) => {
      const each = setsOf(disciplines).map((set) => run.sets[set] && logLikelihoodOf(run.sets[set]))
      return each.some((value) => value === undefined || value === null)
        ? []
        : [mean(each as number[])]
    })
    return values.length === 0 ? '–' : mean(values).toFixed(3)
  }
  const row = (name: string, records: readonly RunRecord[]) => [
    name,
    ...columns.map(([, on]) => cell(records, on)),
    worst(records),
    perToken(records),
  ]
  const rows = arms
    .filter(({ arm }) => arm.procedure.kind !== 'base')
    .map(({ arm, records }) => row(arm.name, records))
  const head = ['Arm', ...columns.map(([name]) => name), 'worst discipline', 'log-likelihood']
  return table(head, [row('the model as it is', [base]), ...rows])
}

/** What every arm is, and what it cost. */
export function costTable(arms: readonly ArmWithRuns[], { records: all }: ReportInputs): string {
  const rows = arms.map(({ arm, records }) => {
    const average = (value: (run: RunRecord) => number) =>
      records.length > 0 ? mean(records.map(value)) : 0
    const trials = trialsOf(arm.procedure)
    const searched = all.filter(({ id }) => trials.has(id))
    const sum = (value: (run: RunRecord) => number) =>
      searched.reduce((total, run) => total + value(run), 0)
    return [
      arm.name,
      arm.title,
      records.length,
      Math.round(average(({ tokens }) => tokens)),
      Math.round(average(({ steps }) => steps)),
      Math.round(average(({ parameters }) => parameters)),
      rounded(average(({ seconds }) => seconds)),
      sum(({ tokens }) => tokens),
      Math.round(sum(({ seconds }) => seconds)),
      designOf(records),
      records.filter(({ status }) => status === 'failed').length,
      records.filter(({ status }) => status === 'diverged').length,
    ]
  })
  const head = [
    'Arm',
    'What it is',
    'Runs',
    'Tokens',
    'Steps',
    'Parameters',
    'Seconds',
    'Tokens of its search',
    'Seconds of its search',
    'Design',
    'Failed',
    'Diverged',
  ]
  return table(head, rows)
}

const rounded = (value: number) => Math.round(10 * value) / 10

function designOf([run]: readonly RunRecord[]): string {
  if (run === undefined || run.design.kind === 'base') return ''
  if (run.design.kind === 'chat-vector') return `chat vector, weight ${run.design.weight}`
  if (run.design.kind === 'merge') {
    const weights = [...new Set(run.design.weights)]
    return `${run.design.operator}, weight ${weights.join(', ')}`
  }
  const { learningRate, method } = run.design
  const { rank, ...rest } = method
  const { alpha, dropout, targets } = rest as Readonly<Record<string, unknown>>
  const where = Array.isArray(targets) ? `, ${targets.join(' ')}` : ''
  const dropped = typeof dropout === 'number' && dropout > 0 ? `, dropout ${dropout}` : ''
  return `rank ${rank}, alpha ${String(alpha)}, learning rate ${learningRate}${dropped}${where}`
}
