// The parts of npm run test:cuda: programs, the emulated device in each of its builds, and what nvcc says.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import { join } from 'node:path'
import { buildTargets, root } from './bootstrap.mjs'
import { findUnlaunched } from './launched-kernels.mjs'
import { runMocha } from './mocha.mjs'
import { runProgram } from './programs.mjs'
import { findProgram, run, ScriptError } from './run.mjs'

/** The emulated device's target. */
export const emulatedLibrary = 'polylora_cuda_emulated'

/** Its builds: as it is, in race mode, under the sanitizers. */
const libraries = {
  plain: emulatedLibrary,
  race: 'polylora_cuda_race',
  sanitized: 'polylora_cuda_sanitized',
}

/** Builds the emulated device, and the programs of test/cuda in some of its builds; false where there is no cmake. */
export function buildEmulated(builds, ofPrograms = builds) {
  return buildTargets('The CUDA emulator', [
    ...builds.map((build) => libraries[build]),
    ...ofPrograms.map((build) => `cuda_tests_${build}`),
  ])
}

/** What a process needs to load a library built for the sanitizers. */
function sanitizedEnvironment() {
  const compiler = process.env.CXX ?? 'c++'
  const library = execFileSync(compiler, ['-print-file-name=libasan.so'], { encoding: 'utf8' })
  return {
    LD_PRELOAD: library.trim(),
    // V8's heap is full of what looks like leaks. Stacks that fibers leave are no errors.
    ASAN_OPTIONS: 'detect_leaks=0:detect_stack_use_after_return=0',
    UBSAN_OPTIONS: 'print_stacktrace=1',
  }
}

/** The programs of test/cuda built so; the program itself says where it ran. */
export async function runCudaPrograms(build, env = {}) {
  const folder = join(root, 'build/cuda-tests', build)
  const totals = []
  for (const name of readdirSync(folder).sort()) {
    const note = `, ${build === 'device' ? 'device' : `emulator, ${build}`}${Object.values(env)
      .map((value) => `, ${value}`)
      .join('')}`
    const options = build === 'sanitized' ? { ASAN_OPTIONS: 'detect_leaks=0' } : {}
    totals.push(await runProgram(join(folder, name), { env: { ...options, ...env }, note }))
  }
  return totals
}

/** The tests of the emulated device; in the slow builds without those that run one operation hundreds of times. */
const tests = {
  plain: 'on cuda-emulated',
  slow: 'on cuda-emulated(?!.*(central differences|number of threads))',
}

/**
 * The operation tests on one build of the emulated device, in the mode that the variables of `mode` ask for; `env` has
 * further ones.
 */
export async function runEmulated(build, args, mode = {}, env = {}) {
  const of = build === 'plain' ? {} : { POLYLORA_EMULATED: build }
  const preload = build === 'sanitized' ? sanitizedEnvironment() : {}
  const {
    passed = 0,
    failed,
    skipped = 0,
  } = await runMocha(
    ['--timeout', '600000', '-g', build === 'plain' ? tests.plain : tests.slow, ...args],
    {
      env: { ...of, ...preload, ...mode, ...env },
      quiet: true,
    },
  )
  const words = [build, ...Object.values(mode)].join(', ')
  console.log(`  ${failed ? '✘' : '✔'} operations on the emulator, ${words} (${passed} tests)`)
  return { passed, failed, skipped }
}

/** Whether every kernel of a build of the emulated device has run, by the file that noteLaunched() names. */
export async function checkLaunched(build, file) {
  const library = join(root, `build/cuda-emulated/${libraries[build]}.so`)
  const { kernels, missing } = await findUnlaunched(library, file)
  for (const name of missing) console.log(`    no test runs ${name}`)
  const [good, ran] = [kernels > 0 && missing.length === 0, kernels - missing.length]
  console.log(
    `  ${good ? '✔' : '✘'} kernels that ran on the emulator, ${build} (${ran} of ${kernels})`,
  )
  return good ? { passed: 1 } : { failed: 1 }
}

/** The programs that nvcc built, on the device; without a driver they run in the emulator alone. */
export async function runOnDevice() {
  if (!findProgram('nvcc')) return []
  if (existsSync('/proc/driver/nvidia/version')) return runCudaPrograms('device')
  console.log('  - no NVIDIA driver is here: the programs run in the emulator alone')
  return []
}

/**
 * Where nvcc is: the library and the programs compile for every architecture, and what ptxas says of them holds.
 * What has not changed is not compiled again.
 */
export async function checkNvcc() {
  if (!findProgram('nvcc')) {
    console.log('  - nvcc: skipped, since it is not on the PATH')
    return { skipped: 1 }
  }
  try {
    const built = await buildTargets('The CUDA device', ['polylora_cuda', 'cuda_tests_device'])
    if (!built) {
      console.log('  - nvcc: skipped, since it needs cmake')
      return { skipped: 1 }
    }
  } catch (error) {
    if (!(error instanceof ScriptError)) throw error
    console.log(`${error.message}\n  ✘ nvcc`)
    return { failed: 1 }
  }
  const check = [join(root, 'scripts/check-ptxas.mjs'), join(root, 'build/cuda')]
  const { code, output } = await run(process.execPath, check, { cwd: root, quiet: true })
  console.log(
    `${code === 0 ? '' : output}  ${code === 0 ? '✔' : '✘'} nvcc (${output.trim().split('\n').at(-1)})`,
  )
  return code === 0 ? { passed: 1 } : { failed: 1 }
}
