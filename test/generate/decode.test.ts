import assert from 'node:assert/strict'
import { it } from 'mocha'
import { ArgumentError } from '../../lib/errors.js'
import { decode, type DecodeOptions } from '../../lib/generate/decode.js'
import type { Decoder } from '../../lib/models/index.js'
import { forEachDevice } from '../devices.js'
import { goldenJson } from '../golden-files.js'
import { goldenModels, loadGoldenModel } from '../models/golden-model.js'
import { Random } from '../random.js'

interface Generation {
  prompt: number[]
  tokens: number[]
  eosTokens?: number[]
  tokensUntilEos?: number[]
}

const generationOf = (name: string) =>
  goldenJson<{ generation: Generation }>(`models/${name}/expected.json`).generation

/** The tokens of every prompt, and why each ended. */
async function generate(
  decoder: Decoder,
  prompts: readonly (readonly number[])[],
  options: DecodeOptions,
) {
  const results = prompts.map(() => ({ tokens: [] as number[], reason: '' }))
  const inputs = prompts.map((prompt) => Int32Array.from(prompt))
  for await (const step of decode(decoder, null, inputs, options))
    for (const { index, token, finishReason } of step) {
      assert.equal(results[index].reason, '', 'nothing comes after the end')
      if (token !== null) results[index].tokens.push(token)
      if (finishReason !== null) results[index].reason = finishReason
    }
  return results
}

forEachDevice('decode', (context) => {
  for (const name of goldenModels)
    it(`continues greedily as transformers does: ${name}`, async () => {
      using decoder = await loadGoldenModel(context.device, name)
      const { prompt, tokens } = generationOf(name)
      const options = { temperature: 0, maxTokens: tokens.length, stopTokens: [] }
      assert.deepEqual(await generate(decoder, [prompt], options), [{ tokens, reason: 'length' }])
    })

  it('stops at any of the end-of-sequence tokens of the config', async () => {
    using decoder = await loadGoldenModel(context.device, 'llama-3-scaling')
    const { prompt, tokens, eosTokens, tokensUntilEos } = generationOf('llama-3-scaling')
    assert.deepEqual(decoder.config.eosTokenIds, eosTokens)
    assert.ok(tokensUntilEos!.length < tokens.length)
    const [result] = await generate(decoder, [prompt], { temperature: 0 })
    assert.deepEqual(result, { tokens: tokensUntilEos!.slice(0, -1), reason: 'stop' })
  })

  it('gives each prompt of a batch what it gets alone, greedy and sampled', async () => {
    using decoder = await loadGoldenModel(context.device, 'qwen3')
    const random = new Random(12)
    const prompts = [1, 9, 30, 2].map((length) =>
      Array.from(random.integers(length, decoder.config.vocabSize)),
    )
    for (const sampling of [
      { temperature: 0 },
      { temperature: 1.3, topK: 20, topP: 0.9, seed: 5 },
    ]) {
      const options = { ...sampling, maxTokens: 9, stopTokens: [3, 4, 5, 6, 7] }
      const together = await generate(decoder, prompts, options)
      // The first keeps its index, which keys its draws.
      assert.deepEqual(await generate(decoder, prompts.slice(0, 1), options), together.slice(0, 1))
      assert.deepEqual(await generate(decoder, prompts.slice(0, 3), options), together.slice(0, 3))
      if (sampling.temperature > 0) continue
      for (const [i, prompt] of prompts.entries())
        assert.deepEqual(await generate(decoder, [prompt], options), [together[i]])
    }
  })

  it('ends at the longest position of the model', async () => {
    using decoder = await loadGoldenModel(context.device, 'llama-2')
    const { maxPositions } = decoder.config
    const prompt = Array.from(new Random(13).integers(maxPositions - 3, 100))
    const options = { temperature: 0, stopTokens: [], maxTokens: 50 }
    const [result] = await generate(decoder, [prompt], options)
    assert.equal(result.reason, 'length')
    assert.ok(result.tokens.length >= 3 && result.tokens.length <= 4)
  })

  it('refuses prompts that it cannot continue', async () => {
    using decoder = await loadGoldenModel(context.device, 'llama-2')
    const tooLong = Array.from(new Int32Array(decoder.config.maxPositions))
    for (const [prompts, options, part] of [
      [[[]], {}, 'prompt 0'],
      [[[1], tooLong], {}, 'prompt 1'],
      [[[1]], { maxTokens: 0 }, 'maxTokens'],
      [[[1]], { maxTokens: 1.5 }, 'maxTokens'],
    ] as [number[][], DecodeOptions, string][])
      await assert.rejects(generate(decoder, prompts, options), (error: Error) => {
        assert.ok(error instanceof ArgumentError, String(error))
        assert.ok(error.message.includes(part), error.message)
        return true
      })
  })

  it('frees its cache when the consumer leaves early', async () => {
    using decoder = await loadGoldenModel(context.device, 'llama-2')
    let steps = 0
    for await (const step of decode(decoder, null, [Int32Array.of(5, 6)], { temperature: 0 })) {
      assert.equal(step.length, 1)
      if (++steps === 3) break
    }
    assert.equal(steps, 3)
    // forEachDevice compares the memory in use.
  })
})
