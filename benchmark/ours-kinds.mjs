// Our side of the comparison of kinds: one model, an adapter and a trainer for each kind, which step as they are told.
// Plain JavaScript over dist/, as a user's program.
import { readFileSync } from 'node:fs'
import { createInterface } from 'node:readline'
import { Adapter } from '../dist/adapters/adapter.js'
import { lora } from '../dist/adapters/declaration.js'
import { dora, hydraLora, loraMoe, mtlLora } from '../dist/adapters/kinds.js'
import { packBatch } from '../dist/data/index.js'
import { Device } from '../dist/device.js'
import { Decoder, readConfig } from '../dist/models/index.js'
import { loadWeights } from '../dist/models/load.js'
import { SideBySideTrainer } from '../dist/train/side-by-side.js'
import { Trainer } from '../dist/train/trainer.js'
import { version } from '../dist/version.js'

const { files, dtype, threads, rank, experts, adapters } = JSON.parse(process.argv[2])
const { optimizer, batches } = JSON.parse(readFileSync(files.data, 'utf8'))
const say = (value) => process.stdout.write(`${JSON.stringify(value)}\n`)
const names = Array.from({ length: adapters }, (_, i) => `discipline ${i}`)

/** The second half of each sequence is labelled; sequence i belongs to discipline i mod 5. */
function examplesOf(sequences) {
  return sequences.map((tokens, i) => ({
    example: {
      inputIds: Int32Array.from(tokens),
      labelMask: Uint8Array.from(tokens, (_, t) => Number(t >= tokens.length / 2)),
      discipline: i % adapters,
    },
    sampleIndex: i,
  }))
}

function planOf(samples) {
  const batch = packBatch(samples, names)
  return { batches: [batch], trainedTokens: batch.labels.length }
}

const started = performance.now()
const device = Device.open('cpu', { threads })
const config = await readConfig(files.model)
const decoder = new Decoder(
  device,
  config,
  await loadWeights(device, files.model, config, { compute: dtype }),
)

// Experts share the rank: every kind has the same total.
const each = { rank: rank / experts, experts, seed: 7 }
const declarations = {
  lora: lora({ rank, seed: 7 }),
  dora: dora({ rank, seed: 7 }),
  'hydra-lora': hydraLora(each),
  'hydra-lora, top 2': hydraLora({ ...each, gate: 'top-k', topK: 2 }),
  'lora-moe': loraMoe(each),
  'mtl-lora': mtlLora({ ...each, disciplines: names }),
}

async function bound(declaration) {
  const adapter = Adapter.create(device, config, declaration)
  await adapter.bind(decoder.weights)
  return adapter
}

const steps = {}
for (const [name, declaration] of Object.entries(declarations)) {
  const trainer = new Trainer(decoder, await bound(declaration), optimizer)
  const plans = batches.map((sequences) => planOf(examplesOf(sequences)))
  let step = 0
  steps[name] = () => trainer.step(plans[step % plans.length], ++step, 1)
}
{
  const own = new Map()
  for (const [i, name] of names.entries()) own.set(name, await bound(lora({ rank, seed: i })))
  const trainer = new SideBySideTrainer(decoder, own, optimizer)
  const plans = batches.map((sequences) => {
    const samples = examplesOf(sequences)
    return new Map(
      names.map((name, i) => [
        name,
        { plan: planOf(samples.filter(({ example }) => example.discipline === i)), factor: 1 },
      ]),
    )
  })
  let step = 0
  steps['side by side'] = async () => {
    const reports = await trainer.step(plans[step % plans.length], ++step)
    return { loss: [...reports.values()].reduce((sum, { loss }) => sum + loss, 0) / adapters }
  }
}
await device.synchronize()
say({
  loadSeconds: (performance.now() - started) / 1000,
  versions: { polylora: version(), node: process.versions.node },
})

for await (const line of createInterface({ input: process.stdin })) {
  const { variant } = JSON.parse(line)
  const before = process.cpuUsage()
  const start = performance.now()
  const { loss } = await steps[variant]()
  const seconds = (performance.now() - start) / 1000
  const { user, system } = process.cpuUsage(before)
  say({ seconds, busySeconds: (user + system) / 1e6, loss })
}
await device.close()
process.exit(0)
