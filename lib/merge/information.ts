import { join } from 'node:path'
import type { Adapter } from '../adapters/adapter.js'
import { isPlain } from '../adapters/form.js'
import { Corpus, packBatch, type PackedBatch } from '../data/index.js'
import type { DeviceOptions } from '../device.js'
import { AbortedError, ConfigError } from '../errors.js'
import { Model } from '../model.js'
import { layerName, linearGroups, type LinearGroupName, linearNames } from '../models/index.js'
import { unfreezeWeights } from '../models/load.js'
import { saveModel } from '../models/save.js'
import { publishFolder } from '../output-folder.js'
import { writeSafetensors } from '../safetensors.js'
import { scope } from '../scope.js'
import { Tensor } from '../tensor.js'
import { decoderInput, trainMicroBatch } from '../train/step.js'

/** What RegMean and Fisher-weighted averaging must know of a model beside its weights, gathered from a corpus. */
export interface InformationOptions extends DeviceOptions {
  /** Model folder. */
  readonly model: string
  /** Adapter folder, if the model has one on it. */
  readonly adapter?: string
  /** JSONL, CSV or Parquet, with the records of training. */
  readonly data: string
  /** New or empty, and outside the others. */
  readonly output: string
  /** How many samples from the beginning of the file; default: all. */
  readonly samples?: number
  readonly chatTemplate?: boolean
  readonly device?: string
  readonly signal?: AbortSignal
  readonly onProgress?: (samples: number, total: number) => void
}

export const gramName = 'gram.safetensors'

/** The layer under whose name the Gram matrix of an input is kept: the first of those that read it. */
export function gramKey(path: string): string {
  for (const group of Object.values(linearGroups)) {
    const [first, ...others] = group.map((linear) => linearNames[linear])
    for (const other of others)
      if (path.endsWith(`.${other}`)) return path.slice(0, -other.length) + first
  }
  return path
}

/**
 * Writes gram.safetensors: the Gram matrix XᵀX / T of the inputs of every linear layer over the T tokens of a corpus, prompts
 * included (Jin et al. 2023), f32 [in, in]. Layers that read one input share it, under the name of the first: q_proj, o_proj,
 * gate_proj, down_proj.
 *
 * @returns T
 */
export async function collectGram(options: InformationOptions): Promise<{ tokens: number }> {
  return await withModel(options, async (model, adapter, samples) => {
    const { decoder, device } = model
    const grams = new Map<string, Tensor>()
    let tokens = 0
    try {
      for await (const { batch } of samples) {
        tokens += batch.inputIds.length
        scope(() => {
          const onInput = (layer: number, name: LinearGroupName, x: Tensor) => {
            const key = `${layerName(layer)}.${linearNames[linearGroups[name][0]]}`
            const size = x.shape[1]
            let gram = grams.get(key)
            if (!gram) grams.set(key, (gram = Tensor.zeros(device, [size, size]).detach()))
            device.run('matmul', {
              layout: 'tn',
              segments: [{ x: x.native, w: x.native }],
              residual: gram.native,
              y: gram.native,
            })
          }
          decoder.forward(
            { device, tape: null, dropout: null },
            decoderInput(decoder, batch),
            adapter,
            {
              onInput,
            },
          )
        })
        await device.synchronize()
      }
      scope(() => {
        for (const gram of grams.values())
          device.run('add', {
            a: gram.native,
            b: gram.native,
            alpha: 1 / tokens,
            beta: 0,
            y: gram.native,
          })
      })
      const entries = Array.from(grams, ([name, source]) => ({ name, source }))
      const bytesNeeded = entries.reduce((sum, { source }) => sum + source.byteLength, 0)
      await publishFolder(options.output, { what: 'Gram file', bytesNeeded }, async (partial) => {
        await writeSafetensors(join(partial, gramName), [['tokens', String(tokens)]], entries)
      })
      return { tokens }
    } finally {
      for (const gram of grams.values()) gram.release()
    }
  })
}

/**
 * Writes a folder in the form of the model that has, in place of each weight, the diagonal of the empirical Fisher
 * information: the mean over the samples of the squared gradient of the log-likelihood of a sample's trained tokens (Matena
 * and Raffel 2022, with the labels of the corpus in place of draws from the model). With an adapter it is that of the merged
 * weights.
 *
 * @returns how many samples there were
 */
export async function collectFisher(options: InformationOptions): Promise<{ samples: number }> {
  return await withModel(options, async (model, adapter, samples) => {
    const { decoder, device, config } = model
    const parameters = [...unfreezeWeights(device, decoder.weights)]
    const states = parameters.map((parameter) => {
      const { shape } = parameter.value
      return {
        parameter,
        moment: Tensor.zeros(device, shape).detach(),
        mean: Tensor.zeros(device, shape).detach(),
      }
    })
    let count = 0
    try {
      for await (const { batch } of samples) {
        count++
        scope(() => {
          const inputs = {
            step: Tensor.full(device, [1], 1, 'i32'),
            lossScale: Tensor.full(device, [1], 1),
          }
          trainMicroBatch(
            decoder,
            adapter,
            batch,
            inputs,
            Tensor.empty(device, [batch.labels.length]),
          )
          // AdamW's second moment with beta2 = 1 - 1/n is the running mean of squares; a rate of 0 moves nothing.
          device.run('adamw', {
            parameters: states.map(({ parameter, moment, mean }) => ({
              parameter: parameter.value.native,
              gradient: parameter.gradient!.native,
              moment: moment.native,
              variance: mean.native,
              learningRateScale: 1,
              weightDecay: 0,
            })),
            beta1: 0,
            beta2: 1 - 1 / count,
            epsilon: 1,
            learningRate: Tensor.full(device, [1], 0).native,
            step: Tensor.full(device, [1], 1, 'i32').native,
            gradientScale: Tensor.full(device, [1], 1).native,
            finite: Tensor.full(device, [1], 1).native,
          })
          for (const { parameter } of states) parameter.gradient!.fill(0)
        })
        await device.synchronize()
      }
      for (const { parameter, mean } of states) parameter.value.copyFrom(mean)
      await saveModel(options.output, {
        config,
        weights: decoder.weights,
        tokenizerFrom: null,
        dtype: 'f32',
      })
      return { samples: count }
    } finally {
      for (const { parameter, moment, mean } of states) {
        parameter.gradient?.release()
        parameter.gradient = null
        moment.release()
        mean.release()
      }
    }
  })
}

/** Opens the model, and goes through the samples one by one. */
async function withModel<Result>(
  options: InformationOptions,
  body: (
    model: Model,
    adapter: Adapter | null,
    samples: AsyncIterable<{ batch: PackedBatch }>,
  ) => Promise<Result>,
): Promise<Result> {
  const { data, samples = Infinity, chatTemplate = false, signal, onProgress } = options
  if (!(samples >= 1))
    throw new ConfigError(`samples must be a whole number from 1, not ${samples}`, {
      details: { key: 'samples', received: samples },
    })
  await using model = await Model.load(options.model, options)
  const adapter = options.adapter === undefined ? null : await model.attachFrom(options.adapter)
  if (adapter && !isPlain(adapter.declaration.form))
    throw new ConfigError(
      `${options.adapter} is an adapter of kind ${adapter.declaration.kind}; information is gathered of plain LoRA: export it first`,
      { details: { path: options.adapter, received: adapter.declaration.kind } },
    )
  await using corpus = await Corpus.open([{ discipline: 'default', path: data, weight: 1 }], {
    tokenizer: model.tokenizer,
    maxLength: model.config.maxPositions,
    onTooLong: 'truncate',
    onBadRecord: 'error',
    chatTemplate,
    labels: 'all',
    signal,
  })
  const [{ store }] = corpus.groups
  const total = Math.min(samples, store.size)
  async function* each() {
    for (let i = 0; i < total; i++) {
      if (signal?.aborted)
        throw new AbortedError(`gathering stopped before sample ${i + 1}`, { cause: signal.reason })
      const example = { ...(await store.read(i)), discipline: 0 }
      yield { batch: packBatch([{ example, sampleIndex: i }], corpus.disciplineNames) }
      onProgress?.(i + 1, total)
    }
  }
  return await body(model, adapter, each())
}
