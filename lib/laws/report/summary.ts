import type { LawResult } from '../results.js'
import { leastRatio } from '../statistics/index.js'
import type { StudyResults } from '../study-results.js'
import { between, inPoints, significant, wholePoints } from './numbers.js'

/** summary.md: what results.json says, as tables to read or to copy. The same to the byte for the same results. */
export function summaryMarkdown(results: StudyResults): string {
  const { plan, planHash, laws, runs } = results
  const all = Object.values(runs)
  const count = (status: (typeof all)[number]['status']) =>
    all.filter((run) => run.status === status).length
  const tokens = all.reduce((sum, run) => sum + run.tokens, 0)
  const facts = [
    `${plan.seeds.length} seeds an arm, ${plan.variabilitySeeds.length} runs of a condition of variability`,
    `${plan.size.tokens.toLocaleString('en')} tokens a run; ${all.length} runs with ${tokens.toLocaleString('en')} tokens, trials of searches included`,
    `failed: ${count('failed')}; diverged: ${count('diverged')}`,
    `the smallest difference that matters: ${wholePoints(plan.delta)} points`,
    `the plan as it was before the first run (SHA-256): \`${planHash}\``,
  ]
  const verdicts = plan.laws.map((law, i) => {
    const { verdict, p, adjustedP, reason = '' } = laws[i]
    return [law.title, `**${verdict}**`, significant(p), significant(adjustedP), plain(reason)]
  })
  const blocks = [
    '# Study of the laws of multi-discipline fine-tuning',
    table(['law', 'verdict', 'p', 'p after Holm', 'why'], verdicts),
    list(facts),
    '## Effects',
    'In points, with 90% intervals over seeds and items. A contrast holds if its interval lies above 0 and its effect reaches the smallest difference that matters; it does not hold if its interval lies below that difference.',
    table(
      ['law', 'contrast', 'effect', '90% interval', 'asked for', 'verdict'],
      plan.laws.flatMap((law, i) => effects(law.title, laws[i], results, i)),
    ),
    ...(plan.cuts.length > 0 ? ['## What was cut', list(plan.cuts.map(plain))] : []),
    ...(results.notes.length > 0 ? ['## Notes on the data', list(results.notes.map(plain))] : []),
    'A small study neither confirms nor refutes what the paper (arXiv 2602.11215) found with a model of 7 billion parameters; its hyperparameters are not known, and every choice here is ours.',
  ]
  return `${blocks.join('\n\n')}\n`
}

function effects(
  title: string,
  { contrasts, preconditions, gates, variability }: LawResult,
  { plan }: StudyResults,
  at: number,
): string[][] {
  const law = plan.laws[at]
  const row = (
    { name, estimate }: LawResult['contrasts'][number],
    asked: string,
    verdict: string,
  ) => [
    title,
    plain(name),
    inPoints(estimate?.estimate ?? null),
    between(estimate?.lower ?? null, estimate?.upper ?? null),
    asked,
    verdict,
  ]
  const delta = `≥ ${wholePoints(plan.delta)}`
  return [
    ...contrasts.map((one) => row(one, delta, one.verdict)),
    ...preconditions.map((one, i) =>
      row(
        one,
        `≥ ${wholePoints(law.preconditions[i].atLeast)}`,
        one.met ? 'precondition met' : 'precondition not met',
      ),
    ),
    ...gates.map((one, i) =>
      row(
        one,
        `interval above ${wholePoints(law.gates[i].above)}`,
        one.passed ? 'gate passed' : 'gate not passed',
      ),
    ),
    ...(variability
      ? [
          [
            title,
            'spread of multi over single (a ratio)',
            significant(variability.ratio, 3),
            [variability.lower, variability.upper]
              .map((bound) => significant(bound, 3))
              .join(' to '),
            `≥ ${leastRatio}`,
            variability.verdict,
          ],
        ]
      : []),
  ]
}

const list = (items: readonly string[]) => items.map((item) => `- ${item}`).join('\n')

/** Text of anyone's: nothing of it is Markdown or HTML. */
const plain = (text: string) =>
  text.replace(/[\\`*_[\]<>|#]/g, (sign) => `\\${sign}`).replace(/\s+/g, ' ')

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n')
}
