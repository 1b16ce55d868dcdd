import type { LawName } from '../arms/law.js'
import type { DeviceInfo } from '../../device.js'
import { planHash, type StudyPlan } from '../plan.js'
import type { ArmRuns, LawResult } from '../results.js'
import type { RunRecord } from '../run-record.js'
import type { StudyConfig } from '../study-config.js'
import type { StudyData } from '../study-data.js'
import { list, page, table } from './html.js'
import { lawSection } from './law-section.js'
import { significant, wholePoints } from './numbers.js'

export interface ReportInputs {
  readonly config: StudyConfig
  readonly plan: StudyPlan
  readonly data: StudyData
  readonly laws: readonly LawResult[]
  readonly arms: ReadonlyMap<LawName, ArmRuns>
  /** All runs, the trials of searches too. */
  readonly records: readonly RunRecord[]
  /** The model as it is. */
  readonly base: RunRecord
  /** Where the study was run, or ended. */
  readonly device: Pick<DeviceInfo, 'name' | 'instructionSet' | 'threads'>
}

const limits = [
  'A small study neither confirms nor refutes what the paper (arXiv 2602.11215) found with a model of 7 billion parameters.',
  'The paper’s hyperparameters are not known: every choice here is ours.',
  'A law is decided for this model, this corpus and these sizes alone.',
  'Scores are accuracy corrected for chance: 0 is guessing, 100 points is every item right. An open answer counts as right if every token of it is the likeliest.',
  'Intervals are 90%: mean ± t(S − 1, .95) √(s²/S + v), with s² between seeds and v by bootstrap over item clusters. Where items vary more than seeds they are wider than they need be.',
  'A failed run makes the contrasts that need it undecided; a diverged run is measured as it ended.',
]

/** report.html. */
export function reportPage(inputs: ReportInputs): string {
  const { config, plan, data, laws, records, device } = inputs
  const seconds = records.reduce((sum, run) => sum + run.seconds, 0)
  const tokens = records.reduce((sum, run) => sum + run.tokens, 0)
  const count = (status: RunRecord['status']) =>
    records.filter((run) => run.status === status).length
  const verdicts = plan.laws.map((law, i) => {
    const { verdict, reason = '', p, adjustedP, failed, diverged } = laws[i]
    return [law.title, verdict, significant(p), significant(adjustedP), failed, diverged, reason]
  })
  const facts: [string, string | number][] = [
    ['Model', config.model],
    ['Device', `${device.name}, ${device.instructionSet}, ${device.threads} threads`],
    ['Plan (SHA-256)', planHash(plan)],
    ['Smallest difference that matters', `${wholePoints(plan.delta)} points`],
    ['Seeds of an arm', plan.seeds.length],
    ['Runs of a condition of variability', plan.variabilitySeeds.length],
    ['Tokens of a run', plan.size.tokens],
    ['Runs, trials of searches included', records.length],
    ['Tokens trained on', tokens],
    ['Failed runs', count('failed')],
    ['Diverged runs', count('diverged')],
    ['Time of the runs', `${(seconds / 60).toFixed(1)} minutes`],
  ]
  const disciplines = data.disciplines.map(({ name, items, tokens, trainedTokens }) => [
    name,
    items,
    tokens,
    trainedTokens,
    data.sets.get(`test ${name}`)!.chances.length,
  ])
  return page(
    'Study of the laws of multi-discipline fine-tuning',
    [
      `<p class="quiet">Arms, contrasts, delta and preconditions were written and hashed before the first run.${plan.isSlice ? ' This is a slice: one seed an arm, so every verdict is undecided.' : ''}</p>`,
      table(['Law', 'Verdict', 'p', 'p after Holm', 'Failed', 'Diverged', 'Why'], verdicts),
      '<h2>What was done</h2>',
      table(['', ''], facts),
      plan.cuts.length > 0 ? `<h3>What was cut</h3>${list(plan.cuts)}` : '',
      '<h3>Data</h3>',
      table(
        ['Discipline', 'Training items', 'Tokens', 'Trained tokens', 'Test items'],
        disciplines,
      ),
      list(data.notes),
      ...plan.laws.map((law, i) => lawSection(law, laws[i], inputs)),
      '<h2>Limits</h2>',
      list(limits),
    ].join('\n'),
  )
}
