import type { Law } from '../arms/law.js'
import type { ArmRuns } from '../results.js'
import { transferOf } from '../transfer.js'
import { matrix } from './charts.js'
import { figure } from './html.js'
import { points } from './numbers.js'
import type { ReportInputs } from './page.js'

/** Trained on one discipline, tested on each, and what else that changed; empty where a law has no such arms. */
export function transferFigure(law: Law, runs: ArmRuns, { data, base }: ReportInputs): string {
  const found = transferOf(law, runs, data, base)
  if (!found) return ''
  const { disciplines, transfer, beside } = found
  const cells = disciplines.flatMap((name, i) => {
    const changes = [
      ...disciplines.map((tested, j) => [tested, transfer[i][j]] as const),
      ...Object.entries(beside).map(([set, column]) => [set, column[i]] as const),
    ]
    return changes.map(([column, change]) => ({
      row: `on ${name} alone`,
      column,
      value: points(change),
    }))
  })
  return figure(
    'Transfer and forgetting: what training on one discipline alone changes on each and on the other sets, in points over the model as it is, mean over seeds.',
    matrix(`Transfer, ${law.title}`, cells, 1),
  )
}
