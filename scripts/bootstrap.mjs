// Makes a clone ready to run: dependencies, the addon, the compiled TypeScript. It imports nothing
// but node: modules, since it is the first thing that runs in a clone.
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
} from 'node:fs'
import { availableParallelism, totalmem } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import { withLock } from './lock.mjs'
import { findProgram, runOrFail, ScriptError } from './run.mjs'
import { fingerprintOutputs, hashInputs, listFiles, Stamp, writeAtomically } from './stamp.mjs'

export const root = dirname(dirname(fileURLToPath(import.meta.url)))

const say = (text) => console.error(`polylora: ${text}`)

// ---- Dependencies ----

/** Whether an entry of the lockfile must be installed on this machine. */
function isRequired(entry) {
  if (entry.link) return false
  if (!entry.optional) return true
  const allows = (list, value) =>
    !list || (list.includes(value) && !list.includes(`!${value}`)) || list.includes('any')
  // Optional packages without a platform may fail to install and be left out.
  return (
    !entry.libc &&
    Boolean(entry.os ?? entry.cpu) &&
    allows(entry.os, process.platform) &&
    allows(entry.cpu, process.arch)
  )
}

/**
 * Whether node_modules holds what package-lock.json names. npm writes the inventory that is
 * compared here (node_modules/.package-lock.json) last, so an interrupted install has none.
 */
export function isInstalled(folder = root) {
  const packages = (path) => JSON.parse(readFileSync(join(folder, path), 'utf8')).packages
  let installed
  try {
    installed = packages('node_modules/.package-lock.json')
  } catch {
    return false
  }
  return Object.entries(packages('package-lock.json')).every(
    ([path, entry]) =>
      path === '' ||
      (installed[path]
        ? installed[path].version === entry.version &&
          installed[path].integrity === entry.integrity &&
          existsSync(join(folder, path))
        : !isRequired(entry)),
  )
}

async function install(lock) {
  if (isInstalled()) return false
  say('installing the dependencies (npm ci)')
  rmSync(join(root, 'node_modules/.package-lock.json'), { force: true })
  const args = ['ci', '--include=dev', '--ignore-scripts', '--no-audit', '--no-fund']
  // Under `npm run` this names the npm that is running; other package managers name themselves.
  const npm = process.env.npm_execpath ?? ''
  const [command, prefix] = basename(npm).startsWith('npm-cli.')
    ? [process.execPath, [npm]]
    : ['npm', []]
  await runOrFail('npm ci failed', command, [...prefix, ...args], { cwd: root, adopt: lock.adopt })
  return true
}

// ---- The addon ----

/** Where every build of the addon leaves it. */
const addon = 'build/Release/polylora.node'
const nativeStamp = new Stamp(join(root, 'build/.stamps/native'))
const toolchainFile = join(root, 'build/.stamps/toolchain')

/** What decides how the addon is built; another value needs a build from nothing. */
function toolchain() {
  const builder = findProgram('cmake') ? 'cmake' : 'node-gyp'
  const environment = ['CC', 'CXX', 'CFLAGS', 'CXXFLAGS', 'LDFLAGS'].map(
    (name) => process.env[name] ?? null,
  )
  return { builder, folder: root, arch: process.arch, environment }
}

function lastToolchain() {
  try {
    return JSON.parse(readFileSync(toolchainFile, 'utf8'))
  } catch {
    return null
  }
}

function nativeInputs({ arch, environment }) {
  return hashInputs(
    root,
    ['CMakeLists.txt', 'binding.gyp', 'scripts/native-sources.mjs', 'package-lock.json', 'src'],
    JSON.stringify([arch, environment]),
  )
}

function isNativeCurrent() {
  const now = toolchain()
  // What the fallback built is replaced once cmake is there; what cmake built stays without it.
  if (now.builder === 'cmake' && lastToolchain()?.builder !== 'cmake') return false
  return (
    existsSync(join(root, addon)) &&
    nativeStamp.isCurrent(nativeInputs(now), fingerprintOutputs(root, [addon]))
  )
}

/** Processes side by side: one a processor, and no more than memory allows at so many bytes each. */
export function jobsOf(bytes) {
  const memory = Math.min(totalmem(), process.constrainedMemory() || Infinity)
  return Math.max(1, Math.min(availableParallelism(), Math.floor(memory / bytes)))
}

/** Compilers run side by side. */
export function buildJobs() {
  const asked = Number(process.env.CMAKE_BUILD_PARALLEL_LEVEL)
  return Number.isInteger(asked) && asked > 0 ? asked : jobsOf(1.5e9)
}

function requireTools(builder) {
  const compilers = process.env.CXX ? [process.env.CXX.split(' ')[0]] : ['c++', 'g++', 'clang++']
  if (!compilers.some(findProgram))
    throw new ScriptError(
      `no C++ compiler was found (looked for ${compilers.join(', ')} on the PATH): ` +
        'install one that knows C++17, for example g++, or name it in CXX.',
    )
  const makers = builder === 'cmake' ? ['ninja', 'make'] : ['make']
  if (!makers.some(findProgram))
    throw new ScriptError(
      `the C++ build needs ${makers.join(' or ')}, and none is on the PATH: install make.`,
    )
  if (builder === 'node-gyp' && !['python3', 'python'].some(findProgram))
    throw new ScriptError(
      'cmake is not on the PATH, and the build without it needs Python: install cmake.',
    )
}

/** The command that builds the addon. */
function nativeCommand(builder) {
  const jobs = String(buildJobs())
  if (builder === 'cmake')
    return ['node_modules/cmake-js/bin/cmake-js', 'build', '--config', 'Release', '-p', jobs]
  const command = ['node_modules/node-gyp/bin/node-gyp.js', 'rebuild', '--jobs', jobs]
  // Without its headers named node-gyp would fetch them, even where Node came with them.
  const nodeFolder = dirname(dirname(process.execPath))
  if (existsSync(join(nodeFolder, 'include/node/node_api.h')))
    command.push(`--nodedir=${nodeFolder}`)
  return command
}

async function buildNative(lock) {
  if (isNativeCurrent()) return false
  const now = toolchain()
  requireTools(now.builder)
  // A killed compiler leaves half an object file that make takes for a whole one.
  if (nativeStamp.wasInterrupted() || JSON.stringify(lastToolchain()) !== JSON.stringify(now))
    rmSync(join(root, 'build'), { recursive: true, force: true })
  const inputs = nativeInputs(now)
  writeAtomically(toolchainFile, JSON.stringify(now))
  say(
    now.builder === 'cmake'
      ? 'building the C++ core (cmake)'
      : 'building the C++ core (node-gyp: there is no cmake, so for the CPU only)',
  )
  await nativeStamp.guard(async () => {
    await runOrFail('The C++ build failed', process.execPath, nativeCommand(now.builder), {
      cwd: root,
      adopt: lock.adopt,
    })
    // node-gyp empties build/, this note included.
    writeAtomically(toolchainFile, JSON.stringify(now))
    return { inputs, outputs: fingerprintOutputs(root, [addon]) }
  })
  return true
}

// ---- TypeScript ----

const typescriptStamp = new Stamp(join(root, 'build/.stamps/typescript'))

function typescriptInputs() {
  return hashInputs(root, ['lib', 'tsconfig.json', 'tsconfig.build.json', 'package-lock.json'])
}

function isTypescriptCurrent() {
  return (
    existsSync(join(root, 'dist/index.js')) &&
    typescriptStamp.isCurrent(typescriptInputs(), fingerprintOutputs(root, ['dist']))
  )
}

/** Makes folder `to` equal to `from`, file by file, so that a program running from it goes on. */
export function moveInto(from, to) {
  const names = (folder) => listFiles([folder]).map((file) => relative(folder, file))
  const wanted = new Set(names(from))
  for (const name of names(to)) if (!wanted.has(name)) rmSync(join(to, name))
  for (const name of wanted) {
    const target = join(to, name)
    if (statSync(target, { throwIfNoEntry: false })?.isDirectory())
      rmSync(target, { recursive: true })
    mkdirSync(dirname(target), { recursive: true })
    const source = join(from, name)
    const isSame = existsSync(target) && readFileSync(source).equals(readFileSync(target))
    if (!isSame) renameSync(source, target)
  }
  rmSync(from, { recursive: true, force: true })
}

async function compileTypescript(lock) {
  if (isTypescriptCurrent()) return false
  say('compiling the TypeScript (tsc)')
  const inputs = typescriptInputs()
  // Beside dist, and as deep as it, so that the paths in the source maps hold.
  const staging = join(root, '.dist-next')
  rmSync(staging, { recursive: true, force: true })
  await typescriptStamp.guard(async () => {
    const tsc = ['node_modules/typescript/bin/tsc', '-p', 'tsconfig.build.json']
    await runOrFail(
      'The TypeScript does not compile',
      process.execPath,
      [...tsc, '--outDir', staging],
      { cwd: root, adopt: lock.adopt },
    )
    const program = join(staging, 'cli/main.js')
    if (existsSync(program)) chmodSync(program, 0o755)
    moveInto(staging, join(root, 'dist'))
    return { inputs, outputs: fingerprintOutputs(root, ['dist']) }
  })
  return true
}

/**
 * Installs and builds what is missing or out of date, once, however many processes ask; returns
 * whether there was anything to do. With `build: false` it only installs.
 */
export async function bootstrap({ build = true } = {}) {
  const [major, minor] = process.versions.node.split('.').map(Number)
  if (major < 20 || (major === 20 && minor < 19))
    throw new ScriptError(`Node ${process.versions.node} is too old: 20.19 or later is needed.`)
  if (isInstalled() && (!build || (isNativeCurrent() && isTypescriptCurrent()))) return false
  const onWait = (pid) => say(`waiting for another build in this folder (process ${pid})`)
  return withLock(
    join(root, '.polylora.lock'),
    async (lock) => {
      let done = await install(lock)
      if (!build) return done
      done = (await buildNative(lock)) || done
      return (await compileTypescript(lock)) || done
    },
    { onWait },
  )
}

/** Builds targets of CMakeLists.txt beside the addon; false where there is no cmake. */
export async function buildTargets(what, targets) {
  if (lastToolchain()?.builder !== 'cmake') return false
  await withLock(join(root, '.polylora.lock'), (lock) =>
    runOrFail(
      `${what} could not be built`,
      'cmake',
      ['--build', 'build', '--target', ...targets, '--parallel', String(buildJobs())],
      { cwd: root, adopt: lock.adopt },
    ),
  )
  return true
}

/**
 * Builds the C++ programs of test/native or benchmark/native (`kind` is tests or benchmarks) beside
 * the addon, from the same objects, and other targets at the same time; returns the programs' paths, or null where there
 * is no cmake.
 */
export async function buildNativePrograms(kind, others = []) {
  const sources = listFiles([join(root, kind === 'tests' ? 'test/native' : 'benchmark/native')])
  const programs = sources.filter((path) => path.endsWith('.cc'))
  if (!(await buildTargets('The C++ programs', [`native_${kind}`, ...others]))) return null
  return programs.map((path) => join(root, `build/native-${kind}`, basename(path, '.cc')))
}
