// Which kernels of the emulated device the tests have run to their end: the emulator notes each
// (test/cuda/emulator/launched.cc), and nm knows them all.
import { readFileSync } from 'node:fs'
import { runOrFail } from './run.mjs'

const symbol = /^0*([0-9a-f]+) \w (.*)$/
const kernel = /^(?:void )?polylora::cuda::(?:\(anonymous namespace\)::)?\w+_kernel[<(].*\)$/

/** What has the emulator append to a file which kernels ran. */
export const noteLaunched = (file) => ({ POLYLORA_EMULATOR_LAUNCHED: file })

/**
 * How many kernels the library has, and the names of those that the file, `OFFSET BINARY` a line, does not have.
 *
 * @returns {Promise<{ kernels: number, missing: string[] }>}
 */
export async function findUnlaunched(library, file) {
  const output = await runOrFail(`nm cannot read ${library}`, 'nm', ['-C', library])
  const ran = new Set(readLines(file))
  const kernels = output
    .split('\n')
    .map((line) => symbol.exec(line))
    .filter((match) => match && kernel.test(match[2]))
  const missing = kernels.filter(([, offset]) => !ran.has(`${offset} ${library}`))
  return { kernels: kernels.length, missing: missing.map(([, , name]) => name) }
}

function readLines(file) {
  try {
    return readFileSync(file, 'utf8').split('\n')
  } catch (error) {
    if (error.code === 'ENOENT') return []
    throw error
  }
}
