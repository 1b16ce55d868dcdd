import assert from 'node:assert/strict'
import { it } from 'mocha'
import { ArgumentError } from '../../lib/errors.js'
import { Decoder, parseConfig } from '../../lib/models/index.js'
import { initializeWeights } from '../../lib/models/load.js'
import { assertSameBits, relativeError } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { goldenJson, goldenTensors } from '../golden-files.js'
import { Random } from '../random.js'
import {
  disposable,
  expectedLogits,
  forwardAll,
  goldenModels,
  loadGoldenModel,
} from './golden-model.js'

// Of the largest logit. The reference's own noise between processors is 1.2e-6; some forty roundings deep, ours may be
// a few times that. What is asked for is 1e-4: a wrong epsilon, angle or rounding of a weight shows far above this.
const tolerance = 1e-5

forEachDevice('Decoder', (context) => {
  for (const name of goldenModels)
    it(`gives the logits and hidden states of transformers: ${name}`, async () => {
      using decoder = await loadGoldenModel(context.device, name)
      const expected = expectedLogits(`models/${name}`)
      const { hidden, logits } = await forwardAll(decoder, expected)
      const error = relativeError(logits, expected.logits)
      assert.ok(error <= tolerance, `logits: ${error}`)
      // The last of the hidden states is that of the first sequence, after the final norm.
      const states = goldenTensors(`models/${name}/expected.safetensors`).get('hidden_states')!
      const [count, length, width] = states.shape
      const last = states.values.slice((count - 1) * length * width)
      const hiddenError = relativeError(hidden.slice(0, length * width), last)
      assert.ok(hiddenError <= tolerance, `hidden states: ${hiddenError}`)
    })

  it('gives a sequence the same bits alone and packed', async () => {
    for (const name of ['llama-3-scaling', 'qwen3-sharded']) {
      using decoder = await loadGoldenModel(context.device, name)
      const { tokens, cuSeqlens } = expectedLogits(`models/${name}`)
      const whole = await forwardAll(decoder, { tokens, cuSeqlens })
      const width = whole.logits.length / tokens.length
      for (let s = 0; s + 1 < cuSeqlens.length; ++s) {
        const [begin, end] = [cuSeqlens[s], cuSeqlens[s + 1]]
        const alone = await forwardAll(decoder, {
          tokens: tokens.slice(begin, end),
          cuSeqlens: Int32Array.of(0, end - begin),
        })
        assertSameBits(alone.logits, whole.logits.slice(begin * width, end * width), `${name} ${s}`)
      }
    }
  })

  it('computes in bf16 near to float32', async () => {
    for (const name of ['qwen2', 'llama-3-scaling', 'qwen3']) {
      using decoder = await loadGoldenModel(context.device, name, { compute: 'bf16' })
      const expected = expectedLogits(`models/${name}`)
      const { logits } = await forwardAll(decoder, expected)
      const error = relativeError(logits, expected.logits)
      // Operands are rounded to 8 bits in each of some fifteen products on the way: 15 · 2^-9.
      assert.ok(error <= 0.03, `${name}: ${error}`)
      assert.ok(error >= 1e-4, `${name}: ${error} is too good for bf16`)
    }
  })

  it('takes every spelling of a configuration for the same bits', async () => {
    using decoder = await loadGoldenModel(context.device, 'llama-3-scaling')
    const expected = expectedLogits('models/llama-3-scaling')
    const { logits } = await forwardAll(decoder, expected)
    for (const file of ['rope-parameters', 'rope-scaling', 'rope-scaling-type']) {
      const config = parseConfig(goldenJson(`models/llama-3-scaling/configs/${file}.json`))
      const other = new Decoder(context.device, config, decoder.weights)
      assertSameBits((await forwardAll(other, expected)).logits, logits, file)
      other.dispose()
    }
  })

  it('refuses a sequence longer than max_position_embeddings, and grows its table up to that', async () => {
    // Tables begin with 512 positions; the emulator pays for attention by the square.
    const most = context.variant.kind === 'cuda-emulated' ? 603 : 1203
    const config = parseConfig({
      ...goldenJson<object>('models/llama-grouped/model/config.json'),
      max_position_embeddings: most,
    })
    const weights = await initializeWeights(context.device, config, 3)
    using decoder = disposable(new Decoder(context.device, config, weights))
    const random = new Random(4)
    const run = async (length: number) => {
      const tokens = random.integers(length, config.vocabSize)
      return forwardAll(decoder, { tokens, cuSeqlens: Int32Array.of(0, length) })
    }
    for (const length of [5, Math.floor(most / 2), most]) {
      const { logits } = await run(length)
      assert.ok(logits.every(Number.isFinite))
    }
    await assert.rejects(run(most + 1), (error: Error) => {
      assert.ok(error instanceof ArgumentError)
      assert.match(
        error.message,
        new RegExp(`${most + 1} tokens.*max_position_embeddings, ${most}`),
      )
      return true
    })
  })
})
