import { Adapter } from '../adapters/adapter.js'
import type { LoraDeclaration } from '../adapters/declaration.js'
import type { Corpus } from '../data/index.js'
import type { PackedBatch, StepPlan } from '../data/packed-batch.js'
import { Device } from '../device.js'
import { ConfigError, OutOfMemoryError } from '../errors.js'
import type { Model } from '../model.js'
import { Decoder, type DecoderConfig, type DecoderWeights, readConfig } from '../models/index.js'
import { disposeWeights, initializeWeights, loadWeights } from '../models/load.js'
import { scope } from '../scope.js'
import { Tensor, vector } from '../tensor.js'
import { Tokenizer } from '../text/index.js'
import { disciplinesOf, numStepsOf, openCorpus, stepsOf } from './inputs.js'
import { createAdapter } from './method.js'
import type { TrainConfig } from './options.js'
import { Trainer, type TrainerOptions } from './trainer.js'
import { validationLoss } from './validation.js'

/** How much longer a LoRA step takes that recomputes its activations: 1.31 and 1.40 in float32 in docs/measurements. */
export const checkpointingTime = 1.35

/** Bytes of device memory that a training run holds at its worst moment. */
export interface MemoryUse {
  /** In the layout of the products, and frozen vectors. */
  readonly weights: number
  /** Float32 values of what is trained. */
  readonly trainedValues: number
  readonly gradients: number
  /** AdamW's first and second moments. */
  readonly moments: number
  /** What the forward pass of the largest micro-batch keeps for its backward pass. */
  readonly activations: number
  /** On top of that at the worst moment: gradients of activations, and the workspace of an operation. */
  readonly working: number
  /** The sum of all these. */
  readonly peak: number
  /** With what the allocator holds beside: this is what the device's budget must have room for. */
  readonly reserved: number
}

/** What a training run will need. */
export interface MemoryPlan {
  readonly device: string
  /** What the device may use, in bytes. */
  readonly budget: number
  /** As the configuration has it. */
  readonly activationCheckpointing: boolean
  /** With all activations kept, and with those of one block at a time. */
  readonly plain: MemoryUse
  readonly checkpointed: MemoryUse
  /** Bytes of this process beside the device, with the tokenizer and the corpus in memory as in the run. */
  readonly javascript: number
  /** The micro-batch of the run that has the most tokens. */
  readonly largestBatch: { readonly tokens: number; readonly trainedTokens: number }
}

/**
 * What a run will need before anything of it is computed: the corpus is read, and its largest step is rehearsed, so that
 * the plan follows whatever the step does.
 *
 * @throws what the run itself would throw for its configuration, model folder and corpus
 */
export async function planMemory(
  config: TrainConfig,
  { signal, onMessage }: { signal?: AbortSignal; onMessage?: (message: string) => void } = {},
): Promise<MemoryPlan> {
  const modelConfig = await readConfig(config.model)
  await using tokenizer = await Tokenizer.load(config.model)
  const model = { tokenizer, config: modelConfig }
  const open = (sources: typeof config.data.train) =>
    openCorpus(config, sources, model, { signal, onMessage })
  await using corpus = await open(config.data.train)
  const stream = stepsOf(config, corpus)
  // What a mixing draws is not known without the model, so the worst that it could.
  const step = config.data.mixing
    ? await stream.fullestStep()
    : await stream.largestStep(await numStepsOf(config, stream))
  let validation: PackedBatch | null = null
  if (config.data.validation.length > 0) {
    await using held = await open(config.data.validation)
    for await (const batch of held.batches())
      if (batch.inputIds.length > (validation?.inputIds.length ?? 0)) validation = batch
  }
  const javascript = process.memoryUsage.rss()
  const rehearse = await rehearsalOf(config, modelConfig, step, validation)
  return {
    ...(await deviceBudget(config)),
    activationCheckpointing: config.activationCheckpointing,
    plain: await rehearse(false),
    checkpointed: await rehearse(true),
    javascript,
    largestBatch: largestBatchOf(step),
  }
}

/** @throws ConfigError if the run does not fit into the device's budget, naming what would help */
export function requireMemory(plan: MemoryPlan): void {
  const use = plan.activationCheckpointing ? plan.checkpointed : plan.plain
  if (use.reserved > plan.budget) refuse(plan, use.reserved)
}

/**
 * Refuses a new run that is sure to fail for want of memory, before anything of it is computed: one of whose steps the
 * tensors alone exceed the budget, whatever the allocator makes of them. Only the CPU's workspaces are known beforehand.
 *
 * @throws ConfigError, as requireMemory
 */
export async function requireRoom(
  config: TrainConfig,
  { device, config: modelConfig }: Pick<Model, 'device' | 'config'>,
  corpus: Corpus,
): Promise<void> {
  // What a mixing draws is not known here.
  if (device.kind !== 'cpu' || config.data.mixing) return
  const stream = stepsOf(config, corpus)
  const { every, patience } = config.evaluation
  // With early stopping an evaluation may end the run.
  const certain = patience === undefined ? Infinity : every
  const step = await stream.largestStep(Math.min(await numStepsOf(config, stream), certain))
  const budget = device.info.memoryBudget
  const rehearse = await rehearsalOf(config, modelConfig, step, null)
  const { activationCheckpointing } = config
  const use = await rehearse(activationCheckpointing)
  if (use.peak <= budget) return
  const other = await rehearse(!activationCheckpointing)
  const [plain, checkpointed] = activationCheckpointing ? [other, use] : [use, other]
  const largestBatch = largestBatchOf(step)
  refuse(
    { device: device.kind, budget, activationCheckpointing, plain, checkpointed, largestBatch },
    use.peak,
  )
}

function refuse(plan: Omit<MemoryPlan, 'javascript'>, needed: number): never {
  const { budget, activationCheckpointing, plain, checkpointed, largestBatch } = plan
  const use = activationCheckpointing ? checkpointed : plain
  const fixed = use.peak - use.activations - use.working
  const remedies = [
    ...(!activationCheckpointing && checkpointed.reserved <= budget
      ? [`activationCheckpointing: true, which needs ${mebibytes(checkpointed.reserved)}`]
      : []),
    ...(fixed < budget ? ['a smaller batch.size or data.maxLength'] : ['a smaller model']),
  ]
  throw new ConfigError(
    `the run needs ${mebibytes(needed)} of memory on the ${plan.device} device, of which ${mebibytes(fixed)} whatever the batch, and ${mebibytes(budget)} may be used; its largest micro-batch has ${largestBatch.tokens} tokens; what would help: ${remedies.join(', or ')}`,
    { details: { needed, budget, fixed } },
  )
}

function largestBatchOf({ batches }: StepPlan): MemoryPlan['largestBatch'] {
  const largest = batches.reduce((a, b) => (b.inputIds.length > a.inputIds.length ? b : a))
  return { tokens: largest.inputIds.length, trainedTokens: largest.labels.length }
}

/** Rehearses a step of a run, with activations kept or recomputed. */
async function rehearsalOf(
  config: TrainConfig,
  modelConfig: DecoderConfig,
  step: StepPlan,
  validation: PackedBatch | null,
): Promise<(checkpointing: boolean) => Promise<MemoryUse>> {
  const declaration = await declarationOf(config, modelConfig)
  return (checkpointing) =>
    rehearseStep({
      config: modelConfig,
      weights: (device) => reserveWeights(device, config, modelConfig),
      declaration,
      trainer: { ...config.optimizer, checkpointing },
      threads: config.threads,
      step,
      validation,
    })
}

/** What {@link rehearseStep} rehearses. */
export interface Rehearsal {
  readonly config: DecoderConfig
  readonly weights: (device: Device) => Promise<DecoderWeights>
  /** Null: full fine-tuning. */
  readonly declaration: LoraDeclaration | null
  readonly trainer: TrainerOptions
  readonly threads?: number
  readonly step: StepPlan
  readonly validation?: PackedBatch | null
}

/** The device memory of one optimiser step: the step's own code on a device that computes nothing. */
export async function rehearseStep(rehearsal: Rehearsal): Promise<MemoryUse> {
  const { config, declaration, step, validation } = rehearsal
  const device = await openIdleDevice(rehearsal.threads)
  try {
    const weights = await rehearsal.weights(device)
    const decoder = new Decoder(device, config, weights)
    const adapter = declaration && Adapter.create(device, config, declaration, { lenient: true })
    await adapter?.bind(weights, { loaded: true })
    const used = () => device.info.memoryUsed
    let afterForward = 0
    const trainer = new Trainer(decoder, adapter, {
      ...rehearsal.trainer,
      onForward: () => {
        afterForward = Math.max(afterForward, used())
      },
    })
    const before = used()
    // Each ends where it waits for a value that never comes; by then all of it has been queued.
    await ignoreFailure(trainer.step(step, 1, 1))
    if (validation) await ignoreFailure(validationLoss(decoder, adapter, repeatOnce(validation)))
    const { memoryPeak: peak, memoryReserved: reserved } = device.info
    let trainedValues = 0
    for (const { value } of trainer.optimizer.state()) trainedValues += value.byteLength
    const activations = afterForward - before
    trainer.dispose()
    adapter?.dispose()
    decoder.dispose()
    disposeWeights(weights)
    return {
      weights: before - 4 * trainedValues,
      trainedValues,
      gradients: trainedValues,
      moments: 2 * trainedValues,
      activations,
      working: peak - before - activations,
      peak,
      reserved,
    }
  } finally {
    await device.close()
  }
}

/**
 * A device that checks what it is asked and accounts for the memory, but computes nothing and touches none of it: its
 * queue has failed on purpose. Its budget is beyond any machine, so that what does not fit can be told by how much.
 */
async function openIdleDevice(threads?: number): Promise<Device> {
  const device = Device.open('cpu', { threads, memoryBudget: 2 ** 50 })
  scope(() => {
    const source = Tensor.empty(device, [1, 1])
    const outside = vector(device, Int32Array.of(1))
    const y = Tensor.empty(device, [1, 1])
    device.run('gather_rows', { source: source.native, indices: outside.native, y: y.native })
  })
  await ignoreFailure(device.synchronize())
  return device
}

/** The failure that makes a device idle is meant; want of memory is not, and would leave the rehearsal half done. */
async function ignoreFailure(promise: Promise<unknown>): Promise<void> {
  await promise.catch((error: unknown) => {
    if (error instanceof OutOfMemoryError) throw error
  })
}

async function* repeatOnce(batch: PackedBatch): AsyncGenerator<PackedBatch> {
  yield await Promise.resolve(batch)
}

function reserveWeights(
  device: Device,
  { method, model, seed, dtype }: TrainConfig,
  config: DecoderConfig,
): Promise<DecoderWeights> {
  return method.kind === 'full' && method.initialize
    ? initializeWeights(device, config, seed, { compute: dtype })
    : loadWeights(device, model, config, { compute: dtype, readsValues: false })
}

/** A saved adapter is loaded for what it says of itself: it is small. */
async function declarationOf(
  { method, seed, data }: TrainConfig,
  config: DecoderConfig,
): Promise<LoraDeclaration | null> {
  if (method.kind === 'full') return null
  if (method.kind === 'side-by-side')
    throw new ConfigError(
      'the memory of adapters side by side cannot be planned yet: plan the run of one discipline; the model and its activations are the same, and each adapter adds its own values, gradients and moments',
      { details: { key: 'method.kind', received: method.kind } },
    )
  const device = Device.open('cpu', { threads: 1 })
  try {
    const disciplines = disciplinesOf(data.train)
    const adapter = await createAdapter({ device, config, weights: null }, method, {
      seed,
      disciplines,
    })
    adapter.dispose()
    return adapter.declaration
  } finally {
    await device.close()
  }
}

async function deviceBudget(config: TrainConfig): Promise<{ device: string; budget: number }> {
  const device = Device.open(config.device, { threads: config.threads })
  try {
    return { device: device.kind, budget: device.info.memoryBudget }
  } finally {
    await device.close()
  }
}

function mebibytes(bytes: number): string {
  return `${Math.ceil(bytes / 2 ** 20).toLocaleString('en')} MiB`
}
