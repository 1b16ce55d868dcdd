/** The sections of the benchmark: each measures one thing and returns its figures. */
import { basename } from 'node:path'
import { buildNativePrograms, root } from '../scripts/bootstrap.mjs'
import { run, ScriptError } from '../scripts/run.mjs'
import type { Case, CaseFiles, DType } from './cases.js'
import {
  type DecodeFigure,
  type KernelFigure,
  median,
  type OperationFigure,
  type Peak,
  type PeerFigure,
  type StepFigure,
} from './record.js'
import { decodeBound, type Rates, roofline, secondsOf, workOfStep } from './roofline.js'
import { type Decoded, Side, type Step } from './side.js'

export interface Setting {
  readonly cases: readonly Case[]
  readonly dtypes: readonly DType[]
  readonly quick: boolean
  readonly threads: number
  readonly instructionSet: string
  readonly rates: Rates
  /** Null: there is no peer. */
  readonly python: string | null
  /** The files of a case, made when first asked for. */
  readonly files: (one: Case, dtype: DType) => Promise<CaseFiles>
  readonly say: (text: string) => void
  /** Versions that a side has told. */
  readonly versions: (versions: Readonly<Record<string, string>>) => void
}

// ---- Kernels ----

interface PrintedFigure {
  readonly kind: string
  readonly name: string
  readonly [figure: string]: string | number
}

/** Runs a program of benchmark/native, whose lines are JSON. */
async function runProgram(name: string, args: readonly string[], quick: boolean) {
  const programs = (await buildNativePrograms('benchmarks')) as string[] | null
  const program = programs?.find((path) => basename(path) === name)
  if (!program) throw new ScriptError('the benchmarks of kernels need cmake')
  const { code, output } = await run(program, args, {
    cwd: root,
    quiet: true,
    env: {
      ...process.env,
      POLYLORA_BENCHMARK_JSON: '1',
      ...(quick ? { POLYLORA_BENCHMARK_QUICK: '1' } : {}),
    },
  })
  if (code !== 0) throw new ScriptError(`${program} failed: ${output}`)
  return output
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as PrintedFigure)
}

function peakOf(lines: readonly PrintedFigure[]): Peak {
  const { name, ...figures } = lines.find(({ kind }) => kind === 'peak')!
  return { instructionSet: name, ...figures } as unknown as Peak
}

export async function measurePeak(threads: number, set: string): Promise<Peak> {
  // A filter that nothing matches: the peaks alone.
  return peakOf(await runProgram('matmul', [String(threads), set, 'peaks alone'], false))
}

export async function measureKernels(
  { threads, instructionSet, quick, say }: Omit<Setting, 'rates'>,
  onPeak: (peak: Peak) => void,
): Promise<KernelFigure[]> {
  const figures: KernelFigure[] = []
  for (const count of new Set([1, threads])) {
    say(`kernels with ${count} thread${count > 1 ? 's' : ''}`)
    const products = await runProgram('matmul', [String(count), instructionSet], quick)
    onPeak(peakOf(products))
    const others = [
      ...(await runProgram('attention', [instructionSet, String(count)], quick)),
      ...(await runProgram('elementwise', [instructionSet, String(count)], quick)),
    ]
    for (const line of [...products, ...others])
      if (line.kind !== 'peak') figures.push({ ...line, threads: count } as unknown as KernelFigure)
  }
  return figures
}

// ---- Training steps ----

const methods = [
  { method: 'lora', checkpointing: false },
  { method: 'lora', checkpointing: true },
  { method: 'full', checkpointing: false },
] as const

/** Steps to take: about as many as a minute has on a small machine. */
function stepsOf({ config }: Case, quick: boolean): number {
  if (quick) return 3
  return config.hidden_size > 500 ? 4 : 30
}

export async function measureSteps(setting: Setting): Promise<StepFigure[]> {
  const figures: StepFigure[] = []
  for (const one of setting.cases)
    for (const dtype of setting.dtypes)
      for (const how of methods) {
        setting.say(
          `${one.name} ${dtype}: ${how.method}${how.checkpointing ? ', checkpointed' : ''}`,
        )
        figures.push(await measureStep(setting, one, dtype, how))
      }
  return figures
}

async function measureStep(
  { threads, quick, files, rates, versions }: Setting,
  one: Case,
  dtype: DType,
  how: (typeof methods)[number],
): Promise<StepFigure> {
  const work = workOfStep(one, dtype, how.method)
  await using side = await Side.ours({ files: await files(one, dtype), dtype, threads, ...how })
  versions(side.versions)
  const count = stepsOf(one, quick)
  const steps: Step[] = []
  // The first step reserves memory and is not counted.
  for (let i = 0; i <= count; i++) steps.push(await side.step())
  const { peak, devicePeak } = await side.memory()
  const profile = how.checkpointing ? null : await side.profile(Math.ceil(count / 2))
  const stepSeconds = steps.slice(1).map(({ seconds }) => seconds)
  return {
    model: one.name,
    dtype,
    ...how,
    tokens: one.sequences * one.length,
    seconds: median(stepSeconds),
    stepSeconds,
    losses: steps.map(({ loss }) => loss),
    peakBytes: peak,
    devicePeakBytes: devicePeak!,
    loadSeconds: side.loadSeconds,
    roofline: roofline(work, rates),
    profile: profile && {
      seconds: profile.seconds,
      operations: profile.operations
        .map((timed): OperationFigure => {
          const its = Object.hasOwn(work, timed.operation) ? work[timed.operation] : null
          const bound = its ? secondsOf(its, rates) : { arithmetic: 0, memory: 0 }
          return { ...timed, work: its, ...bound }
        })
        .toSorted((a, b) => b.seconds - a.seconds),
    },
  }
}

// ---- The peer ----

export async function measurePeer(setting: Setting): Promise<PeerFigure[]> {
  const figures: PeerFigure[] = []
  for (const one of setting.cases)
    for (const dtype of setting.dtypes) {
      setting.say(`${one.name} ${dtype}: LoRA beside transformers and PEFT`)
      figures.push(await comparePeer(setting, one, dtype))
    }
  return figures
}

/** Milliseconds after which no further step begins: without bf16 instructions one of torch's takes minutes. */
const longestComparison = 5 * 60_000

/** Both sides stay loaded and step in turn, so that what else the machine does falls on both. */
async function comparePeer(
  { threads, quick, files, python, versions }: Setting,
  one: Case,
  dtype: DType,
): Promise<PeerFigure> {
  const options = {
    files: await files(one, dtype),
    dtype,
    threads,
    method: 'lora',
    checkpointing: false,
  } as const
  await using ours = await Side.ours(options)
  await using peer = await Side.peer(python!, options)
  versions(ours.versions)
  versions(peer.versions)
  const steps = { ours: [] as Step[], peer: [] as Step[] }
  const started = performance.now()
  for (let i = 0; i <= stepsOf(one, quick); i++) {
    if (i > 1 && performance.now() - started > longestComparison) break
    steps.ours.push(await ours.step())
    steps.peer.push(await peer.step())
  }
  const half = async (side: Side, taken: readonly Step[]) => {
    const allSeconds = taken.slice(1).map(({ seconds }) => seconds)
    return {
      seconds: median(allSeconds),
      allSeconds,
      losses: taken.map(({ loss }) => loss),
      peakBytes: (await side.memory()).peak,
      loadSeconds: side.loadSeconds,
    }
  }
  const differences = steps.ours.map(({ loss }, i) => {
    const other = steps.peer[i].loss
    return Math.abs(loss - other) / Math.abs(other)
  })
  return {
    model: one.name,
    dtype,
    tokens: one.sequences * one.length,
    ours: await half(ours, steps.ours),
    peer: await half(peer, steps.peer),
    lossDifference: Math.max(...differences),
  }
}

// ---- Decoding ----

const promptLength = 32

export async function measureDecoding(setting: Setting): Promise<DecodeFigure[]> {
  const figures: DecodeFigure[] = []
  for (const one of setting.cases)
    for (const dtype of setting.dtypes) {
      setting.say(`${one.name} ${dtype}: decoding`)
      figures.push(...(await compareDecoding(setting, one, dtype)))
    }
  return figures
}

async function compareDecoding(
  { threads, quick, files, rates, python, versions }: Setting,
  one: Case,
  dtype: DType,
): Promise<DecodeFigure[]> {
  const options = {
    files: await files(one, dtype),
    dtype,
    threads,
    method: 'decode',
    checkpointing: false,
  } as const
  const maxTokens = quick ? 5 : 33
  const rounds = quick ? 2 : 3
  await using ours = await Side.ours(options)
  const peer = python === null ? null : await Side.peer(python, options)
  versions(ours.versions)
  if (peer) versions(peer.versions)
  const figures: DecodeFigure[] = []
  try {
    for (const batch of [1, 16]) {
      const prompts = Array.from({ length: batch }, (_, i) =>
        Array.from({ length: promptLength }, (_, t) => (7 * t + 31 * i + 3) % 499),
      )
      const seconds = { ours: [] as number[], peer: [] as number[] }
      let tokens: { ours: Decoded['tokens']; peer: Decoded['tokens'] } = { ours: [], peer: [] }
      for (let round = 0; round <= rounds; round++) {
        // The prompt and the first token are taken off: what is left is decoding.
        const both = async (side: Side) => {
          const first = await side.decode(prompts, 1)
          const all = await side.decode(prompts, maxTokens)
          return { each: (all.seconds - first.seconds) / (maxTokens - 1), tokens: all.tokens }
        }
        const mine = await both(ours)
        const theirs = peer && (await both(peer))
        tokens = { ours: mine.tokens, peer: theirs?.tokens ?? [] }
        if (round === 0) continue
        seconds.ours.push(mine.each)
        if (theirs) seconds.peer.push(theirs.each)
      }
      figures.push({
        model: one.name,
        dtype,
        batch,
        ours: median(seconds.ours),
        peer: peer ? median(seconds.peer) : null,
        bound: decodeBound(one, dtype, batch, promptLength + maxTokens / 2, rates),
        agreement: peer ? agreement(tokens.ours, tokens.peer) : null,
      })
    }
  } finally {
    await peer?.close()
  }
  return figures
}

function agreement(a: Decoded['tokens'], b: Decoded['tokens']): { same: number; all: number } {
  let same = 0
  let all = 0
  a.forEach((tokens, i) => {
    const first = tokens.findIndex((token, t) => token !== b[i][t])
    same += first < 0 ? tokens.length : first
    all += tokens.length
  })
  return { same, all }
}
