import assert from 'node:assert/strict'
import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { AbortedError, ConfigError } from '../../lib/errors.js'
import { parseTrainConfig, type TrainConfigInput } from '../../lib/train/options.js'
import { runTraining, type RunOptions } from '../../lib/train/run.js'
import { polylora } from '../cli/polylora.js'
import { temporaryFolder } from '../temporary-folder.js'

const model = fileURLToPath(new URL('../golden/models/qwen2-text/model', import.meta.url))

describe('a run of adapters side by side', function () {
  this.timeout(180_000)
  const at = temporaryFolder()
  const sizes = { biology: 13, law: 5, music: 21 }

  function files(): { discipline: string; path: string }[] {
    return Object.entries(sizes).map(([discipline, size]) => {
      const path = at(`${discipline}.jsonl`)
      const records = Array.from({ length: size }, (_, i) => ({
        prompt: `${discipline}, what comes after ${i}?`,
        completion: ` It is ${i + 1}${'!'.repeat(i % 5)}`,
      }))
      writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
      return { discipline, path }
    })
  }

  // Two kinds, a mixture among them, so that every adapter has something of its own.
  const ownMethods = {
    biology: { kind: 'lora', rank: 4, dropout: 0.1 },
    law: { kind: 'hydra-lora', rank: 2, experts: 3, balanceLoss: 0.1 },
    music: { kind: 'lora', rank: 4, dropout: 0.1 },
  } as const

  function config(output: string, changes: Partial<TrainConfigInput> = {}) {
    const train = files()
    return parseTrainConfig({
      model,
      output: at(output),
      method: {
        kind: 'side-by-side',
        adapter: ownMethods.biology,
        adapters: { law: ownMethods.law },
      },
      data: { train, validation: train.slice(0, 2) },
      optimizer: { learningRate: 5e-3 },
      schedule: { kind: 'linear', warmupSteps: 1 },
      batch: { size: 3, accumulation: 2 },
      epochs: 2,
      checkpoint: { every: 2, keep: 2 },
      evaluation: { every: 3 },
      seed: 4,
      ...changes,
    })
  }

  const fileOf = (folder: string) =>
    join(
      folder,
      existsSync(join(folder, 'mixture_config.json'))
        ? 'mixture_model.safetensors'
        : 'adapter_model.safetensors',
    )
  const bytesOf = (folder: string) => readFileSync(fileOf(folder))
  const metricsOf = (output: string) =>
    readFileSync(join(at(output), 'metrics.jsonl'), 'utf8')
      .trimEnd()
      .split('\n')
      .map((line) => {
        const { tokensPerSecond, ...rest } = JSON.parse(line) as Record<string, unknown>
        assert.ok(tokensPerSecond === undefined || Number(tokensPerSecond) > 0)
        return rest
      })

  it('ends with the bits of a run for each discipline, and its metrics', async () => {
    const steps: string[] = []
    const result = await runTraining(config('together'), {
      onStep: ({ step, adapters, lossByDiscipline }) => {
        assert.deepEqual(Object.keys(lossByDiscipline), [...adapters!.keys()])
        steps.push(`${step}: ${[...adapters!.keys()].join(' ')}`)
      },
    })
    // Two epochs in steps of six samples: 5, 2 and 7 steps.
    assert.deepEqual(steps, [
      '1: biology law music',
      '2: biology law music',
      ...[3, 4, 5].map((step) => `${step}: biology music`),
      '6: music',
      '7: music',
    ])
    assert.equal(result.steps, 7)
    assert.equal(result.output, at('together/adapters'))
    assert.deepEqual(Object.keys(result.validation!.lossByDiscipline), ['biology', 'law'])
    for (const source of files()) {
      const { discipline } = source
      await runTraining(
        config(`alone-${discipline}`, {
          method: ownMethods[discipline as keyof typeof ownMethods],
          data: { train: [source], validation: discipline === 'music' ? [] : [source] },
        }),
      )
      assert.ok(
        bytesOf(at(`together/adapters/${discipline}`)).equals(
          bytesOf(at(`alone-${discipline}/adapter`)),
        ),
        discipline,
      )
      const steps = (output: string) => metricsOf(output).filter((line) => 'loss' in line)
      const own = steps('together').filter(({ adapter }) => adapter === discipline)
      assert.deepEqual(
        own.map(({ adapter: _, ...rest }) => rest),
        steps(`alone-${discipline}`),
      )
    }
  })

  it('goes on after a stop, anywhere, with the same bits', async () => {
    // After a checkpoint and between two; after the end of one adapter, and of two.
    for (const stop of [3, 6]) {
      const output = `stopped-${stop}`
      const controller = new AbortController()
      const options: RunOptions = {
        signal: controller.signal,
        onStep: ({ step }) => {
          if (step === stop) controller.abort()
        },
      }
      await assert.rejects(runTraining(config(output), options), AbortedError)
      assert.ok(!existsSync(at(`${output}/adapters`)))
      await runTraining(config(output), { resume: true })
      for (const name of Object.keys(sizes))
        assert.ok(
          bytesOf(at(`${output}/adapters/${name}`)).equals(
            bytesOf(at(`together/adapters/${name}`)),
          ),
          `${name}, stopped after ${stop}`,
        )
      assert.deepEqual(metricsOf(output), metricsOf('together'))
    }
    assert.deepEqual(readdirSync(at('together')).sort(), [
      '.lock',
      'adapters',
      'metrics.jsonl',
      'run.json',
      'step-6',
      'step-7',
    ])
  })

  it('is one YAML file for the command line, and is described', async () => {
    const train = files().map(({ discipline }) => ({ discipline, path: `${discipline}.jsonl` }))
    writeFileSync(
      at('run.yaml'),
      JSON.stringify({
        model,
        output: 'by-command',
        method: { kind: 'side-by-side', adapter: { kind: 'mtl-lora', rank: 2 } },
        data: { train },
        steps: 2,
        batch: { size: 2 },
      }),
    )
    const trained = await polylora(['train', 'run.yaml'], at('.'))
    assert.equal(trained.code, 0, trained.stderr)
    assert.match(trained.stdout, /trained 2 steps: .* written to by-command\/adapters/)
    const described = await polylora(['describe', 'by-command'], at('.'))
    assert.equal(described.code, 0, described.stderr)
    for (const name of Object.keys(sizes))
      assert.match(described.stdout, new RegExp(`^adapters/${name}:\n  mtl-lora: `, 'm'))
  })

  it('refuses what does not fit, and writes nothing', async () => {
    const train = files()
    const attempts: [Partial<TrainConfigInput>, RegExp][] = [
      [
        { method: { kind: 'side-by-side', adapters: { law: ownMethods.law } } },
        /discipline "biology" has no adapter; give method\.adapter/,
      ],
      [
        {
          method: {
            kind: 'side-by-side',
            adapter: ownMethods.law,
            adapters: { physics: ownMethods.law },
          },
        },
        /method\.adapters\.physics: data\.train has no discipline "physics"/,
      ],
      [
        {
          method: { kind: 'side-by-side', adapter: ownMethods.law },
          data: { train: [{ ...train[0], discipline: '../outside' }] },
        },
        /discipline "\.\.\/outside" names a folder/,
      ],
      [
        { data: { train, validation: [{ ...train[0], discipline: 'physics' }] } },
        /data\.validation: the discipline "physics" trains no adapter/,
      ],
      [{ evaluation: { patience: 1 } }, /evaluation\.patience/],
    ]
    for (const [changes, expected] of attempts) {
      await assert.rejects(
        runTraining(config('refused', changes)),
        (error: Error) => error instanceof ConfigError && expected.test(error.message),
      )
      assert.ok(!existsSync(at('refused')))
    }
  })
})
