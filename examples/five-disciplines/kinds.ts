/**
 * Trains every kind of adapter on the five disciplines, and composes five single ones, with the same steps and tokens:
 * `npm run kinds`. Exact answers on validation questions; writes kinds.json beside this file, and the tables in
 * docs/kinds.md.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'
import {
  describeAdapter,
  Device,
  dora,
  evaluate,
  hydraLora,
  lora,
  type LoraDeclaration,
  loraMoe,
  mergeRecipe,
  Model,
  mtlLora,
  parseRecipe,
  pissa,
  saveAdapter,
  train,
  trainSideBySide,
} from '../../lib/index.js'
import { disciplineNames } from './corpus.js'

const here = (path: string) => fileURLToPath(new URL(path, import.meta.url))
const modelFolder = here('models/instruct')
const guide = here('../../docs/kinds.md')
const folder = mkdtempSync(join(tmpdir(), 'polylora-kinds-'))
const device = Device.open('cpu')
const dtype = device.info.instructionSet === 'avx512-bf16' ? 'bf16' : 'f32'

const steps = Number(process.env.POLYLORA_KINDS_STEPS ?? 300)
const size = 60
const settings = { optimizer: { learningRate: 2e-3 }, seed: 1 }
const schedule = { kind: 'cosine', warmupSteps: 20 } as const
const common = { alpha: 32, dropout: 0.05, seed: 1 }
const disciplines = [...disciplineNames]

interface Row {
  readonly name: string
  readonly parameters: number | null
  readonly accuracy: readonly number[]
}

/** Kinds of one adapter for all disciplines; ranks are chosen for about the parameters of LoRA of rank 16. */
const kinds: Readonly<Record<string, LoraDeclaration>> = {
  'LoRA, rank 16': lora({ rank: 16, ...common }),
  'DoRA, rank 16': dora({ rank: 16, ...common }),
  'PiSSA, rank 16': pissa({ rank: 16, ...common }),
  'symmetric mixture, 4 × rank 4': loraMoe({ rank: 4, experts: 4, ...common, alpha: 8 }),
  'the same, top 2 with loss-free balance': loraMoe({
    rank: 4,
    experts: 4,
    gate: 'top-k',
    biasRate: 1e-3,
    ...common,
    alpha: 8,
  }),
  'asymmetric mixture (HydraLoRA), rank 8, 4 B': hydraLora({ rank: 8, ...common, alpha: 16 }),
  'the same, routed by discipline (supervised)': hydraLora({
    rank: 8,
    experts: 5,
    supervisedLoss: 0.1,
    disciplines,
    ...common,
    alpha: 16,
  }),
  'the same, uniform fixed gates': hydraLora({ rank: 8, gate: 'uniform', ...common, alpha: 16 }),
  'MTL-LoRA, rank 8, 3 B': mtlLora({ rank: 8, disciplines, ...common, alpha: 16 }),
}

/** Compositions of the five single adapters into one model. */
const merges: Readonly<Record<string, Record<string, unknown>>> = {
  'sum (cat)': { merge_method: 'cat', parameters: { weight: 1 } },
  'task arithmetic, each × 0.4': { merge_method: 'task_arithmetic', parameters: { weight: 0.4 } },
  'TIES, density 0.5': { merge_method: 'ties', parameters: { weight: 1, density: 0.5 } },
  'DARE-TIES, density 0.5': {
    merge_method: 'dare_ties',
    parameters: { weight: 0.4, density: 0.5 },
  },
  'KnOTS-TIES, density 0.5': { merge_method: 'knots', parameters: { weight: 1, density: 0.5 } },
  'RegMean (Gram matrices of the training data)': { merge_method: 'regmean' },
}

const data = (names: readonly string[]) => ({
  train: names.map((discipline) => ({ discipline, path: here(`data/${discipline}.train.jsonl`) })),
  chatTemplate: true,
})

async function main(): Promise<void> {
  const trained: Row[] = []
  const composed: Row[] = []
  {
    await using model = await Model.load(modelFolder, { device, dtype })
    trained.push({ name: 'the base', parameters: 0, accuracy: await accuracies(model) })
    for (const [name, declaration] of Object.entries(kinds)) {
      console.log(name)
      await model.attachBound(declaration)
      // Every discipline has a fifth of the samples.
      const sources = data(disciplines).train.map((source) => ({
        ...source,
        weight: 1e4 / readFileSync(source.path, 'utf8').trimEnd().split('\n').length,
      }))
      await train(model, {
        ...settings,
        schedule,
        steps,
        batch: { size },
        data: { ...data(disciplines), train: sources },
      })
      const { numParameters } = model.adapter!
      trained.push({ name, parameters: numParameters, accuracy: await accuracies(model) })
    }
    model.detach()
    console.log('five adapters side by side')
    const adapters = await trainSideBySide(model, {
      ...settings,
      schedule,
      steps,
      batch: { size: size / disciplines.length },
      data: data(disciplines),
      adapters: lora({ rank: 16, ...common }),
    })
    for (const [name, adapter] of adapters) {
      await saveAdapter(adapter, join(folder, name), { baseModel: modelFolder })
      adapter.dispose()
    }
    const { trainableParameters } = await describeAdapter(join(folder, disciplines[0]))
    const own: number[] = []
    for (const name of disciplines) {
      await model.attachFrom(join(folder, name))
      own.push(await accuracy(model, name))
    }
    composed.push({
      name: 'each discipline by its own adapter',
      parameters: trainableParameters * disciplines.length,
      accuracy: own,
    })
    const folders = disciplines.map((name) => join(folder, name))
    console.log('Arrow')
    await model.attachComposition(folders, { kind: 'arrow', topK: 2, temperature: 1 })
    composed.push({ name: 'Arrow, top 2', parameters: 0, accuracy: await accuracies(model) })
    console.log('MoLE')
    const mole = await model.attachComposition(
      folders,
      { kind: 'mole', temperature: 1 },
      { seed: 1 },
    )
    await train(model, {
      ...settings,
      schedule,
      steps: Math.ceil(steps / 4),
      batch: { size },
      data: data(disciplines),
    })
    composed.push({
      name: `MoLE, gate trained for ${Math.ceil(steps / 4)} steps`,
      parameters: mole.numParameters,
      accuracy: await accuracies(model),
    })
  }
  for (const [name, recipe] of Object.entries(merges)) {
    console.log(name)
    const output = join(folder, 'merged')
    const models = disciplines.map((discipline) => ({
      model: join(folder, discipline),
      ...(recipe.merge_method === 'regmean'
        ? { data: here(`data/${discipline}.validation.jsonl`) }
        : {}),
    }))
    await mergeRecipe({
      recipe: parseRecipe({ base_model: modelFolder, models, ...recipe }),
      output,
    })
    await using model = await Model.load(output, { device, dtype })
    composed.push({ name, parameters: null, accuracy: await accuracies(model) })
    rmSync(output, { recursive: true })
  }
  await write(trained, composed)
}

async function accuracies(model: Model): Promise<number[]> {
  const shares: number[] = []
  for (const name of disciplines) {
    if (model.adapter?.declaration.form.disciplines.includes(name))
      model.adapter.useDiscipline(name)
    shares.push(await accuracy(model, name))
  }
  return shares
}

/** Share of the validation questions answered exactly. */
async function accuracy(model: Model, name: string): Promise<number> {
  let exact = 0
  const { records } = await evaluate(model, {
    data: here(`data/${name}.validation.jsonl`),
    chatTemplate: true,
    onRecord: ({ greedy }) => {
      exact += Number(greedy)
    },
  })
  return exact / records
}

async function write(trained: readonly Row[], composed: readonly Row[]): Promise<void> {
  const percent = (share: number) => (100 * share).toFixed(1)
  const table = (rows: readonly Row[], what: string) => {
    const heads = [what, 'trained parameters', ...disciplines, 'mean']
    const cells = rows.map(({ name, parameters, accuracy }) => [
      name,
      parameters === null ? '–' : parameters.toLocaleString('en'),
      ...accuracy.map(percent),
      percent(accuracy.reduce((sum, one) => sum + one, 0) / accuracy.length),
    ])
    const line = (row: readonly string[]) => `| ${row.join(' | ')} |`
    return [line(heads), line(heads.map((_, i) => (i === 0 ? '---' : '--:'))), ...cells.map(line)]
  }
  const { instructionSet } = device.info
  const text = [
    `Exact answers in per cent on the validation questions; ${steps} steps of ${size} samples, a fifth of each discipline, one seed, ${dtype} on ${instructionSet}.`,
    '',
    ...table(trained, 'one adapter for all'),
    '',
    ...table(composed, 'five adapters of rank 16'),
  ].join('\n')
  writeFileSync(
    here('kinds.json'),
    `${JSON.stringify({ steps, size, dtype, trained, composed }, null, 2)}\n`,
  )
  const whole = readFileSync(guide, 'utf8')
  const [begin, end] = ['<!-- figures -->', '<!-- end of figures -->']
  const at = [whole.indexOf(begin) + begin.length, whole.indexOf(end)]
  const filled = `${whole.slice(0, at[0])}\n\n${text}\n\n${whole.slice(at[1])}`
  const style = await resolveConfig(guide)
  writeFileSync(guide, await format(filled, { ...style, filepath: guide }))
  console.log(text)
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
