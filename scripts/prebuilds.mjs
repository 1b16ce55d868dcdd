// npm run prebuilds: prebuilds/linux-x64, which the published package loads. The addon is compiled
// by zig, which brings the glibc of any age and a C++ library to link in; polylora_cuda.so is the
// one of npm run build:cuda, where nvcc is. What breaks a floor (check-floors.mjs) is not shipped.
// Then the prebuilt addon itself passes the tests, and the tarball is installed and trains.
import { copyFileSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { bootstrap, buildJobs, buildTargets, root } from './bootstrap.mjs'
import { checkFolder, floors } from './check-floors.mjs'
import { withLock } from './lock.mjs'
import { runMocha } from './mocha.mjs'
import { findProgram, runMain, runOrFail, ScriptError } from './run.mjs'
import { closingLine, isSuccess, sum } from './totals.mjs'

const [addon, cuda] = Object.keys(floors)
const target = `x86_64-linux-gnu.${floors[addon].glibc}`
const build = join(root, 'build/prebuild')
const folder = join(root, 'prebuilds/linux-x64')

/** The oldest that has been tried. */
const leastZig = [0, 17]

const say = (text) => console.error(`polylora: ${text}`)

function requireProgram(name, why, path = name) {
  const found = findProgram(path)
  if (found === undefined) throw new ScriptError(`${path} is not there: ${why}`)
  return found
}

/** The addon, by zig, in a build folder of its own. */
async function buildAddon() {
  const zig = requireProgram(
    'zig',
    `prebuilds are compiled by zig ${leastZig.join('.')} or later, against glibc ${floors[addon].glibc}; put it on the PATH or name it in ZIG ` +
      `(the Python package ziglang is one way to get it).`,
    process.env.ZIG,
  )
  const version = (await runOrFail(`${zig} does not run`, zig, ['version'])).trim()
  const [major, minor] = version.split('.').map(Number)
  if (!(major > leastZig[0] || (major === leastZig[0] && minor >= leastZig[1])))
    throw new ScriptError(
      `${zig} is zig ${version}: prebuilds are compiled by ${leastZig.join('.')} or later.`,
    )
  requireProgram('cmake', 'prebuilds are built by cmake alone.')
  say(`building the addon with zig for ${target}`)
  const env = {
    ...process.env,
    CC: `${zig} cc -target ${target}`,
    CXX: `${zig} c++ -target ${target}`,
  }
  const configure = ['-S', root, '-B', build, '-DCMAKE_BUILD_TYPE=Release', '-DPOLYLORA_TESTS=OFF']
  const make = ['--build', build, '--target', 'polylora', '--parallel', String(buildJobs())]
  await withLock(join(root, '.polylora.lock'), async (lock) => {
    for (const args of [configure, make])
      await runOrFail('The addon could not be built', 'cmake', args, { env, adopt: lock.adopt })
  })
  return join(build, 'polylora.node')
}

/** polylora_cuda.so, or null where there is no nvcc. */
async function buildCuda() {
  if (!findProgram('nvcc')) {
    say(`${cuda} is left out, since nvcc is not on the PATH: this package is for the CPU only`)
    return null
  }
  say('building polylora_cuda.so with nvcc')
  if (!(await buildTargets('The CUDA device', ['polylora_cuda'])))
    throw new ScriptError('cmake is not on the PATH: the CUDA device is built by it alone.')
  return join(root, 'build/Release/polylora_cuda.so')
}

/** Puts the files into prebuilds/linux-x64, without their symbol tables, if they keep their floors. */
async function ship(files) {
  const strip = requireProgram('strip', 'it comes with binutils, as the linker does.')
  const next = join(build, 'linux-x64')
  rmSync(next, { recursive: true, force: true })
  mkdirSync(next, { recursive: true })
  for (const [name, from] of Object.entries(files)) {
    if (from === null) continue
    copyFileSync(from, join(next, name))
    await runOrFail('strip failed', strip, ['--strip-unneeded', join(next, name)])
  }
  const wrong = [...checkFolder(next)].flatMap(([name, sentences]) =>
    sentences.map((sentence) => `${name} ${sentence}`),
  )
  if (wrong.length > 0) throw new ScriptError(`${wrong.join('\n')}\nNothing was shipped.`)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(join(root, 'prebuilds'), { recursive: true })
  renameSync(next, folder)
  for (const name of readdirSync(folder))
    say(`${join(folder, name)}: ${(statSync(join(folder, name)).size / 1e6).toFixed(1)} MB`)
}

/** What has to hold of the shipped files: the tests that go through the addon, and those of the tarball. */
async function testPrebuilds() {
  const files = ['test/ops/**/*.test.ts', 'test/{native-,tensor,autograd,safetensors}*.test.ts']
  const env = { PREBUILDS_ONLY: '1' }
  const operations = await runMocha(['--timeout', '120000', ...files], { env, quiet: true })
  const tarball = await runMocha(['test/tarball.test.ts'], { env: { ...env, POLYLORA_FULL: '1' } })
  return sum([operations, tarball])
}

runMain(async () => {
  await bootstrap()
  await ship({ [addon]: await buildAddon(), [cuda]: await buildCuda() })
  const totals = await testPrebuilds()
  console.log(closingLine(totals))
  if (!isSuccess(totals)) process.exitCode = 1
})
