import { DataError } from '../errors.js'
import type { TrainConfigInput } from '../train/options.js'
import type { Mixture } from './procedure.js'
import type { RunRecord } from './run-record.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'

type TrainData = TrainConfigInput['data']

/** The training files of a mixture. */
export function sourcesOf({ disciplines, fresh }: Mixture, data: StudyData): TrainData['train'] {
  if (disciplines === 'instructions') return [{ discipline: 'instructions', path: data.alignment! }]
  return data.disciplines
    .filter(({ name }) => disciplines.includes(name))
    .flatMap(({ name, path, reserve }) => {
      const own = { discipline: name, path }
      return fresh ? [own, { ...own, path: reserve!.path }] : [own]
    })
}

/**
 * The same as a rule of `data.mixing`.
 *
 * @param other the run whose shares it takes, if it does
 * @throws DataError if that run failed
 */
export function mixingOf(
  { shares, mostEpochs }: Mixture,
  { embedding }: Pick<StudyConfig, 'embedding'>,
  other: RunRecord | null,
): TrainData['mixing'] {
  switch (shares) {
    case 'proportional':
    case 'equal':
      return { kind: shares }
    case 'capped':
      return { kind: 'unimax', caps: 'diversity', maxEpochs: mostEpochs, embedding }
    case 'diverse':
      return { kind: 'diverse', maxEpochs: mostEpochs, embedding }
    default:
      if (other === null || other.status === 'failed')
        throw new DataError(`the run whose shares it takes failed: ${other?.reason ?? 'not run'}`)
      return { kind: 'shares', shares: other.mixture }
  }
}
