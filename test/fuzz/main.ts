/**
 * npm run test:fuzz -- [--part TEXT] [--seed N] [--rounds N] [--sanitizer asan|tsan] [--jobs N]
 *
 * Calls every export of the addon and every operation with hostile arguments, opens hostile files, and ends processes
 * and workers in mid-step: see the parts. What is found is printed with the command that repeats its round.
 *
 *   --part run        only the parts whose names contain this
 *   --part 'call view' --seed 7 --round 12    repeats one round, and names each call before it is made
 *   --sanitizer asan  with an addon built for AddressSanitizer and UndefinedBehaviorSanitizer
 *   --sanitizer tsan  with one for ThreadSanitizer
 *
 * The sanitizers' addons are built by the CMake presets into build/asan and build/tsan, and loaded into the usual node,
 * into which their run-time library is preloaded.
 */

import { availableParallelism } from 'node:os'
import { parseOptions, ScriptError, wholeNumber } from '../../scripts/run.mjs'
import { allParts } from './parts.js'
import { type FuzzOptions, fuzzOptions, problemsOf, replay } from './runner.js'
import type { Sanitizer } from './sanitizer.js'

const { values } = parseOptions({
  options: {
    part: { type: 'string', default: '' },
    seed: { type: 'string', default: '1' },
    round: { type: 'string' },
    rounds: { type: 'string' },
    jobs: { type: 'string', default: String(availableParallelism()) },
    sanitizer: { type: 'string' },
  },
})

const seed = wholeNumber('--seed', values.seed)
const jobs = wholeNumber('--jobs', values.jobs, 1)
const most = values.rounds === undefined ? Infinity : wholeNumber('--rounds', values.rounds, 1)
const { sanitizer } = values

/** Whether the round went well. */
async function repeat(round: number, options: FuzzOptions): Promise<boolean> {
  const part = allParts().find(({ name }) => name === values.part)
  if (part === undefined) throw new ScriptError(`there is no part ${JSON.stringify(values.part)}`)
  const { problem, output } = await replay(part, round, options)
  console.log(output.trimEnd())
  if (problem !== null) console.log(problem)
  return problem === null
}

/** Whether all went well. */
async function runAll(options: FuzzOptions): Promise<boolean> {
  const waiting = allParts().filter(({ name }) => name.includes(values.part))
  if (waiting.length === 0)
    throw new ScriptError(`no part's name contains ${JSON.stringify(values.part)}`)
  const began = performance.now()
  let [passed, failed] = [0, 0]
  const lane = async () => {
    for (let part = waiting.shift(); part !== undefined; part = waiting.shift()) {
      const start = performance.now()
      const rounds = Math.min(part.rounds, most)
      const problems = await problemsOf(part, [0, rounds], options)
      const seconds = ((performance.now() - start) / 1000).toFixed(1)
      console.log(`  ${problems.length === 0 ? '✔' : '✘'} ${part.name} (${seconds} s)`)
      for (const problem of problems) console.log(problem.replaceAll(/^/gm, '    '))
      if (problems.length === 0) ++passed
      else ++failed
    }
  }
  await Promise.all(Array.from({ length: jobs }, lane))
  console.log(`${((performance.now() - began) / 1000).toFixed(0)} s`)
  console.log(`${passed} passed, ${failed} failed`)
  return failed === 0
}

console.log(`seed ${seed}${sanitizer === undefined ? '' : `, ${sanitizer}`}`)
const options = fuzzOptions(seed, sanitizer as Sanitizer | undefined)
const isWell =
  values.round === undefined
    ? await runAll(options)
    : await repeat(wholeNumber('--round', values.round), options)
if (!isWell) process.exitCode = 1
