import { join } from 'node:path'
import { CheckpointError } from '../errors.js'
import { nodeFileSystem, whatToDo } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import { unfinishedPath } from '../output-folder.js'
import type { StepReport } from '../train/step-report.js'
import type { ChatVectorProcedure, MergeProcedure, Method, Mixture } from './procedure.js'
import type { SetScores } from './scoring.js'
import { mean } from './statistics/index.js'
import type { MutualInformation } from './statistics/index.js'

/** What came of a procedure with a seed; a file of its own. Everything but `seconds` depends on nothing but these two. */
export interface RunRecord {
  readonly id: string
  readonly design: Design
  readonly seed: number
  /** diverged: measured all the same, as it was at the end. failed: there is nothing to measure. */
  readonly status: 'finished' | 'diverged' | 'failed'
  readonly reason?: string
  /** Trained in the last adapter. */
  readonly parameters: number
  readonly steps: number
  /** Through the model in training. */
  readonly tokens: number
  /** Mean over equal parts of the training. */
  readonly losses: readonly number[]
  /** Trained tokens, by discipline. */
  readonly mixture: Readonly<Record<string, number>>
  readonly sets: Readonly<Record<string, SetScores>>
  readonly experts?: Specialization
  readonly seconds: number
}

/** The last thing that was done, with what was chosen for it. */
export type Design =
  | { readonly kind: 'base' }
  | (Pick<MergeProcedure, 'kind' | 'operator'> & { readonly weights: readonly number[] })
  | Pick<ChatVectorProcedure, 'kind' | 'weight'>
  | {
      readonly kind: 'train'
      readonly method: Method
      readonly learningRate: number
      /** realised: those of another run; see `mixture`. */
      readonly data: Omit<Mixture, 'shares'> & { readonly shares: string }
      readonly tokens: number
    }

/** What the experts of a mixture do, on validation sequences. */
export interface Specialization {
  readonly layers: readonly LayerSpecialization[]
  readonly information: MutualInformation
  /** By expert, then discipline: what the loss per token rises by without the expert. */
  readonly ablation: readonly Readonly<Record<string, number>>[]
}

export interface LayerSpecialization {
  readonly module: string
  /** Mean gate of each expert. */
  readonly load: readonly number[]
  /** Over log E. */
  readonly entropy: number
  /** Experts whose mean gate is below 0.1 / E. */
  readonly dead: number
  /** Mean cosine between two experts' updates. */
  readonly cosine: number
}

const fileCap = 64 << 20

const pathOf = (folder: string, id: string) => join(folder, 'runs', `${id}.json`)

/** Null if the run was never finished. */
export async function readRun(folder: string, id: string): Promise<RunRecord | null> {
  const path = pathOf(folder, id)
  if ((await nodeFileSystem.inspect(path)) === null) return null
  return (await readJsonFile(path, fileCap)) as RunRecord
}

export async function writeRun(folder: string, record: RunRecord): Promise<void> {
  await nodeFileSystem.makeFolder(join(folder, 'runs'))
  await writeWhole(pathOf(folder, record.id), `${JSON.stringify(record)}\n`)
}

/** A file that is at every instant as before or whole. @throws CheckpointError */
export async function writeWhole(path: string, text: string): Promise<void> {
  const partial = unfinishedPath(path, 'partial')
  try {
    await nodeFileSystem.writeFile(partial, text)
    await nodeFileSystem.sync(partial)
    await nodeFileSystem.rename(partial, path)
  } catch (cause) {
    await nodeFileSystem.remove(partial).catch(() => undefined)
    const error = (cause as { code?: unknown }).code ?? null
    throw new CheckpointError(
      `${path} could not be written: ${(cause as Error).message}; ${whatToDo(error)}`,
      { cause, details: { path, error } },
    )
  }
}

const curvePoints = 40

/** Losses and tokens of a training, step by step. */
export class LossCurve {
  readonly #window: number
  readonly #losses: number[] = []
  readonly #mixture = new Map<string, number>()
  #tokens = 0

  constructor(steps: number) {
    this.#window = Math.max(1, Math.ceil(steps / curvePoints))
  }

  add({ loss, tokens, trainedTokensByDiscipline }: StepReport): void {
    this.#losses.push(loss)
    this.#tokens += tokens
    for (const [name, count] of Object.entries(trainedTokensByDiscipline))
      this.#mixture.set(name, (this.#mixture.get(name) ?? 0) + count)
  }

  summary() {
    const losses: number[] = []
    for (let i = 0; i < this.#losses.length; i += this.#window) {
      const value = mean(this.#losses.slice(i, i + this.#window).filter(Number.isFinite))
      if (Number.isFinite(value)) losses.push(value)
    }
    return {
      steps: this.#losses.length,
      tokens: this.#tokens,
      losses,
      mixture: Object.fromEntries(this.#mixture),
    }
  }

  /** Why a training that came to its end has diverged all the same; null: it has not. */
  divergence(): string | null {
    const { losses } = this.summary()
    const [first, last] = [losses[0], losses.at(-1)]
    if (first === undefined || last === undefined) return 'no step had a finite loss'
    return losses.length > 4 && last > first
      ? `the loss was ${first.toFixed(3)} at first and ${last.toFixed(3)} at the end`
      : null
  }
}
