/**
 * Measures, on validation data alone, whether the corpus and the instruct model can show what the study looks for:
 * `npm run corpus:check`. Writes corpus-check.json beside this file; a gate that is not met is reported, not tuned.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { mergeAdapter } from '../../lib/merge/index.js'
import { Device, evaluate, lora, Model, train } from '../../lib/index.js'
import type { TrainOptions } from '../../lib/train/train.js'
import { disciplineNames, generateCorpus, lowResource, reserve, trainingSizes } from './corpus.js'
import { committedSeed } from './generate.js'
import { checkInstruction } from './instructions-check.js'
import type { QuestionRecord } from './items.js'
import type { DisciplineName } from './skill.js'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const modelFolder = here('models/instruct')
/** Samples that every single-discipline run sees: as many as the largest discipline has. */
const samplesSeen = Math.max(...Object.values(trainingSizes))
const mergeWeight = 0.5

interface Gate {
  name: string
  measured: string
  wanted: string
  met: boolean
}

interface Accuracy {
  all: number
  bySkill: Readonly<Record<string, number>>
}

const gates: Gate[] = []
const skills: Record<string, Record<'before' | 'after', Accuracy['bySkill']>> = {}
const round = (share: number) => Math.round(share * 1000) / 1000
const folder = mkdtempSync(join(tmpdir(), 'polylora-corpus-'))
const device = Device.open('cpu')
const dtype = device.info.instructionSet === 'avx512-bf16' ? 'bf16' : 'f32'
const open = () => Model.load(modelFolder, { device, dtype })

async function main(): Promise<void> {
  const corpus = generateCorpus({ seed: committedSeed })
  const repeated: Partial<Record<DisciplineName, number>> = {}
  for (const name of disciplineNames) {
    console.log(`training on ${name}`)
    const before = await measure(open, (model) => accuracy(model, name))
    const after = await trainAndMeasure(name, corpus.disciplines[name].train, {
      save: join(folder, name),
    })
    skills[name] = { before: before.bySkill, after: after.bySkill }
    repeated[name] = after.all
    const gain = after.all - before.all
    gate(`${name} before tuning`, before.all, '5 to 60%', before.all >= 0.05 && before.all <= 0.6)
    gate(`${name} gain by its own LoRA`, gain, 'at least 15 points', gain >= 0.15)
    gate(`${name} after tuning`, after.all, 'at most 95%', after.all <= 0.95)
  }
  await checkInstructions()
  for (const name of lowResource as DisciplineName[]) {
    console.log(`training on fresh records of ${name}`)
    const fresh = await trainAndMeasure(name, reserve(name, samplesSeen, committedSeed))
    const difference = fresh.all - repeated[name]!
    gate(`${name} fresh minus repeated`, difference, 'at least 3 points', difference >= 0.03)
  }
  report()
}

/** Instruction following before, and after the five adapters are added to the weights. */
async function checkInstructions(): Promise<void> {
  const before = await measure(open, instructionAccuracy)
  const after = await measure(open, async (model) => {
    for (const name of disciplineNames) {
      const adapter = await model.attachFrom(join(folder, name))
      await mergeAdapter(model.decoder.weights, adapter, { weight: mergeWeight, float32: true })
    }
    model.detach()
    return await instructionAccuracy(model)
  })
  gate('instructions followed', before, 'at least 80%', before >= 0.8)
  gate(
    `instructions lost by merging the five adapters, each times ${mergeWeight}`,
    before - after,
    'at least 10 points',
    before - after >= 0.1,
  )
}

async function trainAndMeasure(
  name: DisciplineName,
  records: readonly QuestionRecord[],
  { save }: { save?: string } = {},
): Promise<Accuracy> {
  const path = join(folder, `${name}.jsonl`)
  writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
  const options: TrainOptions = {
    data: { train: [{ discipline: name, path }], chatTemplate: true },
    epochs: samplesSeen / records.length,
    batch: { size: 64 },
    optimizer: { learningRate: 2e-3 },
    schedule: { kind: 'cosine', warmupSteps: 10 },
    seed: 1,
  }
  return await measure(open, async (model) => {
    model.attach(lora({ rank: 16, alpha: 32, dropout: 0.05, seed: 1 }))
    await train(model, options)
    if (save) await model.saveAdapter(save)
    return await accuracy(model, name)
  })
}

/** Chance-corrected share of the validation questions answered exactly, over all and by skill. */
async function accuracy(model: Model, name: string): Promise<Accuracy> {
  const sums = new Map<string, { sum: number; count: number }>()
  const { records } = await evaluate(model, {
    data: here(`data/${name}.validation.jsonl`),
    chatTemplate: true,
    onRecord({ greedy, fields }) {
      const chance = Number(fields.chance)
      const skill = String(fields.skill)
      const { sum, count } = sums.get(skill) ?? { sum: 0, count: 0 }
      const score = ((greedy ? 1 : 0) - chance) / (1 - chance)
      sums.set(skill, { sum: sum + score, count: count + 1 })
    },
  })
  const bySkill = [...sums].map(([skill, { sum, count }]) => [skill, round(sum / count)] as const)
  const total = [...sums.values()].reduce((all, { sum }) => all + sum, 0)
  return { all: total / records, bySkill: Object.fromEntries(bySkill) }
}

/** Share of the validation instructions that the model's own answer obeys. */
async function instructionAccuracy(model: Model): Promise<number> {
  const records = generateCorpus({ seed: committedSeed }).instructions.validation
  const answers = records.map(() => '')
  for (let begin = 0; begin < records.length; begin += 64) {
    const prompts = records.slice(begin, begin + 64).map(({ prompt }) => prompt)
    for await (const { index, text } of model.generateBatch(prompts, {
      chatTemplate: true,
      maxTokens: 48,
      temperature: 0,
    }))
      answers[begin + index] += text
  }
  const followed = records.filter((record, i) => checkInstruction(record, answers[i])).length
  return followed / records.length
}

async function measure<T>(
  load: () => Promise<Model>,
  body: (model: Model) => Promise<T>,
): Promise<T> {
  const model = await load()
  try {
    return await body(model)
  } finally {
    await model.dispose()
  }
}

function gate(name: string, value: number, wanted: string, met: boolean): void {
  gates.push({ name, measured: `${(100 * value).toFixed(1)}%`, wanted, met })
}

function report(): void {
  const width = Math.max(...gates.map(({ name }) => name.length))
  for (const { name, measured, wanted, met } of gates)
    console.log(
      `${name.padEnd(width)}  ${measured.padStart(7)}  ${wanted.padEnd(18)}  ${met ? 'met' : 'NOT MET'}`,
    )
  const unmet = gates.filter(({ met }) => !met).length
  console.log(`${gates.length - unmet} of ${gates.length} gates met`)
  const processor = cpus()[0]?.model ?? 'unknown'
  const { instructionSet, threads } = device.info
  const measured = { processor, instructionSet, threads, dtype, seed: committedSeed, gates, skills }
  writeFileSync(here('corpus-check.json'), `${JSON.stringify(measured, null, 2)}\n`)
}

main()
  .finally(() => {
    rmSync(folder, { recursive: true, force: true })
  })
  .then(
    () => device.close(),
    (error: unknown) => {
      console.error(error)
      process.exitCode = 1
    },
  )
