import type { StudyPlan } from './plan.js'
import type { LawResult } from './results.js'
import type { RunRecord } from './run-record.js'
import type { Transfer } from './transfer.js'

/** results.json: the same to the byte, whenever and however often the study was stopped. */
export interface StudyResults {
  readonly planHash: string
  readonly plan: StudyPlan
  readonly status: 'planned' | 'finished'
  readonly notes: readonly string[]
  readonly laws: readonly LawResult[]
  /** Trained on one discipline, tested on each; absent where no law has such arms. */
  readonly transfer?: Transfer
  /** Ids of an arm's runs, by law and arm. */
  readonly arms: Readonly<Record<string, Readonly<Record<string, readonly string[]>>>>
  readonly runs: Readonly<Record<string, Omit<RunRecord, 'seconds'>>>
}
