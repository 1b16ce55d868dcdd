import { cpSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { StudyConfigInput } from '../../lib/laws/study-config.js'
import { goldenModel } from '../decoder-logits.js'

/** A corpus of three small disciplines and everything a study may ask for, with a tiny model. */
export function writeSmallStudy(folder: string): StudyConfigInput {
  const model = join(folder, 'model')
  cpSync(goldenModel('qwen2-text'), model, { recursive: true })
  const data = join(folder, 'corpus')
  mkdirSync(data, { recursive: true })
  const write = (name: string, records: readonly object[]) => {
    const path = join(data, `${name}.jsonl`)
    writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
    return path
  }
  const items = (count: number, from: number, ask: (n: number) => [string, string]) =>
    Array.from({ length: count }, (_, i) => {
      const [prompt, completion] = ask(from + i)
      return { prompt, completion: ` ${completion}`, fact: `fact ${from + i}` }
    })
  const questions: Record<string, (n: number) => [string, string]> = {
    sums: (n) => [`${n} plus ${n}?`, String(2 * n)],
    letters: (n) => [`Letter ${n}?`, 'abcdefghij'[n % 10]],
    words: (n) => [`Word for ${n}?`, ['red', 'green', 'blue'][n % 3]],
  }
  const sizes: Record<string, number> = { sums: 99, letters: 70, words: 12 }
  const disciplines = Object.fromEntries(
    Object.entries(questions).map(([name, ask]) => [
      name,
      {
        train: write(`${name}.train`, items(sizes[name], 0, ask)),
        validation: write(`${name}.validation`, items(6, 100, ask)),
        test: write(`${name}.test`, items(8, 200, ask)),
        reserve: write(`${name}.reserve`, items(40, 300, ask)),
      },
    ]),
  )
  const loud = (n: number) => ({
    prompt: `Say ${n} loudly.`,
    completion: ' YES',
    constraints: [{ kind: 'upper-case' }],
  })
  return {
    model,
    output: join(folder, 'study'),
    data: {
      disciplines,
      cross: {
        test: write(
          'cross',
          items(6, 400, (n) => [`Letter of ${n} plus 1?`, 'abcdefghij'[(n + 1) % 10]]),
        ),
      },
      instructions: {
        train: write(
          'instructions.train',
          Array.from({ length: 12 }, (_, n) => loud(n)),
        ),
        validation: write(
          'instructions.validation',
          Array.from({ length: 4 }, (_, n) => loud(80 + n)),
        ),
        test: write(
          'instructions.test',
          Array.from({ length: 4 }, (_, n) => loud(50 + n)),
        ),
      },
      general: {
        test: write(
          'general',
          items(6, 500, (n) => [`Day ${n}?`, 'Monday']),
        ),
      },
    },
    seeds: 2,
    variabilityRuns: 2,
    tokens: 600,
    batchTokens: 200,
    rank: 4,
    learningRates: [5e-3],
    seed: 3,
  }
}
