// What a shipped binary needs of the system that loads it: no newer glibc than its floor, no library
// that may be missing or another, no C++ runtime but its own, and no symbol that it lets others see
// beside its entry points. Reads the ELF file itself, so the check needs no tool.
//
//   node scripts/check-floors.mjs FOLDER       every known file in it; prints what breaks the floors
import { existsSync, readFileSync } from 'node:fs'
import { basename, join } from 'node:path'
import { pathToFileURL } from 'node:url'

const glibc = ['libc.so.6', 'libm.so.6', 'libdl.so.2', 'libpthread.so.0', 'librt.so.1']
const loader = 'ld-linux-x86-64.so.2'

/**
 * The shipped files. The addon's floor is that of Node 20's own builds (RHEL 8, Debian 10); what the
 * CUDA toolkit's own objects need is newer. Node itself brings libgcc_s.
 */
export const floors = {
  'polylora.glibc.node': {
    glibc: '2.28',
    libraries: [...glibc, loader],
    exports: ['napi_register_module_v1', 'node_api_module_get_api_version_v1'],
  },
  'polylora_cuda.so': {
    glibc: '2.34',
    libraries: [...glibc, loader, 'libgcc_s.so.1'],
    exports: ['polylora_device_table', 'polylora_device_probe'],
  },
}

const SECTION = { dynamic: 6, dynamicSymbols: 11, versionNeeds: 0x6ffffffe }
const NEEDED = 1n
const WEAK = 2

/**
 * What an ELF file for x86-64 needs and gives.
 *
 * @param {Buffer} file
 * @returns {{ libraries: string[], versions: { library: string, version: string }[], exports: string[], needs: string[] }}
 *   `needs` are the undefined symbols that must be found, `exports` those that others see
 */
export function readElf(file) {
  const isElf = file.length >= 64 && file.readUInt32BE(0) === 0x7f454c46
  if (!isElf || file[4] !== 2 || file[5] !== 1)
    throw new Error('this is no 64-bit little-endian ELF file')
  const sectionsAt = Number(file.readBigUInt64LE(0x28))
  const size = file.readUInt16LE(0x3a)
  const sections = Array.from({ length: file.readUInt16LE(0x3c) }, (_, i) => {
    const at = sectionsAt + i * size
    return {
      type: file.readUInt32LE(at + 4),
      offset: Number(file.readBigUInt64LE(at + 24)),
      bytes: Number(file.readBigUInt64LE(at + 32)),
      link: file.readUInt32LE(at + 40),
    }
  })
  const found = (type) => sections.filter((section) => section.type === type)
  const text = (section, at) => {
    const begin = sections[section.link].offset + at
    return file.toString('latin1', begin, file.indexOf(0, begin))
  }

  const libraries = []
  for (const section of found(SECTION.dynamic))
    for (let at = section.offset; at < section.offset + section.bytes; at += 16)
      if (file.readBigInt64LE(at) === NEEDED)
        libraries.push(text(section, Number(file.readBigUInt64LE(at + 8))))

  const versions = []
  for (const section of found(SECTION.versionNeeds))
    for (let at = section.offset, next = 1; next !== 0; at += next) {
      const library = text(section, file.readUInt32LE(at + 4))
      let one = at + file.readUInt32LE(at + 8)
      for (let left = file.readUInt16LE(at + 2); left > 0; left -= 1) {
        versions.push({ library, version: text(section, file.readUInt32LE(one + 8)) })
        one += file.readUInt32LE(one + 12)
      }
      next = file.readUInt32LE(at + 12)
    }

  const exports = []
  const needs = []
  for (const section of found(SECTION.dynamicSymbols))
    for (let at = section.offset; at < section.offset + section.bytes; at += 24) {
      const binding = file[at + 4] >> 4
      if (binding === 0) continue // local
      const name = text(section, file.readUInt32LE(at))
      if (file.readUInt16LE(at + 6) !== 0) exports.push(name)
      else if (binding !== WEAK) needs.push(name)
    }
  return { libraries, versions, exports, needs }
}

/** Whether version `a` ('2.34') is above `b`. */
function isAbove(a, b) {
  const [left, right] = [a, b].map((version) => version.split('.').map(Number))
  for (let i = 0; i < Math.max(left.length, right.length); i += 1)
    if ((left[i] ?? 0) !== (right[i] ?? 0)) return (left[i] ?? 0) > (right[i] ?? 0)
  return false
}

/**
 * One sentence for everything that keeps a file from loading on an older system.
 *
 * @param {Buffer} file
 * @param {{ glibc: string, libraries: readonly string[], exports: readonly string[] }} floor
 */
export function complaints(file, floor) {
  const { libraries, versions, exports, needs } = readElf(file)
  const found = []
  for (const library of libraries)
    if (!floor.libraries.includes(library)) found.push(`needs the library ${library}`)
  for (const { library, version } of versions) {
    const number = /^GLIBC_([\d.]+)$/.exec(version)?.[1]
    if (number !== undefined && isAbove(number, floor.glibc))
      found.push(`needs ${version} of ${library}, above the floor ${floor.glibc}`)
    if (version === 'GLIBC_PRIVATE' || /^(GLIBCXX|CXXABI)_/.test(version))
      found.push(`needs ${version} of ${library}`)
  }
  for (const name of needs)
    if (name.startsWith('_Z')) found.push(`needs the C++ symbol ${name} from elsewhere`)
  for (const name of exports)
    if (!floor.exports.includes(name)) found.push(`lets others see ${name}`)
  for (const name of floor.exports)
    if (!exports.includes(name)) found.push(`lacks the entry point ${name}`)
  return found
}

/** The complaints about every known file of a folder, by its name; a file that is not there is not in it. */
export function checkFolder(folder) {
  return new Map(
    Object.entries(floors)
      .filter(([name]) => existsSync(join(folder, name)))
      .map(([name, floor]) => [name, complaints(readFileSync(join(folder, name)), floor)]),
  )
}

if (process.argv[1] && import.meta.url === pathToFileURL(process.argv[1]).href) {
  const found = checkFolder(process.argv[2] ?? 'prebuilds/linux-x64')
  for (const [name, wrong] of found)
    console.log(`${basename(name)}: ${wrong.length === 0 ? 'good' : wrong.join('; ')}`)
  const good = found.size > 0 && [...found.values()].every((wrong) => wrong.length === 0)
  if (!good) process.exitCode = 1
}
