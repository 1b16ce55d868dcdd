import type { RunRecord, Specialization } from '../run-record.js'
import { mean } from '../statistics/index.js'
import { matrix } from './charts.js'
import { figure, table } from './html.js'

interface ArmWithRuns {
  readonly arm: { readonly name: string }
  readonly records: readonly RunRecord[]
}

/** What the experts of mixtures specialise in; empty where no arm has any. */
export function expertFigures(arms: readonly ArmWithRuns[]): string[] {
  const found = arms.flatMap(({ arm, records }) => {
    const experts = records.flatMap((run) => run.experts ?? [])
    return experts.length > 0 ? [{ name: arm.name, experts }] : []
  })
  if (found.length === 0) return []
  const rows = found.map(({ name, experts }) => [
    name,
    number(experts, ({ information }) => information.value),
    number(experts, ({ information }) => information.byChance),
    Math.max(...experts.map(({ information }) => information.p)).toPrecision(2),
    number(experts, ({ layers }) => mean(layers.map(({ entropy }) => entropy))),
    number(experts, ({ layers }) => mean(layers.map(({ cosine }) => cosine))),
    number(experts, ({ layers }) => layers.reduce((sum, { dead }) => sum + dead, 0)),
  ])
  const head = [
    'Arm',
    'Mutual information',
    'By chance',
    'Largest p',
    'Gate entropy',
    'Cosine of experts',
    'Dead experts',
  ]
  return [
    '<h3>What experts specialise in</h3>',
    table(head, rows),
    ...found.flatMap(({ name, experts }) => [
      figure(
        `${name}: what the loss per token rises by without an expert, by discipline (first seed).`,
        matrix(`Ablation of the experts of ${name}`, ablationCells(experts[0]), 3),
      ),
      figure(
        `${name}: mean gate of each expert by layer (first seed).`,
        matrix(`Load of the experts of ${name}`, loadCells(experts[0])),
      ),
    ]),
  ]
}

const number = (experts: readonly Specialization[], value: (one: Specialization) => number) =>
  mean(experts.map(value)).toFixed(3)

const ablationCells = ({ ablation }: Specialization) =>
  ablation.flatMap((changes, e) =>
    Object.entries(changes).map(([discipline, value]) => ({
      row: `without expert ${e + 1}`,
      column: discipline,
      value,
    })),
  )

const loadCells = ({ layers }: Specialization) =>
  layers.flatMap(({ module, load }) =>
    load.map((value, e) => ({
      row: module.replace(/^model\.layers\./, ''),
      column: `expert ${e + 1}`,
      value,
    })),
  )
