/**
 * `npm run study`: the built-in study, by default as a slice of five minutes; `npm run study -- --minutes 90` is the whole.
 * Writes the reserve of fresh records first, as many a discipline as the largest one has.
 */
import { mkdirSync, writeFileSync } from 'node:fs'
import { studyCommand } from '../../lib/cli/study.js'
import { describeError, exitCodeOf } from '../../lib/cli/report.js'
import { disciplineNames, reserve, trainingSizes } from './corpus.js'
import { committedSeed } from './generate.js'

const slice = ['--slice', '--minutes', '5', '--output', 'runs/study-slice']
const folder = 'runs/reserve'

mkdirSync(folder, { recursive: true })
for (const name of disciplineNames) {
  const records = reserve(name, Math.max(...Object.values(trainingSizes)), committedSeed)
  writeFileSync(
    `${folder}/${name}.jsonl`,
    records.map((record) => `${JSON.stringify(record)}\n`).join(''),
  )
}

const given = process.argv.slice(2)
const args = given.length > 0 ? given : slice
studyCommand()
  .parseAsync(['examples/five-disciplines/study.yaml', ...args], { from: 'user' })
  .catch((error: unknown) => {
    process.exitCode = exitCodeOf(error)
    console.error(describeError(error))
  })
