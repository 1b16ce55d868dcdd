import type { VariabilityPlan } from '../arms/law.js'
import type { ArmRuns, LawResult } from '../results.js'
import { logLikelihoodOf } from '../scoring.js'
import { mean } from '../statistics/index.js'
import { intervals, type Row } from './charts.js'
import { figure, table } from './html.js'
import { significant } from './numbers.js'

/** Every run's log-likelihood, one over all disciplines against one over each; empty where there is no result. */
export function spread(
  { multi, singles }: VariabilityPlan,
  { variability, companions }: LawResult,
  runs: ArmRuns,
): string {
  if (!variability) return ''
  const { ratio, lower, upper, p, byDiscipline } = variability
  const pairs = Object.entries(singles).flatMap(([name, single]) => [
    { name, of: 'multi', arm: multi },
    { name, of: 'single', arm: single },
  ])
  const rows = pairs.map(({ name, of, arm }): Row => {
    const values = (runs.get(arm) ?? []).map(
      // There is no result where one of them is not finite.
      ({ sets }) => logLikelihoodOf(sets[`test ${name}`])!,
    )
    return {
      name: `${of}: ${name}`,
      points: values,
      estimate: mean(values),
      lower: null,
      upper: null,
    }
  })
  const [by, from, to] = [ratio, lower, upper].map((value) => significant(value, 3))
  return [
    '<h3>Spread</h3>',
    `<p>Mean absolute deviation from the median, multi over single: <b>${by}</b>, 90% interval ${from} to ${to}, p ${significant(p)}.</p>`,
    figure(
      'Log-likelihood of the right answer per token: every run is a ring, their mean a dot.',
      intervals('Spread of runs', 'nats a token', rows, []),
    ),
    table(
      ['Discipline', 'Ratio'],
      Object.keys(singles).map((name, i) => [name, Math.round(100 * byDiscipline[i]) / 100]),
    ),
    companions ? companionTable(companions) : '',
  ].join('\n')
}

function companionTable(companions: NonNullable<LawResult['companions']>): string {
  const rows = Object.entries(companions).map(([name, { bySeed, byCompanions }]) => [
    name,
    significant(bySeed, 3),
    significant(byCompanions, 3),
  ])
  return [
    '<p>Mean absolute deviation of a discipline’s log-likelihood from its median: over the runs on all disciplines, which differ in seed and items; and, no part of the verdict, over runs of one seed that differ in the disciplines beside it: all others, or all but one.</p>',
    table(['Discipline', 'Over seeds', 'Over co-disciplines'], rows),
  ].join('\n')
}
