/** child.ts PART SEED FIRST LAST FOLDER [--verbose]: the rounds from FIRST to before LAST, each announced by its number. */

import { readdirSync, writeSync } from 'node:fs'
import { isMainThread } from 'node:worker_threads'
import { Random } from '../random.js'
import { closeDevice } from './kind.js'
import { allParts } from './parts.js'
import { native } from './world.js'

/** Seeds that differ for every part and round. */
function seedOf(seed: number, part: string, round: number): number {
  let hash = seed
  for (const character of `${part} ${round}`)
    hash = Math.imul(hash ^ character.codePointAt(0)!, 0x01000193)
  return hash >>> 0
}

const openFiles = () => readdirSync('/proc/self/fd').length
const threads = () => readdirSync('/proc/self/task').length

/**
 * Waits for the garbage collector to close what a call has lost.
 *
 * @param files that may be open
 * @throws if that does not free all native bytes and close all other files
 */
async function nothingHeld(files: number): Promise<void> {
  for (let wait = 0; wait < 100; ++wait) {
    globalThis.gc?.()
    await new Promise((resolve) => setTimeout(resolve, wait))
    if (native.heldBytes() === 0 && openFiles() <= files) return
  }
  const bytes = native.heldBytes()
  if (bytes > 0) throw new Error(`${bytes} native bytes are held when every device is closed`)
  throw new Error(`${openFiles() - files} files were left open`)
}

async function main(): Promise<void> {
  const [name, seed, first, last, folder, verbose] = process.argv.slice(2)
  const part = allParts().find((one) => one.name === name)
  if (part === undefined) throw new Error(`there is no part ${name}`)
  // Relative paths lead here.
  process.chdir(folder)
  const say = (text: string) => writeSync(2, `${text}\n`)
  let [files, tasks] = [Infinity, 0]
  for (let index = Number(first); index < Number(last); ++index) {
    writeSync(1, `${index}\n`)
    await part.run({
      index,
      random: new Random(seedOf(Number(seed), name, index)),
      folder,
      note: verbose ? (what) => say(what()) : () => undefined,
      slowness: Number(process.env.POLYLORA_FUZZ_SLOWNESS ?? 1),
    })
    await closeDevice()
    await nothingHeld(files)
    if (index === Number(first)) [files, tasks] = [openFiles(), threads()]
  }
  // The thread that closed a device may be about to end.
  if (threads() > tasks + 4) throw new Error(`${threads() - tasks} threads were left`)
}

if (isMainThread) await main()
