// Our side of the benchmark: a process that loads a model, then trains or decodes as it is told, one
// line of JSON for each. Plain JavaScript over dist/, so that its memory is that of a user's program.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { loadAdapter } from '../dist/adapters/peft.js'
import { Device } from '../dist/device.js'
import { decode } from '../dist/generate/decode.js'
import { Decoder, readConfig } from '../dist/models/index.js'
import { disposeWeights, loadWeights } from '../dist/models/load.js'
import { Trainer } from '../dist/train/trainer.js'
import { version } from '../dist/version.js'

const {
  files,
  dtype,
  threads,
  method,
  checkpointing,
  device: kind = 'cpu',
} = JSON.parse(process.argv[2])
const { optimizer, batches } = JSON.parse(readFileSync(files.data, 'utf8'))
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)

/** Peak resident memory of this process, in bytes. */
function peakMemory() {
  return 1024 * Number(/^VmHWM:\s*(\d+)/m.exec(readFileSync('/proc/self/status', 'utf8'))[1])
}

/** Every token goes through the model; the second half of each sequence is labelled. */
function pack(sequences) {
  const length = sequences[0].length
  const begin = length / 2
  const starts = sequences.map((_, i) => i * length)
  const labelled = Array.from({ length: length - begin }, (_, i) => begin + i)
  const at = (make) =>
    Int32Array.from(starts.flatMap((start, i) => labelled.map((t) => make(start, i, t))))
  const rows = (make) => Int32Array.from(sequences.flatMap((s, i) => s.map((_, t) => make(i, t))))
  return {
    inputIds: rows((i, t) => sequences[i][t]),
    positions: rows((_, t) => t),
    cuSeqlens: Int32Array.from([...starts, sequences.length * length]),
    maxSeqlen: length,
    rowSample: rows((i) => i),
    labelRows: at((start, _, t) => start + t - 1),
    labels: at((_, i, t) => sequences[i][t]),
    labelDiscipline: at(() => 0),
    disciplineNames: ['all'],
  }
}

const started = performance.now()
const device = Device.open(kind, { threads })
const config = await readConfig(files.model)
// Neither side loads a tokenizer: the batches are token ids.
const weights = await loadWeights(device, files.model, config, { compute: dtype })
const decoder = new Decoder(device, config, weights)
const adapter = method === 'lora' ? await loadAdapter(device, config, files.adapter) : null
const trainer =
  method === 'decode' ? null : new Trainer(decoder, adapter, { ...optimizer, checkpointing })
const plans = batches.map((sequences) => {
  const batch = pack(sequences)
  return { batches: [batch], trainedTokens: batch.labels.length }
})
await device.synchronize()
say({
  loadSeconds: (performance.now() - started) / 1000,
  versions: { polylora: version(), node: process.versions.node },
  instructionSet: device.info.instructionSet,
})

let step = 0
const commands = {
  async step() {
    const start = performance.now()
    const report = await trainer.step(plans[step % plans.length], ++step, 1)
    return { seconds: (performance.now() - start) / 1000, loss: report.loss }
  },

  /** The mean step with every operation timed. */
  async profile({ steps }) {
    device.profile(true)
    const start = performance.now()
    for (let i = 0; i < steps; i++) await commands.step()
    const seconds = (performance.now() - start) / 1000 / steps
    const operations = device.profile(false).map(({ operation, count, seconds }) => ({
      operation,
      count: count / steps,
      seconds: seconds / steps,
    }))
    return { seconds, operations }
  },

  async decode({ prompts, maxTokens }) {
    const tokens = prompts.map(() => [])
    const start = performance.now()
    const options = { maxTokens, temperature: 0, stopTokens: [] }
    const ids = prompts.map((prompt) => Int32Array.from(prompt))
    for await (const found of decode(decoder, null, ids, options))
      for (const { index, token } of found) tokens[index].push(token)
    return { seconds: (performance.now() - start) / 1000, tokens }
  },

  memory() {
    return { peak: peakMemory(), devicePeak: device.info.memoryPeak }
  },
}

for await (const line of createInterface({ input: process.stdin })) {
  const { command, ...options } = JSON.parse(line)
  say(await commands[command](options))
}
trainer?.dispose()
adapter?.dispose()
decoder.dispose()
disposeWeights(weights)
await device.close()
