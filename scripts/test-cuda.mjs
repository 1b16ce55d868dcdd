// npm run test:cuda -- [--gates] [--only TEXT] [--fresh] [--list]
//
// Everything about CUDA's kernels. What nvcc says, the programs of test/cuda (on the device too where there is one), the
// mutants, the operation tests once for each way in which the emulator may schedule what is asynchronous, in race mode
// and under the sanitizers, and whether every kernel was among what they ran. What has gone well is written down in
// build/cuda-tests.jsonl, so that a run that was stopped goes on where it was, as long as the sources are the same.
//
//   --gates      only what every change must pass: nvcc, the programs, and most operations in race mode and sanitized
//   --only TEXT  the units whose names contain this: 'race', 'sanitized', 'mutant', 'linear'
//   --fresh      all of them again
//   --list       their names
//
// Arguments with a file of operation tests among them are mocha's: these tests then run alone, in every build and mode.
import { readdirSync } from 'node:fs'
import { join } from 'node:path'
import { bootstrap, root } from './bootstrap.mjs'
import {
  buildEmulated,
  checkLaunched,
  checkNvcc,
  runCudaPrograms,
  runEmulated,
  runOnDevice,
} from './cuda.mjs'
import { kernelMutants } from './kernel-mutants.mjs'
import { noteLaunched } from './launched-kernels.mjs'
import { Ledger, runUnit, unitsNamed } from './ledger.mjs'
import { parseOptions, runMain, ScriptError } from './run.mjs'
import { hashInputs } from './stamp.mjs'
import { closingLine, sum } from './totals.mjs'

const modes = [
  { POLYLORA_EMULATOR: 'lazy' },
  { POLYLORA_EMULATOR: 'eager', POLYLORA_EMULATOR_ARCHITECTURE: '80' },
  { POLYLORA_EMULATOR: 'random:1' },
  { POLYLORA_EMULATOR: 'random:20250101' },
]

const variant = (build, mode = {}) => ({
  name: [build, ...Object.values(mode)].join(' '),
  build,
  mode,
})
/** The builds of the emulated device, each in the modes that it is run in. */
const variants = [
  ...modes.map((mode) => variant('plain', mode)),
  variant('race'),
  variant('sanitized'),
]

/** The files of operation tests; that of determinism is the CPU's. */
const operationTests = [
  ...readdirSync(join(root, 'test/ops'))
    .filter((name) => name.endsWith('.test.ts') && name !== 'determinism.test.ts')
    .map((name) => `test/ops/${name}`),
  'test/tensor.test.ts',
  'test/weight.test.ts',
  'test/autograd.test.ts',
]
/** Those that take no minute in race mode. */
const quickTests = operationTests.filter(
  (file) => !/(attention|head-cross-entropy|linear|sample)\.test\.ts$/.test(file),
)

/** A piece of the whole: the emulator's builds that it needs, and what gives `{ passed, failed, skipped }`. */
const unit = (name, builds, run) => ({ name, builds, run: async () => sum([await run()].flat()) })

/** A digest of what the units' results depend on. */
const hashSources = () =>
  hashInputs(root, ['cuda', 'src', 'lib', 'test', 'scripts', 'CMakeLists.txt', 'package-lock.json'])

function allUnits(key) {
  const launched = (build) => join(root, 'build', `launched-${build}-${key.slice(0, 16)}`)
  return [
    unit('nvcc', [], checkNvcc),
    unit('programs on the device', [], runOnDevice),
    ...variants.map(({ name, build, mode }) =>
      unit(`${name}: programs`, [build], () => runCudaPrograms(build, mode)),
    ),
    ...kernelMutants().map(({ name, run }) => unit(name, ['plain', 'race'], run)),
    ...variants.flatMap(({ name, build, mode }) =>
      operationTests.map((file) =>
        unit(`${name}: ${file}`, [build], () =>
          runEmulated(build, [file], mode, noteLaunched(launched(build))),
        ),
      ),
    ),
    // By what those before have noted.
    ...[...new Set(variants.map(({ build }) => build))].map((build) =>
      unit(`${build}: every kernel has run`, [build], () => checkLaunched(build, launched(build))),
    ),
  ]
}

async function runGates() {
  // Under the sanitizers the operations alone: a minute less to compile.
  if (!(await buildEmulated(['plain', 'race', 'sanitized'], ['plain', 'race']))) {
    console.log('CUDA: skipped, since the emulator needs cmake')
    return [{ skipped: 1 }]
  }
  return [
    await checkNvcc(),
    ...(await runOnDevice()),
    ...(await runCudaPrograms('plain')),
    ...(await runCudaPrograms('race')),
    ...(await Promise.all(['race', 'sanitized'].map((build) => runEmulated(build, quickTests)))),
  ]
}

/** The tests that mocha's arguments name, in every build and mode. */
async function runFiles(args) {
  await requireEmulated(variants.map(({ build }) => build))
  const totals = []
  for (const { build, mode } of variants) totals.push(await runEmulated(build, args, mode))
  return totals
}

async function requireEmulated(builds) {
  if (builds.length > 0 && !(await buildEmulated([...new Set(builds)])))
    throw new ScriptError('cmake is not on the PATH: it builds the emulator.')
}

async function runUnits(units, key, fresh) {
  await requireEmulated(units.flatMap((each) => each.builds))
  const ledger = new Ledger(join(root, 'build/cuda-tests.jsonl'), key, { fresh })
  const done = units.filter(({ name }) => ledger.find(name)).length
  console.log(`${units.length} units, of which ${done} are done`)
  const entries = []
  for (const each of units) entries.push(await runUnit(each, ledger))
  return entries
}

runMain(async () => {
  const args = process.argv.slice(2)
  const isOfFiles = args.some((arg) => arg.endsWith('.ts'))
  const { values } = parseOptions({
    args: isOfFiles ? [] : args,
    options: {
      gates: { type: 'boolean', default: false },
      only: { type: 'string', default: '' },
      fresh: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
    },
  })
  const key = hashSources()
  const units = unitsNamed(allUnits(key), values.only)
  if (values.list) {
    for (const { name } of units) console.log(name)
    return
  }
  await bootstrap()
  const totals = values.gates
    ? await runGates()
    : isOfFiles
      ? await runFiles(args)
      : await runUnits(units, key, values.fresh)
  const all = sum(totals)
  console.log(closingLine(all))
  if (all.failed > 0) process.exitCode = 1
})
