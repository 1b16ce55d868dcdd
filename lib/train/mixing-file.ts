import type { Clustering } from '../data/balance/clusters.js'
import type { DisciplineReport, MixingPlan } from '../data/balance/plan.js'
import type { RealisedMixing } from '../data/balance/realised.js'
import type { Corpus } from '../data/index.js'
import { CheckpointError } from '../errors.js'
import type { LearnedWeights } from './doremi.js'
import type { RunMixing } from './mixing.js'
import { type Json, mixingName, type RunFolder } from './run-folder.js'

/** mixing.json: what a run mixes, what its plan does to the corpus, and at the end what came of it. */
interface MixingFile {
  readonly version: 1
  readonly disciplines: Readonly<Record<string, SavedDiscipline>>
  readonly sequence: readonly string[] | null
  readonly learned: LearnedWeights | null
  readonly realised: RealisedMixing | null
  /** By discipline, in base64 of little-endian 16-bit numbers, one a sample. */
  readonly copies: Readonly<Record<string, string>>
  readonly clusters: Readonly<Record<string, string>>
}

interface SavedDiscipline extends DisciplineReport {
  readonly share: number
  readonly draws: number
}

const fileCap = 1 << 30

export async function writeMixing(
  folder: RunFolder,
  { plan, learned }: RunMixing,
  realised: RealisedMixing | null,
): Promise<void> {
  const each = <T>(of: (discipline: MixingPlan['disciplines'][number]) => T) =>
    Object.fromEntries(plan.disciplines.map((one) => [one.name, of(one)]))
  const file: MixingFile = {
    version: 1,
    disciplines: each(({ share, draws, report }) => ({ share, draws, ...report })),
    sequence: plan.sequence,
    learned,
    realised,
    copies: each(({ copies }) => encode(copies)),
    clusters: each(({ clusters }) => (clusters ? encode(clusters.of) : '')),
  }
  await folder.writeJson(mixingName, file as unknown as Json)
}

/**
 * What a run that is continued mixes; null if it was killed before it knew.
 *
 * @throws CheckpointError if the file is damaged or of another corpus
 */
export async function readMixing(folder: RunFolder, corpus: Corpus): Promise<RunMixing | null> {
  const path = folder.file(mixingName)
  if ((await folder.fileSystem.inspect(path)) === null) return null
  try {
    const file = JSON.parse(await folder.fileSystem.readText(path, fileCap)) as MixingFile
    if (file.version !== 1) throw new Error(`its version is ${JSON.stringify(file.version)}`)
    const disciplines = corpus.disciplineNames.map((name, discipline) => {
      if (!Object.hasOwn(file.disciplines, name)) throw new Error(`it lacks ${name}`)
      const { share, draws, ...report } = file.disciplines[name]
      const size = corpus.groups.reduce(
        (sum, group) => sum + (group.discipline === discipline ? group.store.size : 0),
        0,
      )
      const copies = decode(file.copies[name], size)
      const clusters: Clustering | null = report.clusters && {
        count: report.clusters.count,
        of: decode(file.clusters[name], size),
      }
      return { name, share, draws, copies, clusters, report }
    })
    return { plan: { disciplines, sequence: file.sequence }, learned: file.learned }
  } catch (cause) {
    throw new CheckpointError(
      `${path} cannot be used: ${(cause as Error).message}; start the run anew in another output folder`,
      { cause, details: { path } },
    )
  }
}

function encode(values: Uint16Array): string {
  const bytes = Buffer.alloc(2 * values.length)
  values.forEach((value, i) => bytes.writeUInt16LE(value, 2 * i))
  return bytes.toString('base64')
}

function decode(text: string, size: number): Uint16Array {
  const bytes = Buffer.from(text, 'base64')
  if (bytes.length !== 2 * size)
    throw new Error(`it is of ${bytes.length / 2} samples, not ${size}`)
  return Uint16Array.from({ length: size }, (_, i) => bytes.readUInt16LE(2 * i))
}
