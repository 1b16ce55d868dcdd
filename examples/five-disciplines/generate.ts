/**
 * Writes the corpus:
 *
 *     npx tsx examples/five-disciplines/generate.ts                     the committed sets, into data/
 *     ... generate.ts --pretraining TOKENS FILE.jsonl [--seed N]        pre-training documents ({"text"})
 *     ... generate.ts --tuning FILE.jsonl [--count N] [--seed N]        instruction-tuning chats
 *     ... generate.ts --reserve DISCIPLINE FILE.jsonl [--count N] [--seed N]
 */
import { closeSync, mkdirSync, openSync, realpathSync, writeFileSync, writeSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

import { type Corpus, disciplineNames, generateCorpus, reserve } from './corpus.js'
import { pretrainingDocuments } from './pretraining.js'
import type { DisciplineName } from './skill.js'
import { instructionTuningRecords } from './tuning.js'

export { generateCorpus, reserve } from './corpus.js'
export { pretrainingDocuments } from './pretraining.js'
export { instructionTuningRecords } from './tuning.js'

/** The seed of the committed files. */
export const committedSeed = 1

const lines = (records: readonly object[]): string =>
  records.map((record) => `${JSON.stringify(record)}\n`).join('')

/** File name to text, for every committed file of a corpus. */
export function corpusFiles(corpus: Corpus): Map<string, string> {
  const files = new Map<string, string>()
  const add = (name: string, data: Partial<Corpus['general']>): void => {
    for (const [part, records] of Object.entries(data)) {
      const file = part.replace(/Choices$/, '.choices')
      files.set(`${name}.${file}.jsonl`, lines(records))
    }
  }
  for (const [name, data] of Object.entries(corpus.disciplines)) add(name, data)
  add('cross', corpus.cross)
  add('general', corpus.general)
  for (const [split, records] of Object.entries(corpus.instructions)) {
    files.set(`instructions.${split}.jsonl`, lines(records))
  }
  return files
}

export function writeCorpus(folder: string): void {
  mkdirSync(folder, { recursive: true })
  for (const [name, text] of corpusFiles(generateCorpus({ seed: committedSeed }))) {
    writeFileSync(join(folder, name), text)
  }
}

function writeLines(file: string, records: Iterable<object>): void {
  mkdirSync(dirname(file), { recursive: true })
  const descriptor = openSync(file, 'w')
  try {
    for (const record of records) writeSync(descriptor, `${JSON.stringify(record)}\n`)
  } finally {
    closeSync(descriptor)
  }
}

function* asRecords(texts: Iterable<string>): Generator<object> {
  for (const text of texts) yield { text }
}

function wholeNumber(name: string, text: string): number {
  if (!/^\d+$/.test(text)) throw new RangeError(`${name} is '${text}', expected a whole number`)
  return Number(text)
}

function main(): void {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      pretraining: { type: 'string' },
      tuning: { type: 'boolean' },
      reserve: { type: 'string' },
      count: { type: 'string' },
      seed: { type: 'string', default: String(committedSeed) },
    },
  })
  const seed = wholeNumber('--seed', values.seed)
  const count = values.count === undefined ? undefined : wholeNumber('--count', values.count)
  const file = positionals[0]
  if (values.pretraining === undefined && values.tuning !== true && values.reserve === undefined) {
    writeCorpus(fileURLToPath(new URL('data', import.meta.url)))
    return
  }
  if (file === undefined) throw new RangeError('the name of the file to write is missing')
  if (values.pretraining !== undefined) {
    const tokens = wholeNumber('--pretraining', values.pretraining)
    writeLines(file, asRecords(pretrainingDocuments({ seed, tokens })))
  } else if (values.tuning === true) {
    writeLines(file, instructionTuningRecords(count === undefined ? { seed } : { seed, count }))
  } else {
    const name = disciplineNames.find((candidate) => candidate === values.reserve)
    if (name === undefined) {
      throw new RangeError(
        `--reserve is '${values.reserve}', expected one of ${disciplineNames.join(', ')}`,
      )
    }
    writeLines(file, reserve(name satisfies DisciplineName, count, seed))
  }
}

if (
  process.argv[1] !== undefined &&
  realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)
)
  main()
