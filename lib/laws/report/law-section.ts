import type { Law, ScoreSet } from '../arms/law.js'
import { type ContrastResult, type LawResult, scoreOf } from '../results.js'
import type { RunRecord } from '../run-record.js'
import { logLikelihoodOf } from '../scoring.js'
import { type Estimate, mean } from '../statistics/index.js'
import { curves, intervals, type Row, shares } from './charts.js'
import { expertFigures } from './experts.js'
import { escaped, figure, list, table } from './html.js'
import type { ReportInputs } from './page.js'

const points = (fraction: number) => 100 * fraction
const shown = (value: number | null) => (value === null ? '–' : points(value).toFixed(2))
const rounded = (value: number) => Math.round(10 * value) / 10

/** Everything about one law: verdict, effects, arms, curves, mixtures. */
export function lawSection(law: Law, result: LawResult, inputs: ReportInputs): string {
  const runs = inputs.arms.get(law.name)!
  const arms = law.arms.map((arm) => ({ arm, records: runs.get(arm.name) ?? [] }))
  const trained = arms.filter(({ records }) => records.some(({ losses }) => losses.length > 0))
  const because = result.reason === undefined ? '' : `: ${escaped(result.reason)}`
  const title = escaped(law.title)
  return [
    `<h2>${title}</h2>`,
    `<p>${escaped(law.claim)}</p>`,
    `<p><span class="verdict">${result.verdict}</span>${because}</p>`,
    effects(law, result, inputs),
    result.variability ? spread(law, result, inputs) : '',
    '<h3>Arms</h3>',
    scores(law, arms, inputs),
    armTable(arms),
    figure(
      'Learning curves, the mean of an arm’s seeds.',
      curves(`Learning curves of ${law.title}`, trained.map(curveOf)),
    ),
    figure(
      'Realised mixture: trained tokens by discipline.',
      shares(
        `Realised mixtures of ${law.title}`,
        trained.map(({ arm, records }) => ({ name: arm.name, parts: totals(records) })),
      ),
    ),
    ...expertFigures(arms),
    list(law.notes),
  ].join('\n')
}

type ArmWithRuns = { readonly arm: Law['arms'][number]; readonly records: readonly RunRecord[] }

function effects(law: Law, result: LawResult, { plan }: ReportInputs): string {
  const of = { contrasts: law.contrasts, preconditions: law.preconditions, gates: law.gates }
  const all = [
    ...result.contrasts.map((one, i) => ({ one, title: of.contrasts[i].title, says: one.verdict })),
    ...result.preconditions.map((one, i) => ({
      one,
      title: of.preconditions[i].title,
      says: one.met ? 'precondition met' : 'precondition not met',
    })),
    ...result.gates.map((one, i) => ({
      one,
      title: of.gates[i].title,
      says: one.passed ? 'gate passed' : 'gate not passed',
    })),
  ]
  if (all.length === 0) return ''
  const rows = all.flatMap(({ one }) => (one.estimate ? [rowOf(one.name, one.estimate)] : []))
  const lines = [
    { name: '0', value: 0 },
    { name: `${points(plan.delta)}`, value: points(plan.delta) },
  ]
  const numbers = all.map(({ one: { name, estimate }, title, says }) => [
    name,
    title,
    shown(estimate?.estimate ?? null),
    `${shown(estimate?.lower ?? null)} to ${shown(estimate?.upper ?? null)}`,
    estimate?.p == null ? '–' : estimate.p.toPrecision(2),
    says,
  ])
  return [
    '<h3>Effects</h3>',
    rows.length > 0
      ? figure(
          'Effects in points with 90% intervals; every seed is a ring. Dashed: nothing, and the smallest difference that matters.',
          intervals(`Effects of ${law.title}`, 'points', rows, lines),
        )
      : '',
    table(['Contrast', 'What it says', 'Estimate', '90% interval', 'p', 'Verdict'], numbers),
    ...result.contrasts.map((one) => byDiscipline(one)),
  ].join('\n')
}

function byDiscipline({ name, byDiscipline }: ContrastResult): string {
  const rows = Object.entries(byDiscipline).map(([discipline, estimate]) =>
    rowOf(discipline, estimate),
  )
  if (rows.length === 0) return ''
  return figure(
    `${name}, by discipline.`,
    intervals(`${name} by discipline`, 'points', rows, [{ name: '0', value: 0 }]),
  )
}

function rowOf(name: string, { estimate, lower, upper, seeds }: Estimate): Row {
  const orNull = (value: number | null) => (value === null ? null : points(value))
  return {
    name,
    points: seeds.map(points),
    estimate: points(estimate),
    lower: orNull(lower),
    upper: orNull(upper),
  }
}

/** Every seed of every arm on the law's sets, against the base and chance. */
function scores(law: Law, arms: readonly ArmWithRuns[], { data, base }: ReportInputs): string {
  const disciplines = data.disciplines.map(({ name }) => name)
  const sets: [string, ScoreSet][] = [['all disciplines', disciplines]]
  if (law.name === 'align')
    for (const set of ['cross', 'instructions', 'general'] as const)
      if (data.sets.has(set)) sets.push([set, set])
  return sets
    .map(([name, on]) => {
      const rows = arms.flatMap(({ arm, records }): Row[] => {
        const values = records.flatMap((run) => scoreOf(run, on, data) ?? [])
        if (values.length === 0) return []
        return [
          {
            name: arm.name,
            points: values.map(points),
            estimate: points(mean(values)),
            lower: null,
            upper: null,
          },
        ]
      })
      if (rows.length === 0) return ''
      const reference = scoreOf(base, on, data)
      const lines = [
        { name: 'chance', value: 0 },
        ...(reference === null ? [] : [{ name: 'base', value: points(reference) }]),
      ]
      const chart = intervals(
        `Scores of ${law.title} on ${name}`,
        'chance-corrected accuracy, points',
        rows,
        lines,
      )
      return figure(`Score on ${name}: every seed is a ring, their mean a dot.`, chart)
    })
    .join('\n')
}

function armTable(arms: readonly ArmWithRuns[]): string {
  const rows = arms.map(({ arm, records }) => {
    const average = (value: (run: RunRecord) => number) =>
      records.length > 0 ? mean(records.map(value)) : 0
    return [
      arm.name,
      arm.title,
      records.length,
      Math.round(average(({ tokens }) => tokens)),
      Math.round(average(({ steps }) => steps)),
      Math.round(average(({ parameters }) => parameters)),
      rounded(average(({ seconds }) => seconds)),
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
    'Design',
    'Failed',
    'Diverged',
  ]
  return table(head, rows)
}

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

function curveOf({ arm, records }: ArmWithRuns) {
  const all = records.map(({ losses }) => losses).filter((losses) => losses.length > 0)
  const length = Math.min(...all.map((losses) => losses.length))
  return {
    name: arm.name,
    losses: Array.from({ length }, (_, i) => mean(all.map((losses) => losses[i]))),
  }
}

function totals(records: readonly RunRecord[]): Record<string, number> {
  const sums: Record<string, number> = {}
  for (const { mixture } of records)
    for (const [name, count] of Object.entries(mixture)) sums[name] = (sums[name] ?? 0) + count
  return sums
}

/** Every run's log-likelihood, one over all disciplines against one over each. */
function spread(law: Law, { variability }: LawResult, { arms }: ReportInputs): string {
  const { multi, singles } = law.variability!
  const runs = arms.get(law.name)!
  const { ratio, lower, upper, p, byDiscipline } = variability!
  const rows = Object.entries(singles).flatMap(([name, single]) =>
    (
      [
        ['multi', multi],
        ['single', single],
      ] as const
    ).map(([of, arm]): Row => {
      const values = (runs.get(arm) ?? []).map(
        // There is no result where one of them is not finite.
        ({ sets }) => logLikelihoodOf(sets[`test ${name}`])!,
      )
      return {
        name: `${name}, ${of}`,
        points: values,
        estimate: mean(values),
        lower: null,
        upper: null,
      }
    }),
  )
  const number = (value: number | null) => (value === null ? '–' : value.toPrecision(3))
  return [
    '<h3>Spread</h3>',
    `<p>Mean absolute deviation from the median, multi over single: <b>${number(ratio)}</b>, 90% interval ${number(lower)} to ${number(upper)}, p ${number(p)}.</p>`,
    figure(
      'Log-likelihood of the right answer per token: every run is a ring.',
      intervals('Spread of runs', 'nats a token', rows, []),
    ),
    table(
      ['Discipline', 'Ratio'],
      Object.keys(singles).map((name, i) => [name, Math.round(100 * byDiscipline[i]) / 100]),
    ),
  ].join('\n')
}
