import type { TransferMatrix } from '../train/task-order.js'
import type { Law, ScoreSet } from './arms/law.js'
import { type ArmRuns, scoreOf } from './results.js'
import type { RunRecord } from './run-record.js'
import { mean } from './statistics/index.js'
import type { StudyData } from './study-data.js'

/** What adapters for one discipline alone change, as fractions of chance-corrected accuracy, over the seeds. */
export interface Transfer extends TransferMatrix {
  /** By set that is no discipline's (cross, instructions, general): the change by each, in the order of the disciplines. */
  readonly beside: Readonly<Record<string, readonly number[]>>
}

/**
 * Trained on one discipline, measured on each: from a law's arms that train the untouched model on one discipline alone.
 * Null unless there is one for every discipline, each with a score on all of them.
 */
export function transferOf(
  law: Law,
  arms: ArmRuns,
  data: StudyData,
  base: RunRecord,
): Transfer | null {
  const disciplines = data.disciplines.map(({ name }) => name)
  const specialists = disciplines.map((name) =>
    law.arms.find(({ procedure }) => {
      if (procedure.kind !== 'train' || procedure.from.kind !== 'base') return false
      const { disciplines } = procedure.data
      return disciplines !== 'instructions' && disciplines.length === 1 && disciplines[0] === name
    }),
  )
  const changes = (on: ScoreSet): number[] =>
    specialists.map((arm) => {
      const before = scoreOf(base, on, data)
      const after = (arm ? (arms.get(arm.name) ?? []) : []).map((run) => scoreOf(run, on, data))
      if (before === null || after.length === 0 || after.includes(null)) return NaN
      return mean(after as number[]) - before
    })
  const byTest = disciplines.map((name) => changes([name]))
  const transfer = disciplines.map((_, trained) => byTest.map((column) => column[trained]))
  if (!transfer.flat().every(Number.isFinite)) return null
  const beside = (['cross', 'instructions', 'general'] as const).flatMap((set) => {
    const column = changes(set)
    return column.every(Number.isFinite) ? [[set, column] as const] : []
  })
  return { disciplines, transfer, beside: Object.fromEntries(beside) }
}
