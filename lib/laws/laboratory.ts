import { join } from 'node:path'
import { saveAdapter } from '../adapters/peft.js'
import type { EmbeddingMemory } from '../data/balance/embedding.js'
import { CorpusMemory } from '../data/index.js'
import type { Device } from '../device.js'
import { DeviceError, isPolyloraError, AbortedError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import {
  mergeAdapter,
  mergeRecipe,
  type ModelDType,
  modelDType,
  parseRecipe,
} from '../merge/index.js'
import { Model } from '../model.js'
import { readConfig } from '../models/index.js'
import type { Tokenizer } from '../text/index.js'
import { declareAdapter, type DeclaredMethod, methodSchema } from '../train/method.js'
import { train } from '../train/train.js'
import type { StepReport } from '../train/step-report.js'
import { successiveHalving, type Trial } from './halving.js'
import { mixingOf, sourcesOf } from './mixture.js'
import {
  type ChatVectorProcedure,
  type ChoiceProcedure,
  type MergeProcedure,
  type Method,
  partsOf,
  type Procedure,
  procedureHash,
  runId,
  sourcesOfShares,
  stepsOf,
  type TrainProcedure,
  withTokens,
} from './procedure.js'
import {
  type Design,
  LossCurve,
  type RunRecord,
  type Specialization,
  readRun,
  writeRun,
} from './run-record.js'
import { accuracyOf, logLikelihoodOf, scoreSet, type SetScores } from './scoring.js'
import { examineExperts } from './specialization.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'
import { drawSubset } from './subset.js'

export interface LaboratoryOptions {
  readonly config: StudyConfig
  readonly data: StudyData
  readonly device: Device
  /** The model's, so that it is not read for every run; default: read. */
  readonly tokenizer?: Tokenizer
  /** Of what runs on the untouched model embed. */
  readonly memory?: EmbeddingMemory
  /** The study's. */
  readonly folder: string
  readonly signal?: AbortSignal
  readonly onMessage?: (message: string) => void
  /** A run that was not there before, or was. */
  readonly onRun?: (record: RunRecord, isNew: boolean) => void
}

const warmupShare = 0.03

/** Carries procedures out, each once: a finished run is a file, and is read where it is there. */
export class Laboratory {
  readonly #options: LaboratoryOptions
  /** Hashes of the procedures that others go on from: their adapters are kept. */
  readonly #parts = new Set<string>()
  readonly #chosen = new Map<string, Promise<Procedure>>()
  readonly #records = new Map<string, RunRecord>()
  readonly #corpora = new CorpusMemory()

  constructor(options: LaboratoryOptions) {
    this.#options = options
  }

  /** Says that this will be asked for: adapters that others go on from are kept when they are first trained. */
  announce(procedure: Procedure): void {
    for (const part of partsOf(procedure)) {
      this.#parts.add(procedureHash(part))
      this.announce(part)
    }
    if (procedure.kind === 'choice') for (const one of procedure.candidates) this.announce(one)
  }

  /** Says that its adapter will be asked for: it is kept when it is trained, or it would be trained again. */
  keep(procedure: Procedure): void {
    this.announce(procedure)
    this.#parts.add(procedureHash(procedure))
  }

  /** The folder of the adapter that a procedure ends in, trained if it was not. */
  async keepAdapter(procedure: Procedure, seed: number): Promise<string> {
    this.keep(procedure)
    return await this.#adapterOf(procedure, seed)
  }

  /** Writes the model that a merge makes, stored as the study's model is; its parts are trained if they were not. */
  async writeModel(
    procedure: MergeProcedure | ChatVectorProcedure,
    seed: number,
    output: string,
  ): Promise<void> {
    this.announce(procedure)
    const dtype = modelDType(await readConfig(this.#options.config.model))
    await this.#writeMerged(procedure, seed, output, dtype)
  }

  /** What a choice chose, with what it was chosen by. */
  async chosen(choice: ChoiceProcedure): Promise<Exclude<Procedure, ChoiceProcedure>> {
    return await this.#settle(choice)
  }

  /** Every run that was asked for, in that order. */
  get records(): readonly RunRecord[] {
    return [...this.#records.values()]
  }

  /**
   * Trains and measures, unless that was done before. What fails is counted.
   *
   * @param sets names of the item sets
   * @throws AbortedError; what the untouched model cannot be measured for
   */
  async run(asked: Procedure, seed: number, sets: readonly string[]): Promise<RunRecord> {
    const procedure = await this.#settle(asked)
    // First, so that what a choice within it tried is among the records also where the run itself is only read.
    const design = await this.#describe(procedure)
    const id = runId(procedure, seed)
    const known = this.#records.get(id) ?? (await readRun(this.#options.folder, id))
    if (
      known !== null &&
      (known.status === 'failed' || sets.every((name) => Object.hasOwn(known.sets, name)))
    ) {
      await this.#recall(procedure, seed)
      this.#note(known, false)
      return known
    }
    const wanted = [...new Set([...Object.keys(known?.sets ?? {}), ...sets])]
    const started = performance.now()
    const result = await this.#carryOut(procedure, seed, wanted)
    const seconds = (performance.now() - started) / 1000
    const record: RunRecord = { id, design, seed, ...result, seconds }
    await writeRun(this.#options.folder, record)
    this.#note(record, true)
    return record
  }

  /** Puts the runs that a run went on from among the records, as they were put there when it was made. */
  async #recall(procedure: Procedure, seed: number): Promise<void> {
    for (const other of sourcesOfShares(procedure)) await this.run(other, seed, [])
    for (const asked of partsOf(procedure)) {
      const part = await this.#settle(asked)
      if (part.kind === 'train') await this.run(part, seed, [])
      else await this.#recall(part, seed)
    }
  }

  /** The candidate that a choice stands for; other procedures stand for themselves. */
  async #settle(procedure: Procedure): Promise<Exclude<Procedure, ChoiceProcedure>> {
    if (procedure.kind !== 'choice') return procedure
    const key = procedureHash(procedure)
    if (!this.#chosen.has(key)) this.#chosen.set(key, this.#choose(procedure))
    return await this.#settle(await this.#chosen.get(key)!)
  }

  /** On the disciplines' validation sets. */
  #choose({ candidates, rungs, seed }: ChoiceProcedure): Promise<Procedure> {
    return successiveHalving(candidates, rungs, (candidate, tokens) =>
      this.#validate(withTokens(candidate, tokens), seed),
    )
  }

  async #validate(procedure: Procedure, seed: number): Promise<Trial | null> {
    const { data } = this.#options
    const names = data.disciplines.map(({ name }) => `validation ${name}`)
    const { sets, status } = await this.run(procedure, seed, names)
    if (status === 'failed') return null
    const over = (value: (name: string) => number) =>
      names.reduce((sum, name) => sum + value(name), 0) / names.length
    return {
      score: over((name) => accuracyOf(sets[name], data.sets.get(name)!)),
      logLikelihood: over((name) => logLikelihoodOf(sets[name]) ?? -Infinity),
    }
  }

  async #carryOut(
    procedure: Procedure,
    seed: number,
    sets: readonly string[],
  ): Promise<Omit<RunRecord, 'id' | 'design' | 'seed' | 'seconds'>> {
    const { config, data, signal } = this.#options
    let made: Made | null = null
    try {
      made = await this.#make(procedure, seed, true)
      const scores: Record<string, SetScores> = {}
      for (const name of sets)
        scores[name] = await scoreSet(made.model, data.sets.get(name)!, config, signal)
      const { model, training } = made
      const experts = sets.some((name) => name.startsWith('test '))
        ? await this.#experts(model)
        : null
      return {
        status: training?.diverged ? 'diverged' : 'finished',
        ...(training?.diverged ? { reason: training.diverged } : {}),
        parameters: model.adapter?.numParameters ?? 0,
        steps: training?.steps ?? 0,
        tokens: training?.tokens ?? 0,
        losses: training?.losses ?? [],
        mixture: training?.mixture ?? {},
        sets: scores,
        ...(experts ? { experts } : {}),
      }
    } catch (error) {
      if (signal?.aborted || error instanceof AbortedError || !isPolyloraError(error)) throw error
      // Where the untouched model cannot be measured no arm can.
      if (procedure.kind === 'base') throw error
      // What a run cannot do says something of its arm: it is counted, and the study goes on.
      this.#options.onMessage?.(`a run failed: ${error.message}`)
      const nothing = { parameters: 0, steps: 0, tokens: 0, losses: [], mixture: {}, sets: {} }
      return { status: 'failed', reason: error.message, ...nothing }
    } finally {
      await made?.model.dispose()
    }
  }

  async #experts(model: Model): Promise<Specialization | null> {
    const { config, data, signal } = this.#options
    if (!model.adapter || model.adapter.declaration.form.gate?.kind !== 'router') return null
    return await examineExperts(model, data, config, signal)
  }

  /**
   * The model that a procedure makes, with its last adapter attached.
   *
   * @param fresh train even if the adapter was kept: for the record of it
   */
  async #make(asked: Procedure, seed: number, fresh: boolean): Promise<Made> {
    const procedure = await this.#settle(asked)
    switch (procedure.kind) {
      case 'base':
        return { model: await this.#load(this.#options.config.model) }
      case 'merge':
      case 'chat-vector':
        return { model: await this.#merged(procedure, seed) }
      case 'train': {
        if (!fresh) await this.run(procedure, seed, [])
        const { model } = await this.#make(procedure.from, seed, false)
        try {
          // What was trained before becomes part of the weights, which stay as they are from here on.
          if (model.adapter) {
            await mergeAdapter(model.decoder.weights, model.adapter, { float32: true })
            model.detach()
          }
          const kept = this.#adapterFolder(procedure, seed)
          if (!fresh && (await nodeFileSystem.inspect(kept)) !== null) {
            await model.attachFrom(kept)
            return { model }
          }
          const training = await this.#train(model, procedure, seed)
          if (
            !fresh ||
            this.#parts.has(procedureHash(asked)) ||
            this.#parts.has(procedureHash(procedure))
          )
            // Also of one that was trained on merged weights, whose parts are joined with it in the end.
            await saveAdapter(model.adapter!, kept, { baseModel: this.#options.config.model })
          return { model, training }
        } catch (error) {
          await model.dispose()
          throw error
        }
      }
    }
  }

  async #train(model: Model, procedure: TrainProcedure, seed: number): Promise<Training> {
    const { config, data, folder, memory, signal } = this.#options
    const { method, learningRate } = await this.#design(procedure)
    const steps = stepsOf(procedure.tokens, config.batchTokens)
    const whole = sourcesOf(procedure.data, data)
    const [of] = sourcesOfShares(procedure)
    const mixing = mixingOf(procedure.data, config, of ? await this.run(of, seed, []) : null)
    const { subset } = procedure.data
    await using drawn = await drawSubset(whole, subset ?? 1, seed, join(folder, 'subset'))
    const names = [...new Set(whole.map(({ discipline }) => discipline ?? 'default'))]
    await model.attachBound(
      declareAdapter(methodSchema.parse(method) as DeclaredMethod, seed, names),
    )
    const curve = new LossCurve(steps)
    let diverged: string | null = null
    try {
      await train(model, {
        data: {
          train: drawn.sources,
          mixing,
          chatTemplate: config.data.chatTemplate,
          onBadRecord: 'skip',
        },
        memory: procedure.from.kind === 'base' ? memory : undefined,
        corpora: this.#corpora,
        steps,
        batch: { maxTokens: config.batchTokens },
        optimizer: { learningRate },
        schedule: { kind: 'cosine', warmupSteps: Math.ceil(warmupShare * steps) },
        seed,
        signal,
        onStep: (report: StepReport) => {
          curve.add(report)
        },
      })
    } catch (error) {
      // Three steps in a row that were not finite changed nothing; the model is measured as it was before them.
      if (!(error instanceof DeviceError && error.details.step !== undefined)) throw error
      diverged = error.message
    }
    return { ...curve.summary(), diverged: diverged ?? curve.divergence() }
  }

  async #describe(procedure: Exclude<Procedure, ChoiceProcedure>): Promise<Design> {
    switch (procedure.kind) {
      case 'base':
        return procedure
      case 'merge':
        return {
          kind: 'merge',
          operator: procedure.operator,
          weights: procedure.parts.map(({ weight }) => weight),
        }
      case 'chat-vector':
        return { kind: 'chat-vector', weight: procedure.weight }
      case 'train': {
        const { tokens } = procedure
        const { shares } = procedure.data
        const data = { ...procedure.data, shares: typeof shares === 'string' ? shares : 'realised' }
        return { kind: 'train', ...(await this.#design(procedure)), data, tokens } as const
      }
    }
  }

  /** The method and learning rate of a training, where a choice has to be made first. */
  async #design({
    method,
    learningRate,
  }: TrainProcedure): Promise<{ method: Method; learningRate: number }> {
    if (typeof learningRate === 'number') return { method, learningRate }
    const found = await this.#settle(learningRate.by)
    if (found.kind !== 'train' || typeof found.learningRate !== 'number')
      throw new Error('a design is chosen among trainings with a learning rate')
    const rate = found.learningRate * (learningRate.factor ?? 1)
    if (learningRate.what === 'learning rate') return { method, learningRate: rate }
    return { method: { ...found.method, rank: method.rank }, learningRate: rate }
  }

  async #merged(procedure: MergeProcedure | ChatVectorProcedure, seed: number): Promise<Model> {
    const output = join(this.#options.folder, 'merged')
    try {
      await this.#writeMerged(procedure, seed, output, 'f32')
      return await this.#load(output)
    } finally {
      await nodeFileSystem.remove(output)
    }
  }

  async #writeMerged(
    procedure: MergeProcedure | ChatVectorProcedure,
    seed: number,
    output: string,
    dtype: ModelDType,
  ): Promise<void> {
    const { config, signal } = this.#options
    const before = `${output}-before`
    try {
      let recipe: object
      if (procedure.kind === 'merge') recipe = await this.#mergeRecipe(procedure, seed)
      else {
        await this.#writeMerged(procedure.from, seed, before, 'f32')
        const { instruct, base, weight } = procedure
        // Task vectors from the merged model: what is not the difference of the two cancels.
        const models = [
          { model: instruct, parameters: { weight } },
          { model: base, parameters: { weight: -weight } },
        ]
        recipe = { merge_method: 'task_arithmetic', base_model: before, models }
      }
      await nodeFileSystem.remove(output)
      const { device, threads } = config
      await mergeRecipe({
        recipe: { ...parseRecipe(recipe), dtype },
        output,
        device,
        threads,
        signal,
      })
    } finally {
      await nodeFileSystem.remove(before)
    }
  }

  async #mergeRecipe({ parts, operator }: MergeProcedure, seed: number): Promise<object> {
    const density = operator === 'ties' ? { density: 0.5 } : {}
    const models: object[] = []
    for (const { of, weight } of parts) {
      const folder = await this.#adapterOf(of, seed)
      models.push({ model: folder, parameters: { weight, ...density } })
    }
    return {
      merge_method: operator,
      base_model: this.#options.config.model,
      models,
      ...(operator === 'ties' ? { parameters: { normalize: false } } : {}),
    }
  }

  #load(folder: string): Promise<Model> {
    const { config, device, tokenizer, signal } = this.#options
    return Model.load(folder, { device, dtype: config.dtype, tokenizer, signal })
  }

  /** The folder of the adapter that a procedure ends in; it is trained again only if it was not kept. */
  async #adapterOf(asked: Procedure, seed: number): Promise<string> {
    const procedure = await this.#settle(asked)
    await this.run(procedure, seed, [])
    const folder = this.#adapterFolder(procedure, seed)
    if ((await nodeFileSystem.inspect(folder)) === null) {
      const { model } = await this.#make(procedure, seed, false)
      await model.dispose()
    }
    return folder
  }

  #adapterFolder(procedure: Procedure, seed: number): string {
    return join(this.#options.folder, 'adapters', runId(procedure, seed))
  }

  #note(record: RunRecord, isNew: boolean): void {
    if (this.#records.get(record.id) === record) return
    this.#records.set(record.id, record)
    this.#options.onRun?.(record, isNew)
  }
}

interface Made {
  readonly model: Model
  readonly training?: Training
}

type Training = ReturnType<LossCurve['summary']> & { readonly diverged: string | null }
