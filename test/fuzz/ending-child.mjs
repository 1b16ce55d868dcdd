// ending-child.mjs HOW MODEL DELAYS: trains, and so many milliseconds after the first step something ends it. A worker
// runs this file too.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads'
import { lora, Model, train } from '../../dist/index.js'
import { loadNative } from '../../dist/native.js'

/** Trains until `steps`; calls back once the first step is done. */
async function trainOn(model, data, steps, onBegin) {
  const loaded = await Model.load(model, { threads: 2 })
  loaded.attach(lora({ rank: 8 }))
  const onStep = ({ step }) => {
    if (step === 1) onBegin?.()
  }
  await train(loaded, { data, steps, batch: { size: 8 }, onStep })
  await loaded.dispose()
}

const forEver = 1e6

function inMidStep(delay, end) {
  return () => setTimeout(end, delay)
}

/** What devices still have in this process, where none is open. */
async function leftBehind() {
  let threads
  // A thread that was joined is listed for a moment longer.
  for (let wait = 0; wait < 50 && threads !== 0; ++wait) {
    await new Promise((resolve) => setTimeout(resolve, wait))
    threads = threadNames().filter((name) => name.startsWith('polylora')).length
  }
  return `left: ${loadNative().heldBytes()} bytes, ${threads} threads`
}

function threadNames() {
  return readdirSync('/proc/self/task').map((thread) => {
    try {
      return readFileSync(`/proc/self/task/${thread}/comm`, 'utf8')
    } catch {
      return 'ended'
    }
  })
}

function fail() {
  throw new Error('nobody catches this')
}

async function main() {
  const [how, model, delays] = process.argv.slice(2)
  const [delay] = delays.split(',').map(Number)
  const folder = mkdtempSync(join(tmpdir(), 'polylora-ending-'))
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }))
  const data = join(folder, 'data.jsonl')
  const record = (_, i) =>
    `{"prompt":"What is ${i}?","completion":" It is ${'x'.repeat(i % 50)}"}\n`
  writeFileSync(data, Array.from({ length: 64 }, record).join(''))

  const startWorker = (then) =>
    new Worker(new URL(import.meta.url), { workerData: { model, data, delay, then } })
  const exitOf = (worker) => new Promise((resolve) => worker.once('exit', resolve))

  if (how === 'terminate') {
    let terminated = 0
    for (const wait of delays.split(',').map(Number)) {
      const worker = startWorker('go on')
      await new Promise((resolve, reject) => worker.once('message', resolve).once('error', reject))
      await new Promise((resolve) => setTimeout(resolve, wait))
      if ((await worker.terminate()) === 1) ++terminated
    }
    console.log(`terminated ${terminated}; ${await leftBehind()}`)
    await trainOn(model, data, 2)
    console.log('trained on')
  } else if (how === 'exit in a worker') {
    const code = await exitOf(startWorker('exit'))
    console.log(`exited with ${code}; ${await leftBehind()}`)
  } else if (how === 'throw in a worker') await exitOf(startWorker('throw'))
  else {
    const ends = {
      exit: () => process.exit(7),
      throw: fail,
      reject: () => void Promise.reject(new Error('nobody catches this')),
    }
    await trainOn(model, data, forEver, inMidStep(delay, ends[how]))
  }
}

if (isMainThread) await main()
else {
  const { model, data, delay, then } = workerData
  const ends = {
    'go on': () => parentPort.postMessage('begun'),
    exit: () => process.exit(7),
    throw: fail,
  }
  await trainOn(model, data, forEver, then === 'go on' ? ends[then] : inMidStep(delay, ends[then]))
}
