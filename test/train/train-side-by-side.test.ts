import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { lora } from '../../lib/adapters/declaration.js'
import { saveAdapter } from '../../lib/adapters/peft.js'
import { ConfigError } from '../../lib/errors.js'
import { Model } from '../../lib/model.js'
import { train } from '../../lib/train/train.js'
import { trainSideBySide } from '../../lib/train/train-side-by-side.js'
import { temporaryFolder } from '../temporary-folder.js'

const modelFolder = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))

describe('training side by side in memory', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  const sizes = { biology: 13, law: 5, music: 21 }
  const sources = () =>
    Object.entries(sizes).map(([discipline, size]) => {
      const path = at(`${discipline}.jsonl`)
      const records = Array.from({ length: size }, (_, i) => ({
        prompt: `${discipline}, what comes after ${i}?`,
        completion: ` It is ${i + 1}${'!'.repeat(i % 5)}`,
      }))
      writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
      return { discipline, path }
    })

  it('ends with the bits of training on each discipline alone', async () => {
    const options = {
      epochs: 2,
      batch: { size: 3, accumulation: 2 },
      optimizer: { learningRate: 5e-3 },
      schedule: { kind: 'linear', warmupSteps: 1 },
      seed: 4,
    } as const
    const declarations = {
      biology: lora({ rank: 4, dropout: 0.1, seed: 3 }),
      law: lora({ rank: 2, seed: 8 }),
      music: lora({ rank: 4, dropout: 0.1, seed: 3 }),
    }
    const file = (name: string) => readFileSync(join(at(name), 'adapter_model.safetensors'))
    await using model = await Model.load(modelFolder, { threads: 2 })
    for (const source of sources()) {
      model.attach(declarations[source.discipline as keyof typeof declarations])
      await train(model, { data: [source], ...options })
      await model.saveAdapter(at(`alone-${source.discipline}`))
    }
    model.detach()
    const steps: Record<string, number> = {}
    const adapters = await trainSideBySide(model, {
      data: sources(),
      adapters: declarations,
      ...options,
      onStep: (reports) => {
        for (const name of reports.keys()) steps[name] = (steps[name] ?? 0) + 1
      },
    })
    // Two epochs in steps of six samples.
    assert.deepEqual(steps, { biology: 5, law: 2, music: 7 })
    for (const [name, adapter] of adapters) {
      await saveAdapter(adapter, at(`together-${name}`), { baseModel: modelFolder })
      adapter.dispose()
      assert.ok(file(`together-${name}`).equals(file(`alone-${name}`)), name)
    }
  })

  it('wants an adapter for every discipline', async () => {
    await using model = await Model.load(modelFolder, { threads: 1 })
    await assert.rejects(
      trainSideBySide(model, { data: sources(), adapters: { law: lora() } }),
      (error: Error) =>
        error instanceof ConfigError &&
        /no adapter for the discipline "biology"/.test(error.message),
    )
  })
})
