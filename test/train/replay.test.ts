import assert from 'node:assert/strict'
import { it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/declaration.js'
import { loraMoe } from '../../lib/adapters/kinds.js'
import { packBatch } from '../../lib/data/packed-batch.js'
import type { Device } from '../../lib/device.js'
import { Decoder, parseConfig } from '../../lib/models/index.js'
import { disposeWeights, initializeWeights } from '../../lib/models/load.js'
import { Trainer } from '../../lib/train/trainer.js'
import { assertSameBits } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { Random } from '../random.js'

const config = parseConfig({
  model_type: 'qwen3',
  hidden_size: 22,
  intermediate_size: 37,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  num_key_value_heads: 1,
  head_dim: 10,
  vocab_size: 71,
  max_position_embeddings: 60,
  initializer_range: 0.2,
})

const methods = {
  lora: lora({ rank: 3, dropout: 0.2, seed: 4 }),
  'lora-moe, top-k': loraMoe({
    rank: 2,
    experts: 3,
    gate: 'top-k',
    balanceLoss: 0.1,
    zLoss: 0.1,
    seed: 5,
  }),
  full: null,
}

/** Lengths of the sequences in each step: five steps of one shape, one of another, two of the first. */
const steps = [...Array.from({ length: 5 }, () => [11, 3, 7]), [4, 9], [11, 3, 7], [11, 3, 7]]

/** Every bit that the steps lead to, and how many replays there were. */
async function train(device: Device, method: keyof typeof methods) {
  const weights = await initializeWeights(device, config, 6)
  const decoder = new Decoder(device, config, weights)
  const declaration = methods[method]
  const adapter = declaration && Adapter.create(device, config, declaration)
  const random = new Random(7)
  for (const { part } of adapter?.modules ?? [])
    part.b.value.write(random.normal(part.b.value.size, 0.1))
  const trainer = new Trainer(decoder, adapter, {
    learningRate: 1e-2,
    betas: [0.9, 0.999],
    epsilon: 1e-8,
    weightDecay: 0.01,
    gradientClipping: 1,
  })
  const { replays, graphReplays } = device.info
  const state = new Map<string, Float32Array>()
  for (const [i, lengths] of steps.entries()) {
    const samples = lengths.map((length, sampleIndex) => ({
      example: {
        inputIds: random.integers(length, config.vocabSize),
        labelMask: Uint8Array.from({ length }, (_, t) => (t > 0 ? 1 : 0)),
        discipline: 0,
      },
      sampleIndex,
    }))
    const batch = packBatch(samples, ['all'])
    const plan = { batches: [batch], trainedTokens: batch.labels.length }
    const { loss, gradNorm, applied } = await trainer.step(plan, i + 1, 1)
    assert.ok(applied)
    state.set(`report ${i}`, Float32Array.of(loss, gradNorm))
  }
  for (const { name, value, moment } of trainer.optimizer.state()) {
    state.set(name, await value.readFloats())
    state.set(`${name}, moment`, await moment.readFloats())
  }
  const { info } = device
  trainer.dispose()
  adapter?.dispose()
  disposeWeights(weights)
  decoder.dispose()
  return {
    state,
    replays: info.replays - replays,
    graphReplays: info.graphReplays - graphReplays,
  }
}

forEachDevice('replayed steps of a training', (context) => {
  for (const method of Object.keys(methods) as (keyof typeof methods)[])
    it(`have the bits of steps that are not: ${method}`, async () => {
      const plain = context.open({ recordings: false })
      const expected = await train(plain, method)
      await plain.close()
      assert.equal(expected.replays, 0)
      const { state, replays, graphReplays } = await train(context.device, method)
      for (const [name, values] of expected.state) assertSameBits(state.get(name)!, values, name)
      // All updates but the first, and on a GPU the fourth and fifth micro-batch of one shape.
      const isOnGpu = context.device.kind !== 'cpu'
      assert.equal(replays, isOnGpu ? 7 + 2 : 7)
      assert.equal(graphReplays, isOnGpu ? 9 : 0)
    })
})
