// Runs one training configuration (JSON in the first argument) and says "step N" after each step.
import { parseTrainConfig, runTraining } from '../../dist/index.js'

await runTraining(parseTrainConfig(JSON.parse(process.argv[2])), {
  resume: true,
  onStep: ({ step }) => process.stdout.write(`step ${step}\n`),
  onMessage: (message) => process.stdout.write(`${message}\n`),
})
process.stdout.write('done\n')
