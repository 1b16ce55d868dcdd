import { createHash } from 'node:crypto'
import { join, resolve, sep } from 'node:path'
import { Corpus, type CorpusRecord, parseRecord, readRecords } from '../data/index.js'
import { ConfigError, DataError } from '../errors.js'
import { nodeFileSystem } from '../file-system.js'
import type { Model } from '../model.js'
import { DuplicateIndex, type Place } from './duplicates.js'
import type { DisciplineFacts } from './arms/law.js'
import { inputsOf, type StudyConfig } from './study-config.js'

/** Items that every arm is measured on, in one order. */
export interface ItemSet {
  readonly name: string
  readonly path: string
  /** Of each item: its fact, or its template, or its line. */
  readonly clusters: readonly string[]
  /** Accuracy of guessing, of each item. */
  readonly chances: readonly number[]
  /** Answers are generated and checked, not compared. */
  readonly isChecked: boolean
}

export interface DisciplineData extends DisciplineFacts {
  readonly path: string
  readonly items: number
  readonly reserve: { readonly path: string; readonly trainedTokens: number } | null
}

export interface StudyData {
  readonly disciplines: readonly DisciplineData[]
  /** The file of the alignment data. */
  readonly alignment: string | null
  /** `test NAME`, `validation NAME`; cross, instructions, general; `validation instructions` where it is given. */
  readonly sets: ReadonlyMap<string, ItemSet>
  /** SHA-256 over all that is trained and measured on. */
  readonly fingerprint: string
  /** What a reader of the report must know of the data. */
  readonly notes: readonly string[]
}

interface Item extends Place {
  readonly fields: Readonly<Record<string, unknown>>
  readonly record: CorpusRecord
}

/** The most items of a set where the configuration says nothing. */
const mostItems = 300

/**
 * Reads every file of a study, divides corpora where asked, takes out training items that are held out somewhere, and writes
 * what is used to `folder`, one JSONL file a set.
 *
 * @throws ConfigError, DataError in one sentence, before anything is trained
 */
export async function prepareData(
  config: StudyConfig,
  model: Model,
  folder: string,
  {
    items: itemLimit = config.items ?? mostItems,
    signal,
  }: { items?: number; signal?: AbortSignal },
): Promise<StudyData> {
  await requireForeign(inputsOf(config), folder)
  const notes: string[] = []
  const training = new Map<string, Item[]>()
  const reserves = new Map<string, Item[]>()
  const held = new Map<string, readonly Item[]>()
  const read = (paths: string | readonly string[], key: string) =>
    readItems([paths].flat(), key, signal)
  for (const [name, files] of Object.entries(config.data.disciplines)) {
    const key = `data.disciplines.${name}`
    const given = typeof files === 'string' ? { train: files } : files
    const parts = {
      train: await read(given.train, `${key}.train`),
      validation: given.validation ? await read(given.validation, `${key}.validation`) : null,
      test: given.test ? await read(given.test, `${key}.test`) : null,
    }
    divide(parts, config)
    training.set(name, parts.train)
    held.set(`validation ${name}`, parts.validation!)
    held.set(`test ${name}`, parts.test!)
    if (given.reserve) reserves.set(name, await read(given.reserve, `${key}.reserve`))
  }
  const { cross, instructions, general } = config.data
  for (const [name, files] of Object.entries({ cross, instructions, general }))
    if (files) held.set(name, await read(files.test, `data.${name}.test`))
  if (instructions?.validation)
    held.set(
      'validation instructions',
      await read(instructions.validation, 'data.instructions.validation'),
    )
  const alignment = instructions ? await read(instructions.train, 'data.instructions.train') : null

  const cleaned = (items: readonly Item[], index: DuplicateIndex, what: Described) => {
    const { kept, note } = withoutHeldOut(items, index, what, config)
    if (note !== null) notes.push(note)
    return kept
  }
  // What is chosen on validation is not chosen on the test.
  const tested = indexOf([...held].filter(([name]) => !isValidation(name)))
  for (const [name, items] of held)
    if (isValidation(name)) {
      const of = name.replace('validation ', '')
      held.set(name, cleaned(items, tested, { kind: 'validation', of, is: 'tested on' }))
    }
  const heldOut = indexOf([...held])
  const forTraining = (items: readonly Item[], of: string) =>
    cleaned(items, heldOut, { kind: 'training', of, is: 'held out' })
  const hash = createHash('sha256')
  hash.update(JSON.stringify({ chatTemplate: config.data.chatTemplate }))
  const taken = new Set<string>()
  const write = async (name: string, items: readonly Item[]) => {
    const slug = name.replace(/[^\p{L}\p{N}]+/gu, '-')
    // Two names may differ in signs alone, or in capitals on a file system that sees none.
    let file = slug
    for (let i = 2; taken.has(file.toLowerCase()); i++) file = `${slug}-${i}`
    taken.add(file.toLowerCase())
    const path = join(folder, `${file}.jsonl`)
    const text = items.map(({ fields }) => `${JSON.stringify(fields)}\n`).join('')
    hash.update(`${name}\n${text}`)
    await nodeFileSystem.writeFile(path, text)
    return path
  }
  await nodeFileSystem.makeFolder(folder)
  const disciplines: DisciplineData[] = []
  for (const [name, items] of training) {
    const path = await write(`train ${name}`, forTraining(items, name))
    const fresh = reserves.get(name)
    const counts = await countTokens(path, name, config, model, signal)
    let reserve: DisciplineData['reserve'] = null
    if (fresh) {
      const path = await write(`reserve ${name}`, forTraining(fresh, `${name} (reserve)`))
      const { trainedTokens } = await countTokens(path, name, config, model, signal)
      reserve = { path, trainedTokens }
    }
    disciplines.push({ name, path, reserve, ...counts })
  }
  const sets = new Map<string, ItemSet>()
  for (const [name, items] of held) {
    const chosen = sample(items, itemLimit)
    if (chosen.length < items.length)
      notes.push(`${name}: ${chosen.length} of ${items.length} items are looked at`)
    sets.set(name, {
      name,
      path: await write(name, chosen),
      clusters: chosen.map(({ fields, file, line }) =>
        String(fields.fact ?? fields.template ?? `${file}:${line}`),
      ),
      chances: chosen.map(chanceOf),
      isChecked: chosen.every(({ fields }) => Array.isArray(fields.constraints)),
    })
  }
  const alignmentPath =
    alignment && (await write('train instructions', forTraining(alignment, 'instructions')))
  return { disciplines, alignment: alignmentPath, sets, fingerprint: hash.digest('hex'), notes }
}

const isValidation = (name: string) => name.startsWith('validation ')

function indexOf(sets: readonly (readonly [string, readonly Item[]])[]): DuplicateIndex {
  const index = new DuplicateIndex()
  for (const [, items] of sets) for (const one of items) index.add(one.record, one)
  return index
}

/** @throws ConfigError if a file that is read lies where files are written */
async function requireForeign(inputs: readonly string[], folder: string): Promise<void> {
  const own = await nodeFileSystem.realPath(folder).catch(() => resolve(folder))
  for (const input of inputs) {
    const real = await nodeFileSystem.realPath(input).catch(() => resolve(input))
    if (real.startsWith(own + sep))
      throw new ConfigError(
        `${input} lies in ${folder}, where the study writes its own files; choose another output`,
        { details: { path: input, key: 'output' } },
      )
  }
}

async function readItems(
  paths: readonly string[],
  key: string,
  signal: AbortSignal | undefined,
): Promise<Item[]> {
  const items: Item[] = []
  for (const file of paths)
    for await (const one of readRecords(file, { signal })) {
      const record = 'reason' in one ? { problem: one.reason } : parseRecord(one.record)
      if ('problem' in record)
        throw new DataError(`${file}:${one.line}: ${record.problem}`, {
          details: { file, line: one.line, key },
        })
      items.push({ file, line: one.line, record, fields: 'record' in one ? one.record : {} })
    }
  if (items.length === 0)
    throw new DataError(`${paths.join(', ')}: no record, but the study needs some as ${key}`, {
      details: { key },
    })
  return items
}

interface Parts {
  train: Item[]
  validation: Item[] | null
  test: Item[] | null
}

/** Fills in the splits that are missing from the training items, near-duplicates kept together. */
function divide(parts: Parts, { data: { split } }: StudyConfig): void {
  if (split === undefined) return
  const clusters = clustersOf(parts.train)
  const total = parts.train.length
  for (const name of ['test', 'validation'] as const) {
    if (parts[name]) continue
    const taken: Item[] = []
    while (clusters.length > 1 && taken.length < split[name] * total) taken.push(...clusters.pop()!)
    parts[name] = taken
  }
  parts.train = clusters.flat().sort((a, b) => a.line - b.line)
  for (const name of ['test', 'validation'] as const)
    if (parts[name]!.length === 0)
      throw new DataError(
        `${parts.train[0].file}: ${total} items in one cluster of near-duplicates leave none for a ${name} split`,
      )
}

/** In an order that depends on what the clusters say alone. */
function clustersOf(items: readonly Item[]): Item[][] {
  const index = new DuplicateIndex()
  const clusters = new Map<string, Item[]>()
  for (const one of items) {
    const first = index.find(one.record)
    if (first) clusters.get(`${first.file}:${first.line}`)!.push(one)
    else {
      index.add(one.record, one)
      clusters.set(`${one.file}:${one.line}`, [one])
    }
  }
  return [...clusters.values()].sort((a, b) => (textHash(a[0]) < textHash(b[0]) ? -1 : 1))
}

const textHash = ({ fields }: Item) =>
  createHash('sha256').update(JSON.stringify(fields)).digest('hex')

interface Described {
  readonly kind: 'training' | 'validation'
  readonly of: string
  /** What they must not be. */
  readonly is: 'held out' | 'tested on'
}

function withoutHeldOut(
  items: readonly Item[],
  index: DuplicateIndex,
  { kind, of, is }: Described,
  { data }: StudyConfig,
): { kept: readonly Item[]; note: string | null } {
  const found = items.map(({ record }) => index.find(record))
  const first = found.findIndex((place) => place !== null)
  if (first === -1) return { kept: items, note: null }
  const kept = items.filter((_, i) => found[i] === null)
  const { file, line } = items[first]
  const example = `${file}:${line} is ${found[first]!.file}:${found[first]!.line}`
  const count = items.length - kept.length
  const those = `${count} ${kind} item${count === 1 ? '' : 's'} of ${of}`
  const details = { file, line, count }
  if (data.duplicates === 'error')
    throw new DataError(
      `${those} ${is} as well, or nearly (${example}); take them out, or set data.duplicates: remove`,
      { details },
    )
  if (kept.length === 0)
    throw new DataError(`every ${kind} item of ${of} is ${is} as well (${example})`, {
      details,
    })
  return {
    kept,
    note: `${those} left out: ${is} as well, or nearly (${example})`,
  }
}

/** So many items, those of the smallest hashes, in their own order. */
function sample(items: readonly Item[], most: number): readonly Item[] {
  if (items.length <= most) return items
  const hashed = items.map((one) => ({ one, hash: textHash(one) }))
  hashed.sort((a, b) => (a.hash < b.hash ? -1 : 1))
  const chosen = new Set(hashed.slice(0, most).map(({ one }) => one))
  return items.filter((one) => chosen.has(one))
}

function chanceOf({ fields, record, file, line }: Item): number {
  if (record.kind === 'choice') return 1 / record.choices.length
  const chance = fields.chance ?? 0
  if (typeof chance === 'number' && chance >= 0 && chance < 1) return chance
  throw new DataError(
    `${file}:${line}: chance must be a number from 0 to below 1, not ${JSON.stringify(chance)}`,
  )
}

async function countTokens(
  path: string,
  name: string,
  { data }: StudyConfig,
  { tokenizer, config }: Model,
  signal?: AbortSignal,
): Promise<Pick<DisciplineData, 'items' | 'tokens' | 'trainedTokens'>> {
  await using corpus = await Corpus.open([{ discipline: name, path, weight: 1 }], {
    tokenizer,
    maxLength: config.maxPositions,
    onTooLong: 'skip',
    onBadRecord: 'skip',
    chatTemplate: data.chatTemplate,
    labels: 'all',
    signal,
  })
  let trainedTokens = 0
  for await (const { labels } of corpus.batches()) trainedTokens += labels.length
  if (trainedTokens === 0)
    throw new ConfigError(`${path}: nothing of ${name} would be trained`, {
      details: { file: path },
    })
  return { items: corpus.numSamples, tokens: corpus.numTokens, trainedTokens }
}
