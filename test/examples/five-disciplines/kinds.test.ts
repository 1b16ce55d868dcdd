import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { disciplineNames } from '../../../examples/five-disciplines/corpus.js'
import { parseTrainConfig, type TrainConfigInput } from '../../../lib/train/options.js'
import { runTraining } from '../../../lib/train/run.js'
import { temporaryFolder } from '../../temporary-folder.js'

const example = (path: string) =>
  fileURLToPath(new URL(`../../../examples/five-disciplines/${path}`, import.meta.url))

const common = { rank: 4, alpha: 8, dropout: 0.05 }
const methods: Readonly<Record<string, TrainConfigInput['method']>> = {
  lora: { kind: 'lora', ...common },
  rsLoRA: { kind: 'lora', ...common, rsLora: true },
  'LoRA+': { kind: 'lora', ...common, loraPlusRatio: 4 },
  dora: { kind: 'dora', ...common },
  pissa: { kind: 'pissa', ...common },
  olora: { kind: 'olora', ...common },
  'lora-moe': { kind: 'lora-moe', ...common, balanceLoss: 0.01, varianceLoss: 0.01, zLoss: 1e-3 },
  'lora-moe, top 2': { kind: 'lora-moe', ...common, gate: 'top-k', biasRate: 1e-3 },
  'lora-moe, shared B': { kind: 'lora-moe', ...common, shares: 'b' },
  'hydra-lora': { kind: 'hydra-lora', ...common },
  'hydra-lora, supervised': { kind: 'hydra-lora', ...common, experts: 5, supervisedLoss: 0.1 },
  'hydra-lora, uniform': { kind: 'hydra-lora', ...common, gate: 'uniform' },
  'mtl-lora': { kind: 'mtl-lora', ...common },
}

describe('every kind of adapter', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  /** Six steps, each over the same first questions of every discipline. */
  async function losses(title: string, method: TrainConfigInput['method']): Promise<number[]> {
    const train = disciplineNames.map((discipline) => {
      const path = at(`${discipline}.jsonl`)
      const lines = readFileSync(example(`data/${discipline}.train.jsonl`), 'utf8').split('\n')
      writeFileSync(path, `${lines.slice(0, 4).join('\n')}\n`)
      return { discipline, path }
    })
    const seen: number[] = []
    await runTraining(
      parseTrainConfig({
        model: example('models/instruct'),
        output: at(title),
        method,
        data: { train, chatTemplate: true },
        optimizer: { learningRate: 5e-3 },
        batch: { size: method.kind === 'side-by-side' ? 4 : 20 },
        steps: 6,
        seed: 1,
      }),
      {
        onStep: ({ loss }) => {
          seen.push(loss)
        },
      },
    )
    return seen
  }

  const falls = (seen: readonly number[], by: number) => {
    assert.equal(seen.length, 6)
    assert.ok(seen[5] < seen[0] - by, `losses ${seen.join(', ')}`)
  }

  for (const [title, method] of Object.entries(methods))
    it(`learns the questions of the built-in corpus: ${title}`, async () => {
      falls(await losses(title, method), 0.05)
    })

  it('learns the questions of the built-in corpus: side by side, and MoLE over what came of it', async () => {
    const adapter = { kind: 'lora', ...common } as const
    falls(await losses('side-by-side', { kind: 'side-by-side', adapter }), 0.05)
    const adapters = disciplineNames.map((name) => join(at('side-by-side'), 'adapters', name))
    falls(await losses('mole', { kind: 'mole', adapters }), 1e-3)
  })
})
