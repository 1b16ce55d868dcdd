// Bugs planted in the shipped kernels: a text that must be there exactly once is replaced, the file
// is built anew, and the tests that are named, a program of test/cuda or a file of operation tests
// on the emulator, must fail by the detector that is named.
// test/cuda/mutations does the same with small kernels of its own, for many more bugs.
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { root } from './bootstrap.mjs'
import { runMocha } from './mocha.mjs'
import { run, runOrFail, ScriptError } from './run.mjs'

const mutants = [
  {
    name: 'the bf16 product waits for one group too few',
    file: 'cuda/product_bf16.cu',
    from: 'ptx::cp_async_wait<kStages - 2>();',
    to: 'ptx::cp_async_wait<kStages - 1>();',
    program: 'product_bf16_test',
    found: { plain: 'values', race: 'in flight' },
  },
  {
    name: 'the bf16 product without a barrier between stages',
    file: 'cuda/product_bf16.cu',
    from: '    __syncthreads();  // the step',
    to: '    // the step',
    program: 'product_bf16_test',
    found: { plain: 'values', race: 'never written' },
  },
  {
    name: 'the bf16 product masks before the last step of the segment',
    file: 'cuda/product_bf16.cu',
    from: 'for (; segment < multiplied.segment; ++segment) {',
    to: 'for (; segment < copied.segment; ++segment) {',
    program: 'product_bf16_test',
    found: { plain: 'values' },
  },
  {
    name: 'the product by wgmma expects the bytes of one operand',
    file: 'cuda/product_bf16_sm90.cu',
    from: 'ptx::mbarrier_arrive_expect_tx(barrier, Sizes::kStageBytes);',
    to: 'ptx::mbarrier_arrive_expect_tx(barrier, Sizes::kLeftBytes);',
    program: 'product_bf16_test',
    found: { plain: 'deadlock', race: 'in flight' },
  },
  {
    name: 'the product by wgmma expects more bytes than come',
    file: 'cuda/product_bf16_sm90.cu',
    from: 'ptx::mbarrier_arrive_expect_tx(barrier, Sizes::kStageBytes);',
    to: 'ptx::mbarrier_arrive_expect_tx(barrier, Sizes::kStageBytes + 128);',
    program: 'product_bf16_test',
    found: { plain: 'deadlock' },
  },
  {
    name: 'the product by wgmma stores sums that are not there yet',
    file: 'cuda/product_bf16_sm90.cu',
    from: `      ptx::wgmma_wait<0>();
      if (unread >= 0) give_back(unread);`,
    to: '      if (unread >= 0) give_back(unread);',
    program: 'product_bf16_test',
    found: { plain: 'unfinished' },
  },
  {
    name: 'the product by wgmma masks sums that are not there yet',
    file: 'cuda/product_bf16_sm90.cu',
    from: `          ptx::wgmma_wait<0>();
          mask_sums`,
    to: '          mask_sums',
    program: 'product_bf16_test',
    found: { plain: 'values' },
  },
  {
    name: 'the product by wgmma gives a stage back that is still multiplied',
    file: 'cuda/product_bf16_sm90.cu',
    from: `          if (unread >= 0) give_back(unread);
          unread = place.stage;`,
    to: '          give_back(place.stage);',
    program: 'product_bf16_test',
    found: { plain: 'values', race: 'in flight' },
  },
  {
    name: 'the product by wgmma does not wait for a stage to be empty',
    file: 'cuda/product_bf16_sm90.cu',
    from: '            ptx::mbarrier_wait_cluster(&empty[place.stage], place.phase ^ 1);',
    to: '',
    program: 'product_bf16_test',
    found: { plain: 'misuse' },
  },
  {
    name: 'the product by wgmma does not wait for a stage to be full',
    file: 'cuda/product_bf16_sm90.cu',
    from: '          ptx::mbarrier_wait(&full[place.stage], place.phase);',
    to: '',
    program: 'product_bf16_test',
    // In time more arrive at the mbarrier than a phase has.
    found: { plain: 'misuse', race: 'in flight' },
  },
  {
    name: 'the product by wgmma touches its sums without a fence',
    file: 'cuda/product_bf16_sm90.cu',
    from: 'ptx::wgmma_fence();',
    to: 'if (kCount == 4) ptx::wgmma_fence();',
    program: 'product_bf16_test',
    found: { plain: 'misuse' },
  },
  {
    name: 'no barrier after the mbarriers are made',
    file: 'cuda/product_bf16_sm90.cu',
    from: '  meet_cluster();  // before',
    to: '  // before',
    program: 'product_bf16_test',
    found: { race: 'race' },
  },
  {
    name: 'a block of a cluster does not wait for the mbarriers of the other',
    file: 'cuda/product_bf16_sm90.cu',
    from: '  meet_cluster();  // before',
    to: '  __syncthreads();  // before',
    program: 'product_bf16_test',
    found: { race: 'race' },
  },
  {
    name: 'a block of a cluster ends before the other has arrived at its mbarriers',
    file: 'cuda/product_bf16_sm90.cu',
    from: '  meet_cluster();  // a block stays',
    to: '  // a block stays',
    program: 'product_bf16_test',
    found: { plain: 'misuse' },
  },
  {
    name: 'the half tile goes to the first block of the cluster alone',
    file: 'cuda/product_bf16_sm90.cu',
    from: '(1 << kCluster) - 1',
    to: '1',
    program: 'product_bf16_test',
    found: { plain: 'deadlock' },
  },
  {
    name: 'both blocks of a cluster bring the same half',
    file: 'cuda/product_bf16_sm90.cu',
    from: 'for (int half = rank; half < kCluster;',
    to: 'for (int half = 0; half < kCluster;',
    program: 'product_bf16_test',
    found: { plain: 'values' },
  },
  {
    name: 'a stage is given back to its own block twice',
    file: 'cuda/product_bf16_sm90.cu',
    from: 'ptx::mbarrier_arrive_remote(&empty[stage], lane);',
    to: 'ptx::mbarrier_arrive_remote(&empty[stage], rank);',
    program: 'product_bf16_test',
    found: { plain: 'values', race: 'race' },
  },
  {
    name: 'the second warpgroup multiplies the rows of the first',
    file: 'cuda/descriptor.h',
    from: 'address + uint32_t(m / 64 * kBoxBytes)',
    to: 'address + uint32_t(m / 128 * kBoxBytes)',
    program: 'product_bf16_test',
    found: { plain: 'values' },
  },
  {
    name: 'the descriptor goes on by half of the rows of k',
    file: 'cuda/descriptor.h',
    from: 'kOuter ? k / 8 * kGroupBytes',
    to: 'kOuter ? k / 16 * kGroupBytes',
    program: 'product_bf16_test',
    found: { plain: 'values' },
  },
  {
    name: 'the descriptor names no swizzle',
    file: 'cuda/descriptor.h',
    from: 'constexpr uint64_t kSwizzle128 = 1;',
    to: 'constexpr uint64_t kSwizzle128 = 0;',
    program: 'product_bf16_test',
    found: { plain: 'misuse' },
  },
  {
    name: 'TMA brings the tiles without the swizzle that wgmma takes away',
    file: 'cuda/tensor_map.h',
    from: 'CU_TENSOR_MAP_SWIZZLE_128B',
    to: 'CU_TENSOR_MAP_SWIZZLE_NONE',
    program: 'product_bf16_test',
    found: { plain: 'values' },
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
    name: 'the shrink waits for one group too few',
    file: 'cuda/product_shrink.cu',
    from: `ptx::cp_async_wait<kNarrowStages - 2>();
    __syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kNarrowStages - 1);
    float* const x = stage_of(step);`,
    to: `ptx::cp_async_wait<kNarrowStages - 1>();
    __syncthreads();
    fetch(step + kNarrowStages - 1);
    float* const x = stage_of(step);`,
    program: 'product_narrow_test',
    found: { plain: 'unfinished', race: 'in flight' },
  },
  {
    name: 'the narrow gradient without a barrier between steps',
    file: 'cuda/product_gradient.cu',
    from: `__syncthreads();  // the step is here, and nobody reads the stage that is filled next
    fetch(step + kNarrowStages - 1);
    float* const wides`,
    to: `fetch(step + kNarrowStages - 1);
    float* const wides`,
    program: 'product_narrow_test',
    found: { plain: 'values', race: 'never written' },
  },
  {
    name: 'the shrink multiplies before its tile is dropped out',
    file: 'cuda/product_shrink.cu',
    from: `step * kStep);
      __syncthreads();`,
    to: 'step * kStep);',
    program: 'product_narrow_test',
    found: { race: 'race' },
  },
  {
    name: 'the slices of the shrink leave their sums where others multiply',
    file: 'cuda/product_shrink.cu',
    from: '__syncthreads();  // the stages are free',
    to: '',
    program: 'product_narrow_test',
    found: { race: 'race' },
  },
  {
    name: 'the narrow gradient forgets a chunk of the rows',
    file: 'cuda/product_gradient.cu',
    from: 'for (int64_t chunk = 1;',
    to: 'for (int64_t chunk = 2;',
    program: 'product_narrow_test',
    found: { plain: 'values' },
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
  misuse: /no wgmma\.fence came|is known here|more than its \d+ arrivals|has ended/,
  race: /\brace: /,
  'in flight': /in flight: /,
  'never written': /never written: /,
  proxy: /proxy: /,
  bounds: /out of bounds: |outside every/,
  deadlock: /deadlock: /,
  unfinished: /ended while/,
  guards: /was written .* behind /,
}

/** The detector that spoke first: a bug that was reported is let run on, and others may see what follows from it. */
function detectorOf(output) {
  const found = Object.entries(words)
    .map(([name, said]) => ({ name, place: output.search(said) }))
    .filter(({ place }) => place >= 0)
    .sort((left, right) => left.place - right.place)
  return found[0]?.name ?? 'values'
}

/**
 * The commands that made the objects of the library, or of a program of test/cuda:
 * `[{ file, output, command, directory }]`.
 */
function objectsOf(build, program) {
  const commands = JSON.parse(readFileSync(join(root, 'build/compile_commands.json'), 'utf8'))
  const own = program
    ? [`cuda_${build}_${program}_objects`]
    : [`emulated_host_${build}`, `emulated_kernels_${build}`]
  const parts = [`emulator_${build}`, ...own].map((part) => `CMakeFiles/${part}.dir/`)
  return commands
    .map((entry) => ({ ...entry, output: / -o (\S+) /.exec(entry.command)[1] }))
    .filter(({ output }) => parts.some((part) => output.startsWith(part)))
}

/** Builds the emulated device, or the program that tests the kernel, with the bug; returns its path. */
async function buildMutant(mutant, build) {
  const { name, file, from, to, program } = mutant
  // A program includes the kernel.
  const sources = program ? [`test/cuda/${program}.cu`] : (mutant.sources ?? [file])
  const text = readFileSync(join(root, file), 'utf8')
  const count = text.split(from).length - 1
  if (count !== 1)
    throw new ScriptError(
      `${file} has the text of the mutant "${name}" ${count} times, must have it once: ${from}`,
    )
  const folder = join(root, 'build/kernel-mutants', `${mutants.indexOf(mutant)}-${build}`)
  const mutated = join(folder, file)
  rmSync(folder, { recursive: true, force: true }) // what lies there hides originals
  mkdirSync(dirname(mutated), { recursive: true })
  writeFileSync(
    mutated,
    text.replace(from, () => to),
  )
  const objects = objectsOf(build, program)
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
  const made = join(folder, program ?? 'mutant.so')
  const compiler = objects[0].command.split(' ')[0]
  await runOrFail(`${name} does not link`, compiler, [
    ...(program ? [] : ['-shared', '-Wl,-Bsymbolic']),
    '-o',
    made,
    ...linked,
    '-pthread',
    '-ldl',
  ])
  return made
}

/** Whether the tests fail with what was built, and what they print. */
async function test({ program, test }, made) {
  if (program) {
    const { code, output } = await run(made, [], { cwd: root, quiet: true })
    return { failed: code !== 0, output }
  }
  const { failed, output } = await runMocha(['-g', 'on cuda-emulated', test], {
    env: { POLYLORA_EMULATED: made },
    quiet: 'always',
  })
  return { failed: failed > 0, output }
}

/** One a mutant and a build that must find it: `{ name, run }`, which gives `{ passed, failed }`. */
export function kernelMutants() {
  return mutants.flatMap((mutant) =>
    Object.entries(mutant.found).map(([build, wanted]) => ({
      name: `mutant, ${build}: ${mutant.name}`,
      async run() {
        const { failed, output } = await test(mutant, await buildMutant(mutant, build))
        const found = failed ? detectorOf(output) : 'nobody'
        if (found === wanted) return { passed: 1 }
        console.log(`${output}found by ${found}, must be by ${wanted}`)
        return { failed: 1 }
      },
    })),
  )
}
