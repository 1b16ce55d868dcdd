// Trains and prints what it needed, as JSON: child.mjs STEPS TINY. In a process of its own, so that nothing else counts.
import { readdirSync } from 'node:fs'
import { monitorEventLoopDelay } from 'node:perf_hooks'
import { fileURLToPath } from 'node:url'
import { lora, Model, train } from '../../dist/index.js'

const [steps, tiny] = [Number(process.argv[2]), process.argv[3] === 'tiny']
const at = (path) => fileURLToPath(new URL(path, import.meta.url))
const example = (path) => at(`../../examples/five-disciplines/${path}`)
const disciplines = ['mathematics', 'chemistry', 'biology', 'medicine', 'geography']

const model = await Model.load(
  tiny ? at('../golden/models/qwen2-text/model') : example('models/instruct'),
)
model.attach(lora({ rank: tiny ? 2 : 16, dropout: 0.05, seed: 1 }))
const delay = monitorEventLoopDelay({ resolution: 1 })
const samples = []
await train(model, {
  data: {
    train: (tiny ? ['geography'] : disciplines).map((discipline) => ({
      discipline,
      path: example(`data/${discipline}.train.jsonl`),
    })),
    chatTemplate: !tiny,
  },
  steps,
  batch: { size: tiny ? 2 : 64 },
  optimizer: { learningRate: 1e-3 },
  onStep({ step }) {
    // Loading and compiling are over after a few steps.
    if (step === 5) delay.enable()
    if (step % Math.max(1, Math.floor(steps / 50)) !== 0) return
    globalThis.gc()
    samples.push({
      step,
      resident: process.memoryUsage.rss(),
      heap: process.memoryUsage().heapUsed,
      device: model.device.info.memoryUsed,
      files: readdirSync('/proc/self/fd').length,
      handles: process.getActiveResourcesInfo().length,
    })
  },
})
delay.disable()
const milliseconds = (value) => value / 1e6
console.log(
  JSON.stringify({
    delay: {
      p50: milliseconds(delay.percentile(50)),
      p99: milliseconds(delay.percentile(99)),
      max: milliseconds(delay.max),
    },
    samples,
  }),
)
await model.dispose()
