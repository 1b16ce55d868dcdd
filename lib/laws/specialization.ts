import type { Adapter, AdapterModule } from '../adapters/adapter.js'
import { Corpus, packBatch, type PackedBatch } from '../data/index.js'
import type { Model } from '../model.js'
import type { RoutingReport } from '../train/routing.js'
import { Trainer } from '../train/trainer.js'
import { validationLoss } from '../train/validation.js'
import type { LayerSpecialization, Specialization } from './run-record.js'
import { mean, mutualInformation } from './statistics/index.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'

const sequencesEach = 40
const batchTokens = 4096
const deadShare = 0.1

interface Sequence {
  readonly example: Parameters<typeof packBatch>[0][number]['example']
  readonly discipline: string
}

/** What the experts of the attached adapter specialise in, on validation sequences of the disciplines. */
export async function examineExperts(
  model: Model,
  data: StudyData,
  config: Pick<StudyConfig, 'data'>,
  signal?: AbortSignal,
): Promise<Specialization> {
  const adapter = model.adapter!
  const sequences = await readSequences(model, data, config, signal)
  const { reports, gates } = await observeGates(model, adapter, sequences)
  const labels = sequences.map(({ discipline }) => discipline)
  return {
    layers: await describeLayers(adapter, reports),
    information: mutualInformation(labels, gates),
    ablation: await ablate(model, adapter, sequences, signal),
  }
}

async function readSequences(
  { tokenizer, config }: Model,
  data: StudyData,
  { data: { chatTemplate } }: Pick<StudyConfig, 'data'>,
  signal?: AbortSignal,
): Promise<Sequence[]> {
  const sources = data.disciplines.map(({ name }) => ({
    discipline: name,
    path: data.sets.get(`validation ${name}`)!.path,
    weight: 1,
  }))
  await using corpus = await Corpus.open(sources, {
    tokenizer,
    chatTemplate,
    maxLength: config.maxPositions,
    onTooLong: 'truncate',
    onBadRecord: 'skip',
    labels: 'all',
    signal,
  })
  const sequences: Sequence[] = []
  for (const { store, source } of corpus.groups)
    for (let i = 0; i < Math.min(sequencesEach, store.size); i++)
      sequences.push({
        example: { ...(await store.read(i)), discipline: 0 },
        discipline: source.discipline,
      })
  return sequences
}

/** Batches in which a sequence is told apart by its own number, or by its discipline's. */
function batchesOf(
  sequences: readonly Sequence[],
  names: readonly string[],
  numberOf: (sequence: Sequence, inBatch: number) => number,
): PackedBatch[] {
  const batches: PackedBatch[] = []
  let samples: Parameters<typeof packBatch>[0][number][] = []
  let tokens = 0
  const flush = () => {
    if (samples.length > 0) batches.push(packBatch(samples, names))
    samples = []
    tokens = 0
  }
  sequences.forEach((sequence, sampleIndex) => {
    const { length } = sequence.example.inputIds
    if (tokens + length > batchTokens) flush()
    const discipline = numberOf(sequence, samples.length)
    samples.push({ example: { ...sequence.example, discipline }, sampleIndex })
    tokens += length
  })
  flush()
  return batches
}

/** Gates by sequence. The routers count in a backward pass, so a step is made that moves nothing: its rate is 0. */
async function observeGates(
  model: Model,
  adapter: Adapter,
  sequences: readonly Sequence[],
): Promise<{ reports: RoutingReport[]; gates: (readonly number[])[] }> {
  const names = sequences.map((_, i) => String(i))
  const batches = batchesOf(sequences, names, (_, inBatch) => inBatch)
  const trainer = new Trainer(model.decoder, adapter, {
    learningRate: 0,
    betas: [0.9, 0.999],
    epsilon: 1e-8,
    weightDecay: 0,
    gradientClipping: 0,
  })
  const reports: RoutingReport[] = []
  const gates: (readonly number[])[] = []
  try {
    for (const [i, batch] of batches.entries()) {
      const plan = { batches: [batch], trainedTokens: batch.labels.length }
      const { routing } = await trainer.step(plan, i + 1, 0)
      reports.push(routing!)
      for (let s = 0; s + 1 < batch.cuSeqlens.length; s++)
        gates.push(routing!.byDiscipline[String(s)])
    }
    return { reports, gates }
  } finally {
    trainer.dispose()
  }
}

async function describeLayers(
  adapter: Adapter,
  reports: readonly RoutingReport[],
): Promise<LayerSpecialization[]> {
  const { experts } = adapter.declaration.form
  const layers: LayerSpecialization[] = []
  for (const [i, { module: path }] of reports[0].routers.entries()) {
    const load = Array.from({ length: experts }, (_, e) =>
      mean(reports.map(({ routers }) => routers[i].load[e])),
    )
    const module = adapter.modules.find((one) => one.path === path)!
    layers.push({
      module: path,
      load,
      entropy: mean(reports.map(({ routers }) => routers[i].entropy)),
      dead: load.filter((gate) => gate < deadShare / experts).length,
      cosine: await meanCosine(module, experts),
    })
  }
  return layers
}

/** Mean cosine between the updates B_e A_e of two experts; 0 where one is nothing. */
async function meanCosine(module: AdapterModule, experts: number): Promise<number> {
  const { group, part, rank, inFeatures, outFeatures } = module
  const a = (await group.a.value.readFloats()).subarray(
    part.begin * inFeatures,
    part.end * inFeatures,
  )
  const b = await part.b.value.readFloats()
  const columns = b.length / outFeatures
  const aAt = (e: number, k: number) => (part.end - part.begin > rank ? e * rank + k : k)
  const bAt = (e: number, k: number) => (columns > rank ? e * rank + k : k)
  // <B_e A_e, B_f A_f> = Σ (B_eᵀ B_f) ∘ (A_e A_fᵀ)
  const inner = (e: number, f: number) => {
    let sum = 0
    for (let k = 0; k < rank; k++)
      for (let l = 0; l < rank; l++) {
        let [left, right] = [0, 0]
        for (let o = 0; o < outFeatures; o++)
          left += b[o * columns + bAt(e, k)] * b[o * columns + bAt(f, l)]
        for (let i = 0; i < inFeatures; i++)
          right += a[aAt(e, k) * inFeatures + i] * a[aAt(f, l) * inFeatures + i]
        sum += left * right
      }
    return sum
  }
  const squares = Array.from({ length: experts }, (_, e) => inner(e, e))
  const cosines: number[] = []
  for (let e = 0; e < experts; e++)
    for (let f = e + 1; f < experts; f++) {
      const scale = Math.sqrt(squares[e] * squares[f])
      cosines.push(scale > 0 ? inner(e, f) / scale : 0)
    }
  return cosines.length > 0 ? mean(cosines) : 1
}

/** By expert, then discipline: loss per token without it, less the loss with all. */
async function ablate(
  model: Model,
  adapter: Adapter,
  sequences: readonly Sequence[],
  signal?: AbortSignal,
): Promise<Record<string, number>[]> {
  const names = [...new Set(sequences.map(({ discipline }) => discipline))]
  const batches = batchesOf(sequences, names, ({ discipline }) => names.indexOf(discipline))
  const losses = async () =>
    (await validationLoss(model.decoder, adapter, inTurn(batches), signal)).lossByDiscipline
  const whole = await losses()
  const changes: Record<string, number>[] = []
  for (let expert = 0; expert < adapter.declaration.form.experts; expert++) {
    const restore = await silence(adapter, expert)
    const without = await losses()
    restore()
    changes.push(Object.fromEntries(names.map((name) => [name, without[name] - whole[name]])))
  }
  return changes
}

/** Makes an expert's update nothing in every layer. @returns what undoes it */
async function silence(adapter: Adapter, expert: number): Promise<() => void> {
  const undo: (() => void)[] = []
  for (const { group, part, rank, inFeatures, outFeatures } of adapter.modules) {
    const b = await part.b.value.readFloats()
    const columns = b.length / outFeatures
    if (columns > rank) {
      const changed = b.slice()
      for (let o = 0; o < outFeatures; o++)
        changed.fill(0, o * columns + expert * rank, o * columns + (expert + 1) * rank)
      part.b.value.write(changed)
      undo.push(() => part.b.value.write(b))
    } else {
      // One B, an expert's own rows of A.
      const a = await group.a.value.readFloats()
      const changed = a.slice()
      const begin = (part.begin + expert * rank) * inFeatures
      changed.fill(0, begin, begin + rank * inFeatures)
      group.a.value.write(changed)
      undo.push(() => group.a.value.write(a))
    }
  }
  // In reverse: modules of a group share their A.
  return () => {
    for (const one of undo.reverse()) one()
  }
}

async function* inTurn<T>(values: readonly T[]): AsyncGenerator<T> {
  for (const value of values) yield await Promise.resolve(value)
}
