// Makes the system calls of each scenario fail in turn: sweep-child.ts FOLDER STRIDE, under the shim.
import { join } from 'node:path'
import { Device } from '../../lib/device.js'
import { adapterScenario, mergeScenario, modelScenario, runScenario } from './scenarios.js'
import { sweep } from './sweep.js'

const [folder, stride] = process.argv.slice(2)
const device = Device.open('cpu', { threads: 1 })
const scratch = join(folder, 'scratch')
const scenarios = [
  await adapterScenario(device),
  await runScenario(scratch),
  await mergeScenario(device, scratch),
  await modelScenario(),
]
for (const scenario of scenarios) {
  // A run is long: it makes ten times as many calls as saving an adapter.
  const each = Number(stride) * (scenario.name.startsWith('a run') ? 10 : 1)
  const { calls, faults, overcome } = await sweep(scenario, join(folder, 'it'), { stride: each })
  console.log(
    `${scenario.name}: ${calls} system calls, ${faults} faults, of which ${overcome} were overcome`,
  )
}
process.exit(0)
