import type { LayerSpecialization, Specialization } from '../run-record.js'
import { mean } from '../statistics/index.js'
import type { ArmWithRuns } from './arm-tables.js'
import { type Cell, matrix } from './charts.js'
import { figure, table } from './html.js'

/** What the experts of mixtures specialise in; empty where no arm has any. */
export function expertFigures(arms: readonly ArmWithRuns[]): string[] {
  const found = arms.flatMap(({ arm, records }) => {
    const experts = records.flatMap((run) => run.experts ?? [])
    return experts.length > 0 ? [{ name: arm.name, experts, isExtra: arm.extra === true }] : []
  })
  if (found.length === 0) return []
  const needed = found.filter(({ isExtra }) => !isExtra)
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
    ...needed.flatMap(({ name, experts }) => [
      figure(
        `${name}: what the loss per token rises by without an expert, by discipline (first seed).`,
        matrix(`Ablation of the experts of ${name}`, ablationCells(experts[0]), 3),
      ),
      figure(
        `${name}: mean gate of each expert by layer, over its modules (first seed).`,
        matrix(`Load of the experts of ${name}`, loadCells(experts[0])),
      ),
      `<details><summary>Module by module</summary>${moduleTable(experts[0])}</details>`,
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

const shortName = (module: string) => module.replace(/^model\.layers\./, '')

function loadCells({ layers }: Specialization): Cell[] {
  const byLayer = new Map<string, LayerSpecialization[]>()
  for (const one of layers) {
    const [layer] = shortName(one.module).split('.')
    byLayer.set(layer, [...(byLayer.get(layer) ?? []), one])
  }
  return [...byLayer].flatMap(([layer, modules]) =>
    modules[0].load.map((_, e) => ({
      row: `layer ${layer}`,
      column: `expert ${e + 1}`,
      value: mean(modules.map(({ load }) => load[e])),
    })),
  )
}

function moduleTable({ layers }: Specialization): string {
  const head = [
    'Module',
    ...layers[0].load.map((_, e) => `expert ${e + 1}`),
    'Gate entropy',
    'Cosine of experts',
    'Dead experts',
  ]
  const rows = layers.map(({ module, load, entropy, cosine, dead }) => [
    shortName(module),
    ...[...load, entropy, cosine].map((value) => value.toFixed(3)),
    dead,
  ])
  return table(head, rows)
}
