import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { AbortedError, ConfigError } from '../../lib/errors.js'
import { readMetrics, type StepMetrics } from '../../lib/train/metrics.js'
import { parseTrainConfig } from '../../lib/train/options.js'
import { runTraining } from '../../lib/train/run.js'
import { temporaryFolder } from '../temporary-folder.js'

const model = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))

describe('runs of adapter kinds', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  function config(method: object, output: string) {
    const train = ['biology', 'law', 'music'].map((discipline, d) => {
      const path = at(`${discipline}.jsonl`)
      const records = Array.from({ length: 7 }, (_, i) => ({
        prompt: `${discipline} ${i}?`,
        completion: ` ${i + d}${'!'.repeat(i % 4)}`,
      }))
      writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
      return { discipline, path }
    })
    return parseTrainConfig({
      model,
      output: at(output),
      method: { rank: 2, dropout: 0.1, ...method },
      data: { train, validation: train },
      optimizer: { learningRate: 5e-3 },
      batch: { size: 4, accumulation: 2 },
      steps: 6,
      checkpoint: { every: 2, keep: 3 },
      seed: 5,
    })
  }

  const methods: Record<string, object> = {
    dora: { kind: 'dora' },
    pissa: { kind: 'pissa' },
    'lora-moe': { kind: 'lora-moe', gate: 'top-k', biasRate: 0.02, balanceLoss: 0.01, experts: 3 },
    'hydra-lora': { kind: 'hydra-lora', supervisedLoss: 0.1, experts: 3 },
    'mtl-lora': { kind: 'mtl-lora' },
  }

  for (const [title, method] of Object.entries(methods))
    it(`end with the same bits when they are stopped and resumed: ${title}`, async () => {
      const isMixture = title.includes('lora-') || title.endsWith('-lora')
      const file = isMixture ? 'mixture_model.safetensors' : 'adapter_model.safetensors'
      const result = async (output: string) => {
        const lines: StepMetrics[] = []
        for await (const line of readMetrics(join(at(output), 'metrics.jsonl')))
          if ('loss' in line) lines.push({ ...line, tokensPerSecond: 0 })
        return { bytes: readFileSync(join(at(output), 'adapter', file)), lines }
      }
      await runTraining(config(method, `${title}-whole`))
      const whole = await result(`${title}-whole`)
      const controller = new AbortController()
      await assert.rejects(
        runTraining(config(method, `${title}-parts`), {
          signal: controller.signal,
          onStep: ({ step }) => {
            if (step === 3) controller.abort()
          },
        }),
        AbortedError,
      )
      await runTraining(config(method, `${title}-parts`), { resume: true })
      const parts = await result(`${title}-parts`)
      assert.ok(parts.bytes.equals(whole.bytes), 'the adapters differ')
      assert.deepEqual(parts.lines, whole.lines)
      const routed = title === 'lora-moe' || title === 'hydra-lora'
      for (const { routing } of whole.lines) {
        assert.equal(routing !== undefined, routed)
        if (!routing) continue
        assert.equal(routing.load.length, 3)
        assert.ok(Object.keys(routing.byDiscipline).length > 0)
        assert.deepEqual(
          Object.keys(routing.losses),
          title === 'lora-moe' ? ['balance'] : ['supervised'],
        )
      }
    })

  it('refuse options of another kind by name', () => {
    const wrong: [object, RegExp][] = [
      [{ kind: 'lora', experts: 2 }, /method\.experts is not a known key/],
      [{ kind: 'lora-moe', experts: 0 }, /method\.experts/],
      [{ kind: 'hydra-lora', shares: 'b' }, /method\.shares is not a known key/],
      [{ kind: 'nothing' }, /method\.kind/],
    ]
    for (const [method, expected] of wrong)
      assert.throws(
        () => config(method, 'wrong'),
        (error: Error) => error instanceof ConfigError && expected.test(error.message),
      )
  })
})
