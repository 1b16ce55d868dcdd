import type { Law } from '../arms/law.js'
import { type ContrastResult, type LawResult, scoreOf } from '../results.js'
import type { RunRecord } from '../run-record.js'
import { type Estimate, mean } from '../statistics/index.js'
import { type ArmWithRuns, costTable, scoredSets, scoreTable } from './arm-tables.js'
import { curves, intervals, type Row, shares } from './charts.js'
import { expertFigures } from './experts.js'
import { escaped, figure, list, table } from './html.js'
import { between, inPoints, points, significant, wholePoints } from './numbers.js'
import type { ReportInputs } from './page.js'
import { spread } from './spread.js'
import { transferFigure } from './transfer-figure.js'

/** Everything about one law: verdict, effects, arms, curves, mixtures. */
export function lawSection(law: Law, result: LawResult, inputs: ReportInputs): string {
  const runs = inputs.arms.get(law.name)!
  const arms = law.arms.map((arm) => ({ arm, records: runs.get(arm.name) ?? [] }))
  const trained = arms.filter(({ records }) => records.some(({ losses }) => losses.length > 0))
  const because = result.reason === undefined ? '' : ` ${escaped(result.reason)}`
  const title = escaped(law.title)
  return [
    `<h2>${title}</h2>`,
    `<p>${escaped(law.claim)}</p>`,
    `<p><span class="verdict">${result.verdict}</span>${because}</p>`,
    effects(law, result, inputs),
    law.variability ? spread(law.variability, result, runs) : '',
    '<h3>Arms</h3>',
    scores(law, arms, inputs),
    '<p>Scores in points, corrected for chance, with half of their 90% intervals over seeds and items; the mean over seeds of the worst discipline; and the log-likelihood of the right answer, nats a token.</p>',
    scoreTable(law, arms, inputs),
    transferFigure(law, runs, inputs),
    '<p>What an arm is and what one of its runs cost, without the runs that it goes on from, which are arms of their own; and what was tried to choose its design, learning rate or merge. Arms that share a search each show all of it.</p>',
    costTable(arms, inputs),
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
    { name: wholePoints(plan.delta), value: points(plan.delta) },
  ]
  const numbers = all.map(({ one: { name, estimate }, title, says }) => [
    name,
    title,
    inPoints(estimate?.estimate ?? null),
    between(estimate?.lower ?? null, estimate?.upper ?? null),
    significant(estimate?.p ?? null),
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
function scores(law: Law, arms: readonly ArmWithRuns[], inputs: ReportInputs): string {
  const { data, base } = inputs
  return scoredSets(law, inputs)
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
