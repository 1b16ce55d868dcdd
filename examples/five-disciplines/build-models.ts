/**
 * Makes the two checkpoints in models/: `base`, pre-trained from random weights on pretraining.ts, and `instruct`, tuned
 * from it on tuning.ts with a review of the facts. About an hour on two cores; a run that was stopped goes on where it was.
 *
 *     npm run corpus:models
 */
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Device, parseTrainConfig, runTraining, type TrainConfigInput } from '../../lib/index.js'
import { type Form, pretrainingDocuments } from './pretraining.js'
import { instructionTuningRecords } from './tuning.js'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const work = fileURLToPath(new URL('../../build/five-disciplines', import.meta.url))
const seed = 1
const tokensOf = { learn: 20_000_000, review: 600_000 }
const tuningRecords = 40_000
const device = Device.open('cpu')
const dtype = device.info.instructionSet === 'avx512-bf16' ? 'bf16' : 'f32'
await device.close()

async function main(): Promise<void> {
  mkdirSync(work, { recursive: true })
  await run('pretraining', {
    model: prepareArchitecture(),
    output: join(work, 'pretraining'),
    method: { kind: 'full', initialize: true },
    data: { train: [{ path: documents('learn') }], onTooLong: 'truncate' },
    optimizer: { learningRate: 3e-3, betas: [0.9, 0.95], weightDecay: 0.05 },
    schedule: { kind: 'cosine', warmupSteps: 200 },
    batch: { maxTokens: 2048 },
    epochs: 1,
    checkpoint: { every: 500, keep: 1 },
    dtype,
  })
  publish('pretraining', 'base', 'architecture')
  await run('tuning', {
    model: here('models/base'),
    output: join(work, 'tuning'),
    method: { kind: 'full' },
    data: {
      train: [{ path: writeLines('tuning.jsonl', chats()) }, { path: documents('review') }],
      onTooLong: 'truncate',
    },
    optimizer: { learningRate: 1e-3, betas: [0.9, 0.95], weightDecay: 0.05 },
    schedule: { kind: 'cosine', warmupSteps: 50 },
    batch: { maxTokens: 2048 },
    epochs: 2,
    checkpoint: { every: 500, keep: 1 },
    dtype,
  })
  publish('tuning', 'instruct', 'tokenizer')
}

/** config.json with a tokenizer whose sequences end in <|endoftext|>, as documents do. */
function prepareArchitecture(): string {
  const folder = join(work, 'architecture')
  mkdirSync(folder, { recursive: true })
  cpSync(here('architecture/config.json'), join(folder, 'config.json'))
  cpSync(here('tokenizer/tokenizer.json'), join(folder, 'tokenizer.json'))
  const path = here('tokenizer/tokenizer_config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
  writeJson(join(folder, 'tokenizer_config.json'), { ...config, eos_token: '<|endoftext|>' })
  return folder
}

async function run(name: string, config: TrainConfigInput): Promise<void> {
  console.log(`${name}: ${config.output}`)
  await runTraining(parseTrainConfig(config), {
    resume: true,
    onMessage: (message) => {
      console.log(message)
    },
    onStep({ step, totalSteps, loss, tokensPerSecond }) {
      if (step % 20 === 0)
        console.log(
          `${name}: step ${step} of ${totalSteps}, loss ${loss.toFixed(3)}, ${tokensPerSecond.toFixed(0)} tokens/s`,
        )
    },
  })
}

/** Copies the model of a run to models/, for instruct with the tokenizer that ends turns with <|im_end|>. */
function publish(run: string, name: string, tokenizer: 'architecture' | 'tokenizer'): void {
  const target = here(`models/${name}`)
  rmSync(target, { recursive: true, force: true })
  cpSync(join(work, run, 'model'), target, { recursive: true })
  if (tokenizer === 'architecture') return
  for (const file of ['tokenizer_config.json', 'generation_config.json'])
    cpSync(here(`tokenizer/${file}`), join(target, file))
  const path = join(target, 'config.json')
  const config = JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
  writeJson(path, { ...config, eos_token_id: 4095 })
}

function documents(form: Form): string {
  return writeLines(`${form}.jsonl`, textsOf(form))
}

function* textsOf(form: Form): Generator<object> {
  for (const text of pretrainingDocuments({ seed, form, tokens: tokensOf[form] })) yield { text }
}

function* chats(): Generator<object> {
  yield* instructionTuningRecords({ seed, count: tuningRecords })
}

function writeLines(name: string, records: Iterable<object>): string {
  const path = join(work, name)
  if (existsSync(path)) return path
  let text = ''
  for (const record of records) text += `${JSON.stringify(record)}\n`
  writeFileSync(path, text)
  return path
}

function writeJson(path: string, value: object): void {
  writeFileSync(path, `${JSON.stringify(value, null, 2)}\n`)
}

main().catch((error: unknown) => {
  console.error(error)
  process.exitCode = 1
})
