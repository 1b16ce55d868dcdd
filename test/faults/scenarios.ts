import assert from 'node:assert/strict'
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { loadAdapter, saveAdapter } from '../../lib/adapters/peft.js'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/declaration.js'
import type { Device } from '../../lib/device.js'
import { mergeModel } from '../../lib/merge/merge-model.js'
import { saveModel } from '../../lib/models/save.js'
import { Model } from '../../lib/model.js'
import { readConfig } from '../../lib/models/index.js'
import { findCheckpoint } from '../../lib/train/checkpoint.js'
import { parseTrainConfig, type TrainConfigInput } from '../../lib/train/options.js'
import { RunFolder } from '../../lib/train/run-folder.js'
import { runTraining } from '../../lib/train/run.js'
import { checkWriteError, contentOf, leftovers, type Outcome, type Scenario } from './sweep.js'

export const modelFolder = fileURLToPath(
  new URL('../golden/models/qwen2-text/model', import.meta.url),
)

/** Writes a small corpus and returns the run over it: few steps, a checkpoint after each, early results kept. */
export function smallRun(
  output: string,
  data: string,
  changes: Partial<TrainConfigInput> = {},
): TrainConfigInput {
  if (!existsSync(data)) {
    const record = (i: number) => ({ prompt: `${i} then`, completion: ` ${i + 1}` })
    const lines = Array.from({ length: 24 }, (_, i) => `${JSON.stringify(record(i))}\n`)
    writeFileSync(data, lines.join(''))
  }
  return {
    model: modelFolder,
    output,
    method: { kind: 'lora', rank: 3, dropout: 0.1, targets: ['q_proj', 'down_proj'] },
    data: {
      train: [{ discipline: 'numbers', path: data }],
      validation: [{ discipline: 'numbers', path: data }],
    },
    optimizer: { learningRate: 5e-3 },
    batch: { size: 3, accumulation: 2 },
    steps: 3,
    checkpoint: { every: 1, keep: 2 },
    // Each evaluation is better than the last, so that the adapter is written again and again.
    evaluation: { every: 1, patience: 3 },
    seed: 11,
    threads: 1,
    ...changes,
  }
}

/** What an interruption may not change: every metric but the speed, and every byte of the result. */
export function resultOf(folder: string): { metrics: unknown[]; result: Record<string, Buffer> } {
  const metrics = readFileSync(join(folder, 'metrics.jsonl'), 'utf8')
    .trimEnd()
    .split('\n')
    .map((line) => ({ ...(JSON.parse(line) as object), tokensPerSecond: undefined }))
  const result = ['adapter', 'model'].find((name) => existsSync(join(folder, name)))!
  return { metrics, result: contentOf(join(folder, result)) }
}

/** Every checkpoint of a run verifies; returns the steps. */
export async function verifyCheckpoints(folder: string): Promise<number[]> {
  using run = await RunFolder.open(folder, { resume: true, outputs: ['adapter', 'model'] })
  const steps = await run.checkpoints()
  const found = await findCheckpoint(run)
  assert.deepEqual(found?.skipped ?? [], [])
  assert.equal(found?.step, steps[0])
  return steps
}

/** A whole run with its checkpoints, metrics and results; afterwards it is resumed, to the same bits. */
export async function runScenario(
  scratch: string,
  changes: Partial<TrainConfigInput> = {},
): Promise<Scenario> {
  mkdirSync(scratch, { recursive: true })
  const input = (output: string) => smallRun(output, join(scratch, 'numbers.jsonl'), changes)
  const run = (output: string, onMessage: (text: string) => void = assert.fail) =>
    runTraining(parseTrainConfig(input(output)), { resume: true, onMessage })
  await run(join(scratch, 'whole'))
  const expected = resultOf(join(scratch, 'whole'))
  return {
    name: `a run of ${input('').method.kind}`,
    // An older checkpoint that cannot be removed does not end a run.
    act: (folder) =>
      run(join(folder, 'run'), (text) => {
        assert.match(text, /step-\d+ could not be removed: E[A-Z]+: /)
      }),
    async check(folder, outcome) {
      const path = join(folder, 'run')
      if (outcome.error !== null) checkWriteError(outcome, path)
      assertNothingLeft(folder, outcome)
      if (existsSync(path)) await verifyCheckpoints(path)
      if (outcome.error !== null) await run(path)
      assert.deepEqual(leftovers(folder), [])
      const { metrics, result } = resultOf(path)
      assert.deepEqual(metrics, expected.metrics)
      assertSameFiles(result, expected.result)
    },
  }
}

/** An adapter saved over an older one. */
export async function adapterScenario(device: Device): Promise<Scenario> {
  const config = await readConfig(modelFolder)
  const older = Adapter.create(device, config, lora({ rank: 2, targets: ['q_proj'], seed: 1 }))
  const newer = Adapter.create(device, config, lora({ rank: 2, targets: ['q_proj'], seed: 2 }))
  return writerScenario('saving an adapter over an older one', {
    older: (path) => saveAdapter(older, path, { baseModel: 'older' }),
    newer: (path) => saveAdapter(newer, path, { baseModel: 'newer' }),
    async load(path) {
      const adapter = await loadAdapter(device, config, path)
      adapter.dispose()
    },
  })
}

/** An adapter merged into its model, in a new folder. */
export async function mergeScenario(device: Device, scratch: string): Promise<Scenario> {
  const config = await readConfig(modelFolder)
  const adapter = Adapter.create(device, config, lora({ rank: 2, targets: ['q_proj'], seed: 1 }))
  const adapterFolder = join(scratch, 'merged-adapter')
  await saveAdapter(adapter, adapterFolder, { baseModel: 'base' })
  adapter.dispose()
  return writerScenario('saving a merged model', {
    newer: (output) =>
      mergeModel({ model: modelFolder, adapter: adapterFolder, output, threads: 1, dtype: 'f32' }),
    load: loadModel,
  })
}

/** A model saved over an older one. */
export async function modelScenario(): Promise<Scenario> {
  const model = await Model.initializeFrom(modelFolder, { seed: 3, threads: 1 })
  const { config } = model
  const save = (path: string, dtype: 'f32' | 'bf16') =>
    saveModel(path, {
      config,
      weights: model.decoder.weights,
      tokenizerFrom: modelFolder,
      dtype,
      replace: true,
    })
  return writerScenario('saving a model over an older one', {
    older: (path) => save(path, 'f32'),
    newer: (path) => save(path, 'bf16'),
    load: loadModel,
  })
}

async function loadModel(path: string): Promise<void> {
  const model = await Model.load(path, { threads: 1 })
  await model.dispose()
}

interface Writer {
  /** What is there before. */
  older?(path: string): Promise<void>
  newer(path: string): Promise<void>
  load(path: string): Promise<void>
}

/** After a failure the folder is as before or wholly new, loads, and can be written again. */
function writerScenario(name: string, { older, newer, load }: Writer): Scenario {
  let before: Record<string, Buffer> | null = null
  let after: Record<string, Buffer> | null = null
  return {
    name,
    async prepare(folder) {
      if (!older) return
      await older(join(folder, 'it'))
      before = contentOf(join(folder, 'it'))
    },
    act: (folder) => newer(join(folder, 'it')),
    async check(folder, outcome) {
      const path = join(folder, 'it')
      after ??= contentOf(path)
      if (outcome.error !== null) checkWriteError(outcome, path)
      assertNothingLeft(folder, outcome)
      const isThere = existsSync(path)
      if (outcome.error === null || older) assert.ok(isThere, 'there is nothing')
      if (isThere) {
        const content = contentOf(path)
        const isOld = before !== null && outcome.error !== null && areSameFiles(content, before)
        if (!isOld) assertSameFiles(content, after)
        await load(path)
      }
      if (outcome.error === null) return
      if (isThere && !older) return
      await newer(path)
      assertSameFiles(contentOf(path), after)
      assert.deepEqual(leftovers(folder), [])
    },
  }
}

/** Unless the call that removes it is the one that failed, which the next writer makes up for. */
function assertNothingLeft(folder: string, { call, error }: Outcome): void {
  const isRemoval = /^(unlink|rmdir) /.test(call) || (error === null && /\.partial$/.test(call))
  if (!isRemoval) assert.deepEqual(leftovers(folder), [])
}

function areSameFiles(a: Record<string, Buffer>, b: Record<string, Buffer>): boolean {
  const names = Object.keys(a)
  return names.length === Object.keys(b).length && names.every((name) => b[name]?.equals(a[name]))
}

function assertSameFiles(actual: Record<string, Buffer>, expected: Record<string, Buffer>): void {
  assert.deepEqual(Object.keys(actual).sort(), Object.keys(expected).sort())
  for (const [name, bytes] of Object.entries(expected))
    assert.ok(actual[name].equals(bytes), `${name} has other bytes`)
}
