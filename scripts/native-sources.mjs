// The C++ sources of the addon, for binding.gyp: the globs of CMakeLists.txt.
import { readdirSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(fileURLToPath(import.meta.url)))
const folders = ['src/binding', 'src/checks', 'src/runtime', 'src/io', 'src/cpu']

function sources(folder) {
  try {
    return readdirSync(join(root, folder))
      .filter((name) => name.endsWith('.cc'))
      .sort()
      .map((name) => `${folder}/${name}`)
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
}

console.log(folders.flatMap(sources).join('\n'))
