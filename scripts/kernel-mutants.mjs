// Bugs planted in the shipped kernels: a text that must be there exactly once is replaced, the file
// is built anew, and the operation tests on the emulator must fail by the detector that is named.
// test/cuda/mutations does the same with small kernels of its own, for many more bugs.
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { root } from './bootstrap.mjs'
import { runMocha } from './mocha.mjs'
import { runOrFail, ScriptError } from './run.mjs'

const mutants = [
  {
    name: 'the bf16 product waits for one group too few',
    file: 'cuda/product_bf16.cu',
    from: 'ptx::cp_async_wait<kStages - 2>();',
    to: 'ptx::cp_async_wait<kStages - 1>();',
    test: 'test/ops/linear.test.ts',
    found: { plain: 'values', race: 'in flight' },
  },
  {
    name: 'the bf16 product without a barrier between stages',
    file: 'cuda/product_bf16.cu',
    from: '    __syncthreads();  // the step',
    to: '    // the step',
    test: 'test/ops/linear.test.ts',
    found: { plain: 'values', race: 'never written' },
  },
  {
    name: 'the float32 product overwrites tiles that others read',
    file: 'cuda/matmul.cu',
    from: 'sums[i][j] = fmaf(xs[i], ws[j], sums[i][j]);\n      }\n      __syncthreads();',
    to: 'sums[i][j] = fmaf(xs[i], ws[j], sums[i][j]);\n      }',
    test: 'test/ops/linear.test.ts',
    found: { plain: 'values', race: 'race' },
  },
  {
    name: 'elementwise kernels take one element too many',
    file: 'cuda/layout.h',
    from: 'if (i < count) body(i);',
    to: 'if (i <= count) body(i);',
    sources: ['cuda/add.cu'],
    test: 'test/ops/add.test.ts',
    // It is the first one again, with the same value, so that nothing but the race is wrong.
    found: { race: 'race' },
  },
]

/** What a detector says; a failed test without any of it has wrong values. */
const words = {
  race: /\brace: /,
  'in flight': /in flight: /,
  'never written': /never written: /,
  proxy: /proxy: /,
  bounds: /out of bounds: |outside every/,
  deadlock: /deadlock: /,
  unfinished: /ended while/,
  guards: /was written .* behind /,
}

function detectorOf(output) {
  return Object.keys(words).find((name) => words[name].test(output)) ?? 'values'
}

/** The commands that made a library's objects: `[{ file, output, command, directory }]`. */
function objectsOf(build) {
  const commands = JSON.parse(readFileSync(join(root, 'build/compile_commands.json'), 'utf8'))
  const parts = ['emulator', 'emulated_host', 'emulated_kernels'].map(
    (part) => `CMakeFiles/${part}_${build}.dir/`,
  )
  return commands
    .map((entry) => ({ ...entry, output: / -o (\S+) /.exec(entry.command)[1] }))
    .filter(({ output }) => parts.some((part) => output.startsWith(part)))
}

/** Builds the emulated device with the bug; returns the library's path. */
async function buildMutant(mutant, build) {
  const { name, file, from, to, sources = [file] } = mutant
  const text = readFileSync(join(root, file), 'utf8')
  const count = text.split(from).length - 1
  if (count !== 1)
    throw new ScriptError(
      `${file} has the text of the mutant "${name}" ${count} times, must have it once: ${from}`,
    )
  const folder = join(root, 'build/kernel-mutants', `${mutants.indexOf(mutant)}-${build}`)
  const mutated = join(folder, file)
  mkdirSync(dirname(mutated), { recursive: true })
  writeFileSync(
    mutated,
    text.replace(from, () => to),
  )
  const objects = objectsOf(build)
  const linked = []
  for (const { file: source, output, command, directory } of objects) {
    const path = relative(root, source)
    if (!sources.includes(path)) {
      linked.push(join(directory, output))
      continue
    }
    const object = join(folder, `${path.replaceAll('/', '-')}.o`)
    const compiled = path === file ? mutated : source
    // The folder comes first, so that a header of it hides the original.
    const words = command
      .replace(` -o ${output} `, ` -o '${object}' `)
      .replace(` -c ${source}`, ` -c '${compiled}'`)
      .replace(' -I', ` -I'${folder}' -I`)
    await runOrFail(`${name}: ${path} does not compile`, 'sh', ['-c', words], { cwd: directory })
    linked.push(object)
  }
  const library = join(folder, 'mutant.so')
  const compiler = objects[0].command.split(' ')[0]
  await runOrFail(`${name} does not link`, compiler, [
    '-shared',
    '-Wl,-Bsymbolic',
    '-o',
    library,
    ...linked,
    '-pthread',
    '-ldl',
  ])
  return library
}

export async function runKernelMutants() {
  const totals = { passed: 0, failed: 0 }
  for (const mutant of mutants)
    for (const [build, wanted] of Object.entries(mutant.found)) {
      const library = await buildMutant(mutant, build)
      const { failed, output } = await runMocha(['-g', 'on cuda-emulated', mutant.test], {
        env: { POLYLORA_EMULATED: library },
        quiet: 'always',
      })
      const found = failed > 0 ? detectorOf(output) : 'nobody'
      const isGood = found === wanted
      totals[isGood ? 'passed' : 'failed'] += 1
      const rest = isGood ? '' : `, must be by ${wanted}`
      console.log(
        `  ${isGood ? '✔' : '✘'} mutant, ${build}: ${mutant.name}: found by ${found}${rest}`,
      )
      if (!isGood) console.log(output)
    }
  return totals
}
