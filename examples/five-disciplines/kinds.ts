/**
 * `npm run kinds`: trains every kind of adapter on the five disciplines, and composes five single ones, with the same
 * steps and samples; exact answers on validation questions. About 20 minutes on two cores. What is measured stays in
 * runs/kinds until the end, so that a run that was stopped goes on after its last row; then kinds.json beside this file
 * and the tables in docs/kinds.md are written.
 */
import { existsSync, mkdirSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { format, resolveConfig } from 'prettier'
import { formatDuration, Progress } from '../../lib/cli/progress.js'
import { describeError, exitCodeOf } from '../../lib/cli/report.js'
import { CorpusMemory } from '../../lib/data/index.js'
import {
  collectFisher,
  collectGram,
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
  olora,
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
const folder = 'runs/kinds'
const rowsFile = join(folder, 'rows.json')
const device = Device.open('cpu')
const { instructionSet } = device.info
const dtype = instructionSet === 'avx512-bf16' ? 'bf16' : 'f32'

const steps = Number(process.env.POLYLORA_KINDS_STEPS ?? 200)
const size = 60
const settings = {
  optimizer: { learningRate: 2e-3 },
  schedule: { kind: 'cosine', warmupSteps: 20 },
  seed: 1,
} as const
const common = { dropout: 0.05, seed: 1 }
const disciplines = [...disciplineNames]
const corpora = new CorpusMemory()
const adapterFolders = disciplines.map((name) => join(folder, 'adapters', name))

/** Kinds of one adapter for all disciplines, s = 2; ranks are chosen for about the parameters of LoRA of rank 16. */
const kinds: Readonly<Record<string, LoraDeclaration>> = {
  'LoRA, rank 16': lora({ rank: 16, alpha: 32, ...common }),
  'LoRA+, rank 16, B 4 times as fast': lora({ rank: 16, alpha: 32, loraPlusRatio: 4, ...common }),
  'DoRA, rank 16': dora({ rank: 16, alpha: 32, ...common }),
  'PiSSA, rank 16': pissa({ rank: 16, alpha: 32, ...common }),
  'OLoRA, rank 16': olora({ rank: 16, alpha: 32, ...common }),
  'symmetric mixture, 4 experts of rank 4': loraMoe({ rank: 4, alpha: 8, ...common }),
  'the same, top 2 with loss-free balance': loraMoe({
    ...{ rank: 4, alpha: 8, ...common },
    gate: 'top-k',
    biasRate: 1e-3,
  }),
  'asymmetric mixture (HydraLoRA), rank 6, 4 B': hydraLora({ rank: 6, alpha: 12, ...common }),
  'the same, supervised by discipline, 5 B': hydraLora({
    ...{ rank: 6, alpha: 12, ...common },
    experts: 5,
    supervisedLoss: 0.1,
    disciplines,
  }),
  'the same, uniform fixed gates, 4 B': hydraLora({
    ...{ rank: 6, alpha: 12, ...common },
    gate: 'uniform',
  }),
  'shared B, rank 6, 4 A': loraMoe({ rank: 6, alpha: 12, ...common, shares: 'b' }),
  'MTL-LoRA, rank 8, 3 B': mtlLora({ rank: 8, alpha: 16, ...common, disciplines }),
}

/** Compositions of the five single adapters into one model. */
const merges: Readonly<Record<string, Record<string, unknown>>> = {
  'sum (cat)': { merge_method: 'cat', parameters: { weight: 1 } },
  'mean (linear)': { merge_method: 'linear', parameters: { weight: 1 } },
  'task arithmetic, each × 0.4': { merge_method: 'task_arithmetic', parameters: { weight: 0.4 } },
  'the same by SVD at rank 16': { merge_method: 'svd', parameters: { weight: 0.4, rank: 16 } },
  'TIES, density 0.5': { merge_method: 'ties', parameters: { weight: 1, density: 0.5 } },
  'DARE, each × 0.4, density 0.5': {
    merge_method: 'dare_linear',
    parameters: { weight: 0.4, density: 0.5 },
  },
  'DARE-TIES, each × 0.4, density 0.5': {
    merge_method: 'dare_ties',
    parameters: { weight: 0.4, density: 0.5 },
  },
  'DELLA, density 0.5': { merge_method: 'della', parameters: { weight: 1, density: 0.5 } },
  'magnitude pruning, each × 0.4, density 0.5': {
    merge_method: 'magnitude_prune',
    parameters: { weight: 0.4, density: 0.5 },
  },
  'breadcrumbs, each × 0.4, density 0.9': {
    merge_method: 'breadcrumbs',
    parameters: { weight: 0.4, density: 0.9 },
  },
  'Model Stock': { merge_method: 'model_stock' },
  'SCE, top 50 %': { merge_method: 'sce', parameters: { select_topk: 0.5 } },
  'KnOTS-TIES, density 0.5': { merge_method: 'knots', parameters: { weight: 1, density: 0.5 } },
  'Fisher-weighted mean': { merge_method: 'fisher' },
  RegMean: { merge_method: 'regmean' },
}
/** What must be gathered for a method from the training data of each adapter. */
const gathered: Readonly<Record<string, 'fisher' | 'gram'>> = { fisher: 'fisher', regmean: 'gram' }
const samplesGathered = 128

interface Row {
  readonly name: string
  readonly table: 'trained' | 'composed'
  /** Trained parameters; null for what only the five adapters have. */
  readonly parameters: number | null
  /** By discipline, from 0 to 1. */
  readonly accuracy: readonly number[]
}

interface Measurement {
  readonly name: string
  readonly table: Row['table']
  readonly measure: (say: Progress) => Promise<Omit<Row, 'name' | 'table'>>
}

function measurements(model: Model): Measurement[] {
  return [
    {
      name: 'the base',
      table: 'trained',
      measure: async () => ({ parameters: 0, accuracy: await accuracies(model) }),
    },
    ...Object.entries(kinds).map(([name, declaration]) => ({
      name,
      table: 'trained' as const,
      measure: async (say: Progress) => {
        await model.attachBound(declaration)
        return await trainAndMeasure(model, steps, say)
      },
    })),
    {
      name: 'each discipline by its own adapter, trained side by side',
      table: 'composed',
      measure: (say) => measureSideBySide(model, say),
    },
    {
      name: 'Arrow, top 2',
      table: 'composed',
      measure: async () => {
        await model.attachComposition(adapterFolders, { kind: 'arrow', topK: 2, temperature: 1 })
        return { parameters: 0, accuracy: await accuracies(model) }
      },
    },
    {
      name: `MoLE, its gate trained for ${Math.ceil(steps / 4)} steps`,
      table: 'composed',
      measure: async (say) => {
        await model.attachComposition(adapterFolders, { kind: 'mole', temperature: 1 }, { seed: 1 })
        return await trainAndMeasure(model, Math.ceil(steps / 4), say)
      },
    },
    ...Object.entries(merges).map(([name, recipe]) => ({
      name,
      table: 'composed' as const,
      measure: (say: Progress) => measureMerge(recipe, say),
    })),
  ]
}

async function main(): Promise<void> {
  mkdirSync(folder, { recursive: true })
  const identity = JSON.stringify({ steps, size, dtype, instructionSet, kinds, merges })
  const rows = savedRows(identity)
  const started = performance.now()
  {
    await using model = await Model.load(modelFolder, { device, dtype })
    const all = measurements(model)
    if (rows.length > 0)
      console.error(`${folder} has ${rows.length} of ${all.length} rows: going on after them`)
    for (const { name, table, measure } of all.slice(rows.length)) {
      const say = new Progress('  step', { interval: 10_000 })
      say.message(`[${rows.length + 1}/${all.length}] ${name}`)
      try {
        rows.push({ name, table, ...(await measure(say)) })
      } finally {
        say.stop()
      }
      // In place of the old file in one step, so that it is whole at every instant.
      writeFileSync(`${rowsFile}.partial`, JSON.stringify({ identity, rows }))
      renameSync(`${rowsFile}.partial`, rowsFile)
      const { accuracy } = rows.at(-1)!
      say.message(
        `  ${percent(mean(accuracy))} % exact, ${formatDuration((performance.now() - started) / 1000)} so far`,
      )
    }
  }
  await write(rows)
  rmSync(folder, { recursive: true })
}

/** Of a run that was stopped, if it was about the same. */
function savedRows(identity: string): Row[] {
  if (!existsSync(rowsFile)) return []
  const saved = JSON.parse(readFileSync(rowsFile, 'utf8')) as { identity: string; rows: Row[] }
  if (saved.identity === identity) return saved.rows
  console.error(`${folder} is of a run with other settings: beginning anew`)
  return []
}

/** The attached adapter, after training on a fifth of the samples from each discipline. */
async function trainAndMeasure(model: Model, steps: number, say: Progress) {
  const sources = disciplines.map((discipline) => {
    const path = trainingFile(discipline)
    const records = readFileSync(path, 'utf8').trimEnd().split('\n').length
    return { discipline, path, weight: 1e4 / records }
  })
  await train(model, {
    ...settings,
    steps,
    batch: { size },
    data: { train: sources, chatTemplate: true },
    corpora,
    onStep: ({ step, totalSteps, loss }) => {
      say.update(step, totalSteps, [`loss ${loss.toFixed(3)}`])
    },
  })
  return { parameters: model.adapter!.numParameters, accuracy: await accuracies(model) }
}

/** Five adapters, which the rows below compose. */
async function measureSideBySide(model: Model, say: Progress) {
  model.detach()
  const adapters = await trainSideBySide(model, {
    ...settings,
    steps,
    batch: { size: size / disciplines.length },
    data: {
      train: disciplines.map((discipline) => ({ discipline, path: trainingFile(discipline) })),
      chatTemplate: true,
    },
    adapters: lora({ rank: 16, alpha: 32, ...common }),
    onStep: (_, step) => {
      say.update(step, steps)
    },
  })
  for (const [i, adapter] of [...adapters.values()].entries()) {
    await saveAdapter(adapter, adapterFolders[i], { baseModel: modelFolder })
    adapter.dispose()
  }
  const accuracy: number[] = []
  for (const [i, name] of disciplines.entries()) {
    await model.attachFrom(adapterFolders[i])
    accuracy.push(await accuracyOn(model, name))
  }
  const { trainableParameters } = await describeAdapter(adapterFolders[0])
  return { parameters: trainableParameters * disciplines.length, accuracy }
}

async function measureMerge(recipe: Record<string, unknown>, say: Progress) {
  const needs = gathered[recipe.merge_method as string]
  const models: Record<string, string>[] = []
  for (const [i, adapter] of adapterFolders.entries()) {
    models.push({ model: adapter })
    if (!needs) continue
    const output = join(folder, `${needs}-${disciplines[i]}`)
    rmSync(output, { recursive: true, force: true })
    say.message(`  gathering ${needs} of ${disciplines[i]}`)
    await (needs === 'gram' ? collectGram : collectFisher)({
      ...{ model: modelFolder, adapter, data: trainingFile(disciplines[i]), output },
      samples: samplesGathered,
      chatTemplate: true,
      device: 'cpu',
    })
    models[i][needs] = output
  }
  const output = join(folder, 'merged')
  rmSync(output, { recursive: true, force: true })
  await mergeRecipe({
    recipe: parseRecipe({ base_model: modelFolder, models, ...recipe }),
    output,
    device: 'cpu',
  })
  await using model = await Model.load(output, { device, dtype })
  return { parameters: null, accuracy: await accuracies(model) }
}

async function accuracies(model: Model): Promise<number[]> {
  const shares: number[] = []
  for (const name of disciplines) {
    if (model.adapter?.needsDiscipline) model.adapter.useDiscipline(name)
    shares.push(await accuracyOn(model, name))
  }
  return shares
}

/** Share of the validation questions answered exactly. */
async function accuracyOn(model: Model, name: string): Promise<number> {
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

function trainingFile(discipline: string): string {
  return here(`data/${discipline}.train.jsonl`)
}

async function write(rows: readonly Row[]): Promise<void> {
  const table = (which: Row['table'], what: string) => {
    const heads = [what, 'trained parameters', ...disciplines, 'mean']
    const cells = rows
      .filter(({ table }) => table === which)
      .map(({ name, parameters, accuracy }) => [
        name,
        parameters === null ? '–' : parameters.toLocaleString('en'),
        ...accuracy.map(percent),
        percent(mean(accuracy)),
      ])
    const line = (row: readonly string[]) => `| ${row.join(' | ')} |`
    return [line(heads), line(heads.map((_, i) => (i === 0 ? '---' : '--:'))), ...cells.map(line)]
  }
  const text = [
    `Exact answers in per cent on the validation questions; ${steps} steps of ${size} samples, a fifth of each discipline, one seed, ${dtype} on ${instructionSet}.`,
    '',
    ...table('trained', 'one adapter for all'),
    '',
    ...table('composed', 'five adapters of rank 16'),
  ].join('\n')
  const figures = { steps, size, dtype, instructionSet, rows }
  writeFileSync(here('kinds.json'), `${JSON.stringify(figures, null, 2)}\n`)
  const whole = readFileSync(guide, 'utf8')
  const [begin, end] = ['<!-- figures -->', '<!-- end of figures -->']
  const at = [whole.indexOf(begin) + begin.length, whole.indexOf(end)]
  const filled = `${whole.slice(0, at[0])}\n\n${text}\n\n${whole.slice(at[1])}`
  const style = await resolveConfig(guide)
  writeFileSync(guide, await format(filled, { ...style, filepath: guide }))
  console.log(text)
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, one) => sum + one, 0) / values.length
}

function percent(share: number): string {
  return (100 * share).toFixed(1)
}

main()
  .catch((error: unknown) => {
    process.exitCode = exitCodeOf(error)
    console.error(describeError(error))
  })
  .finally(() => device.close())
