/** What a run of the benchmark writes down. */
import { execFileSync } from 'node:child_process'
import { cpus, loadavg, totalmem } from 'node:os'
import { fileURLToPath } from 'node:url'
import type { DType } from './cases.js'
import type { Work } from './roofline.js'

/** Rates of the machine, measured by the kernels' own program with so many threads. */
export interface Peak {
  readonly threads: number
  readonly instructionSet: string
  readonly fmaFlopsPerThread: number
  readonly dotFlopsPerThread: number
  readonly readBytes: number
}

export interface KernelFigure {
  readonly threads: number
  readonly kind: string
  readonly name: string
  readonly seconds: number
  /** Of the peak, or of what copying as many bytes takes. */
  readonly share: number
  readonly [figure: string]: string | number
}

export interface StepFigure {
  readonly model: string
  readonly dtype: DType
  readonly method: 'lora' | 'full'
  readonly checkpointing: boolean
  readonly tokens: number
  /** Median over the steps. */
  readonly seconds: number
  readonly stepSeconds: readonly number[]
  readonly losses: readonly number[]
  readonly peakBytes: number
  readonly devicePeakBytes: number
  readonly loadSeconds: number
  /** What is allowed by the arithmetic alone, and with the bytes where they take longer. */
  readonly roofline: { readonly arithmetic: number; readonly bound: number }
  readonly profile: {
    readonly seconds: number
    readonly operations: readonly OperationFigure[]
  } | null
}

export interface OperationFigure {
  readonly operation: string
  readonly count: number
  readonly seconds: number
  readonly work: Work | null
  readonly arithmetic: number
  readonly memory: number
}

interface Half {
  /** Medians over the rounds. */
  readonly seconds: number
  readonly allSeconds: readonly number[]
  readonly peakBytes: number
  readonly loadSeconds: number
}

export interface PeerFigure {
  readonly model: string
  readonly dtype: DType
  readonly tokens: number
  readonly ours: Half & { readonly losses: readonly number[] }
  readonly peer: Half & { readonly losses: readonly number[] }
  /** Largest relative difference of the losses at the same step. */
  readonly lossDifference: number
}

/** One step of a kind of adapter. Side by side are five adapters, each on its part of the same tokens. */
export interface KindFigure {
  readonly model: string
  readonly dtype: DType
  readonly kind: string
  readonly tokens: number
  readonly ours: KindTime
  readonly peer: KindTime | null
}

interface KindTime {
  /** Medians over the rounds, by the clock and by processor time. */
  readonly seconds: number
  readonly busySeconds: number
  readonly allSeconds: readonly number[]
}

export interface DecodeFigure {
  readonly model: string
  readonly dtype: DType
  readonly batch: number
  /** Seconds of one token of every sequence. */
  readonly ours: number
  readonly peer: number | null
  readonly bound: number
  /** Tokens generated alike before the first difference, and in all; null without a peer. */
  readonly agreement: { readonly same: number; readonly all: number } | null
}

/** When and under what load a section was measured, and of which commit. */
export interface Circumstances {
  readonly at: string
  readonly commit: string
  /** Load averages over 1, 5 and 15 minutes, before the section and after it. */
  readonly loadBefore: readonly number[]
  readonly loadAfter: readonly number[]
}

export interface Sections {
  kernels: readonly KernelFigure[]
  step: readonly StepFigure[]
  peer: readonly PeerFigure[]
  kinds: readonly KindFigure[]
  decode: readonly DecodeFigure[]
}

export interface BenchmarkRecord {
  readonly date: string
  readonly processor: string
  readonly threads: number
  readonly memoryBytes: number
  readonly versions: Readonly<Record<string, string>>
  readonly peaks: readonly Peak[]
  readonly circumstances: Readonly<Partial<Record<keyof Sections, Circumstances>>>
  readonly sections: Readonly<Partial<Sections>>
}

export function processorName(): string {
  return cpus()[0]?.model.trim() ?? 'unknown'
}

export function machine() {
  return { processor: processorName(), memoryBytes: totalmem() }
}

/** The commit that runs, with a plus sign if the sources of the package differ from it. */
export function commit(): string {
  const git = (...args: string[]) =>
    execFileSync('git', args, {
      cwd: fileURLToPath(new URL('..', import.meta.url)),
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    }).trim()
  try {
    const dirty = git('status', '--porcelain', '--', 'lib', 'src', 'benchmark') !== ''
    return git('rev-parse', '--short', 'HEAD') + (dirty ? '+' : '')
  } catch {
    return 'unknown'
  }
}

export async function underCircumstances<T>(
  body: () => Promise<T>,
): Promise<{ result: T; circumstances: Circumstances }> {
  const at = new Date().toISOString()
  const loadBefore = loadavg()
  const result = await body()
  return { result, circumstances: { at, commit: commit(), loadBefore, loadAfter: loadavg() } }
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}
