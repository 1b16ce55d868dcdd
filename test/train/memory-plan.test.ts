import assert from 'node:assert/strict'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'mocha'
import { lora } from '../../lib/adapters/declaration.js'
import { Device } from '../../lib/device.js'
import { ConfigError } from '../../lib/errors.js'
import { Model } from '../../lib/model.js'
import { readConfig } from '../../lib/models/index.js'
import { openCorpus } from '../../lib/train/inputs.js'
import {
  type MemoryPlan,
  planMemory,
  requireMemory,
  requireRoom,
} from '../../lib/train/memory-plan.js'
import { parseTrainConfig, type TrainConfigInput } from '../../lib/train/options.js'
import { train } from '../../lib/train/train.js'
import { saveModel } from '../../lib/models/save.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'

const golden = join(import.meta.dirname, '../golden/models/qwen2-text/model')
const MiB = 2 ** 20

/** A run's own device memory at its worst moment, by training it. */
async function measurePeak(config: TrainConfigInput): Promise<number> {
  const { method, model: folder, dtype, data, optimizer, batch, steps } = config
  const { activationCheckpointing, seed } = config
  const device = Device.open('cpu', { threads: 2 })
  try {
    const model = await Model.load(folder, { device, dtype })
    try {
      if (method.kind === 'lora') model.attach(lora({ ...method, seed }))
      await train(model, { data, optimizer, batch, steps, activationCheckpointing, seed })
      return device.info.memoryPeak
    } finally {
      await model.dispose()
    }
  } finally {
    await device.close()
  }
}

describe('train/memory-plan', () => {
  const folder = temporaryFolder()
  const random = new Random(31)

  /** Texts of very different lengths, so that one micro-batch of the run is far larger than the others. */
  const corpus = (name: string, longest: number) => {
    const path = folder(name)
    const lines = Array.from({ length: 23 }, (_, i) => {
      const words = i === 17 ? longest : 1 + random.integer(12)
      const text = Array.from({ length: words }, () => `w${random.integer(90)}`).join(' ')
      return JSON.stringify({ prompt: text.slice(0, text.length >> 1), completion: text })
    })
    writeFileSync(path, `${lines.join('\n')}\n`)
    return path
  }

  /** A model wider than the golden one, with its tokenizer. */
  const wideModel = async (name: string, dtype: 'f32' | 'bf16') => {
    const { source } = await readConfig(golden)
    const config = {
      ...source,
      layer_types: null,
      hidden_size: 136,
      intermediate_size: 392,
      num_hidden_layers: 5,
      num_attention_heads: 4,
      num_key_value_heads: 2,
      head_dim: 34,
      max_position_embeddings: 2048,
    }
    const model = await Model.initialize(config, golden, { device: 'cpu', dtype, seed: 3 })
    try {
      const { weights, config } = model.decoder
      await saveModel(folder(name), { config, weights, tokenizerFrom: golden, dtype })
    } finally {
      await model.dispose()
    }
    return folder(name)
  }

  const configs: Record<string, Partial<TrainConfigInput> & { longest: number }> = {
    'an adapter': { method: { kind: 'lora', rank: 5, dropout: 0.1 }, longest: 300 },
    'an adapter, activations recomputed': {
      method: { kind: 'lora', rank: 16 },
      activationCheckpointing: true,
      longest: 330,
    },
    'an adapter of few targets, bf16, accumulation': {
      method: { kind: 'lora', rank: 9, targets: ['q_proj', 'down_proj'] },
      dtype: 'bf16',
      batch: { maxTokens: 150, accumulation: 3 },
      longest: 100,
    },
    'all weights': { method: { kind: 'full' }, longest: 70 },
    'all weights of a bf16 model': { method: { kind: 'full' }, dtype: 'bf16', longest: 250 },
  }

  for (const [name, { longest, ...rest }] of Object.entries(configs))
    it(`agrees with the measured peak to within 10%: ${name}`, async () => {
      const input: TrainConfigInput = {
        model: await wideModel(`model ${name}`, rest.dtype ?? 'f32'),
        output: folder(`run ${name}`),
        method: { kind: 'full' },
        data: { train: [{ path: corpus(`${name}.jsonl`, longest) }] },
        batch: { size: 4 },
        steps: 6,
        seed: 5,
        ...rest,
      }
      const plan = await planMemory(parseTrainConfig(input))
      const measured = await measurePeak(input)
      const planned = input.activationCheckpointing ? plan.checkpointed : plan.plain
      const error = Math.abs(planned.peak - measured) / measured
      assert.ok(error < 0.1, `planned ${planned.peak}, measured ${measured}`)
      assert.ok(measured > 2 * MiB, `${measured} bytes are too few to mean much`)
      const { weights, trainedValues, gradients, moments, activations, working } = planned
      for (const part of [weights, trainedValues, gradients, moments, activations, working])
        assert.ok(part > 0)
      assert.equal(
        weights + trainedValues + gradients + moments + activations + working,
        planned.peak,
      )
      assert.ok(plan.checkpointed.activations < plan.plain.activations)
      assert.ok(planned.reserved >= planned.peak)
      requireMemory(plan)
      // Only what cannot fit is refused at the beginning of a run: the run's own peak bounds the plan's.
      assert.ok(planned.peak <= measured, `planned ${planned.peak}, measured ${measured}`)
    })

  it('refuses a new run that is sure not to fit, and no other', async () => {
    const input: TrainConfigInput = {
      model: await wideModel('too large model', 'f32'),
      output: folder('too large'),
      method: { kind: 'lora', rank: 8 },
      data: { train: [{ path: corpus('too large.jsonl', 330) }], shuffle: false },
      batch: { size: 8 },
      steps: 3,
    }
    const config = parseTrainConfig(input)
    const { plain } = await planMemory(config)
    const check = async (memoryBudget: number, changed: Partial<TrainConfigInput> = {}) => {
      const model = await Model.load(config.model, { device: 'cpu', memoryBudget })
      try {
        await using corpus = await openCorpus(config, config.data.train, model, {})
        await requireRoom(parseTrainConfig({ ...input, ...changed }), model, corpus)
      } finally {
        await model.dispose()
      }
    }
    await check(plain.peak)
    await assert.rejects(check(plain.peak - 1), {
      name: 'ConfigError',
      message:
        /^the run needs \d+ MiB of memory on the cpu device, of which \d+ MiB whatever the batch, and \d+ MiB may be used; its largest micro-batch has \d+ tokens; what would help: .*a smaller batch\.size or data\.maxLength$/,
    })
    await check(plain.peak - 1, { activationCheckpointing: true })
    // The largest step is the third; the evaluation after the first may end the run.
    await check(plain.peak - 1, { evaluation: { every: 1, patience: 1 } })
    await assert.rejects(check(plain.peak - 1, { evaluation: { every: 3, patience: 1 } }))
  })

  it('computes nothing, and touches no memory: 34 billion parameters are planned in a few MiB', async () => {
    const { source } = await readConfig(golden)
    const config = {
      ...source,
      layer_types: null,
      hidden_size: 8192,
      intermediate_size: 28672,
      num_hidden_layers: 40,
      num_attention_heads: 64,
      num_key_value_heads: 8,
      head_dim: 128,
    }
    const model = folder('large')
    // Only the configuration and the tokenizer: the run would start from random weights.
    const small = await Model.initializeFrom(golden)
    await saveModel(model, {
      config: { ...small.config, source: config },
      weights: small.decoder.weights,
      tokenizerFrom: golden,
    })
    await small.dispose()
    const before = process.memoryUsage.rss()
    const plan = await planMemory(
      parseTrainConfig({
        model,
        output: folder('large run'),
        method: { kind: 'full', initialize: true },
        data: { train: [{ path: corpus('large.jsonl', 18) }] },
        steps: 2,
      }),
    )
    assert.ok(plan.plain.peak > 400 * 2 ** 30, `${plan.plain.peak}`)
    assert.ok(process.memoryUsage.rss() - before < 300 * MiB)
    assert.throws(() => {
      requireMemory(plan)
    }, ConfigError)
  })

  it('says what is needed, what there is, and what would help', () => {
    const use = {
      weights: 100 * MiB,
      trainedValues: 10 * MiB,
      gradients: 10 * MiB,
      moments: 20 * MiB,
      activations: 300 * MiB,
      working: 60 * MiB,
      peak: 500 * MiB,
      reserved: 512 * MiB,
    }
    const plan: MemoryPlan = {
      device: 'cpu',
      budget: 400 * MiB,
      activationCheckpointing: false,
      plain: use,
      checkpointed: { ...use, activations: 50 * MiB, peak: 250 * MiB, reserved: 256 * MiB },
      javascript: 90 * MiB,
      largestBatch: { tokens: 1234, trainedTokens: 600 },
    }
    assert.throws(
      () => {
        requireMemory(plan)
      },
      {
        name: 'ConfigError',
        message:
          /^the run needs 512 MiB .* 140 MiB whatever the batch, and 400 MiB may be used; .* 1234 tokens; .*activationCheckpointing: true, which needs 256 MiB, or a smaller batch\.size/,
      },
    )
    requireMemory({ ...plan, activationCheckpointing: true })
    requireMemory({ ...plan, budget: 512 * MiB })
  })
})
