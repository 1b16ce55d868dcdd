// node benchmark/lanes.mjs [ROUNDS]: what five LoRA adapters of the built-in model take for a step of a study's size, one
// after the other and joined in one pass through the base, in turn. Both have the same losses, or it fails. It prints
// processor time: a busy machine's clock says nothing.
import { Adapter } from '../dist/adapters/adapter.js'
import { lora } from '../dist/adapters/declaration.js'
import { packBatch } from '../dist/data/index.js'
import { Device } from '../dist/device.js'
import { Decoder, readConfig } from '../dist/models/index.js'
import { loadWeights } from '../dist/models/load.js'
import { SideBySideTrainer } from '../dist/train/side-by-side.js'
import { Trainer } from '../dist/train/trainer.js'

const folder = new URL('../examples/five-disciplines/models/instruct', import.meta.url).pathname
const rounds = Number(process.argv[2] ?? 12)
const adapters = 5
/** About 1,536 tokens, as many as a step of the built-in study has. */
const sequences = 44

// One thread: threads that wait for one another spin, which would count as work.
const device = Device.open('cpu', { threads: 1 })
const config = await readConfig(folder)
const weights = await loadWeights(device, folder, config, { compute: 'f32' })
const decoder = new Decoder(device, config, weights)
const options = {
  learningRate: 1e-3,
  betas: [0.9, 0.999],
  epsilon: 1e-8,
  weightDecay: 0,
  gradientClipping: 1,
}

async function open(seed) {
  const declaration = lora({ rank: 16, alpha: 8, rsLora: true, targets: 'all-linear', seed })
  const adapter = Adapter.create(device, config, declaration)
  await adapter.bind(decoder.weights)
  return adapter
}

function planOf(lane, step) {
  const samples = Array.from({ length: sequences }, (_, i) => {
    const length = 25 + ((7 * i + lane + step) % 20)
    const inputIds = Int32Array.from(
      { length },
      (_, t) => (131 * i + 17 * t + 29 * lane + 7 * step) % config.vocabSize,
    )
    const labelMask = Uint8Array.from({ length }, (_, t) => Number(t >= length - 5))
    return { example: { inputIds, labelMask, discipline: 0 }, sampleIndex: i }
  })
  const batch = packBatch(samples, ['default'])
  return { batches: [batch], trainedTokens: batch.labels.length }
}

const alone = []
const own = new Map()
for (let lane = 0; lane < adapters; lane++) {
  alone.push(new Trainer(decoder, await open(lane), options))
  own.set(String(lane), await open(lane))
}
const together = new SideBySideTrainer(decoder, own, options)

const ways = {
  async alone(plans, step) {
    const losses = []
    for (const [lane, plan] of plans.entries())
      losses.push((await alone[lane].step(plan, step, 1)).loss)
    return losses
  },
  async joined(plans, step) {
    const given = new Map(plans.map((plan, lane) => [String(lane), { plan, factor: 1 }]))
    return Array.from((await together.step(given, step)).values(), ({ loss }) => loss)
  },
}

const ratios = []
for (let step = 0; step <= rounds; step++) {
  const plans = Array.from({ length: adapters }, (_, lane) => planOf(lane, step))
  const seconds = {}
  const losses = {}
  for (const way of step % 2 ? ['alone', 'joined'] : ['joined', 'alone']) {
    const before = process.cpuUsage()
    losses[way] = await ways[way](plans, step + 1)
    const { user, system } = process.cpuUsage(before)
    seconds[way] = (user + system) / 1e6
  }
  if (losses.alone.some((loss, lane) => loss !== losses.joined[lane]))
    throw new Error(`step ${step + 1}: the losses differ: ${JSON.stringify(losses)}`)
  // The first step also warms up.
  if (step > 0) ratios.push(seconds.joined / seconds.alone)
}
ratios.sort((a, b) => a - b)
const [least, median, most] = [0, rounds >> 1, rounds - 1].map((i) => ratios[i].toFixed(3))
console.log(`joined over alone, processor time: median ${median}, ${least} to ${most}`)
await device.close()
process.exit(0)
