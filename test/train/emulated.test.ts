import assert from 'node:assert/strict'
import { fileURLToPath } from 'node:url'
import { describe, it } from 'mocha'
import { Device } from '../../lib/device.js'
import { DeviceError } from '../../lib/errors.js'
import { lora, Model, train } from '../../lib/index.js'
import { deviceVariants } from '../devices.js'

const example = (path: string) =>
  fileURLToPath(new URL(`../../examples/five-disciplines/${path}`, import.meta.url))

/** Of five steps of the demo's model over two samples each, at dtype bf16. */
async function firstLosses(kind: string): Promise<number[]> {
  const device = Device.open(kind)
  try {
    const model = await Model.load(example('models/instruct'), { device, dtype: 'bf16' })
    try {
      model.attach(lora({ rank: 16, alpha: 32, dropout: 0.05, seed: 1 }))
      const losses: number[] = []
      await train(model, {
        data: {
          // The smallest, since all of it is tokenised.
          train: [{ discipline: 'geography', path: example('data/geography.train.jsonl') }],
          chatTemplate: true,
        },
        steps: 5,
        batch: { size: 2 },
        optimizer: { learningRate: 2e-3 },
        seed: 1,
        onStep: ({ loss }) => losses.push(loss),
      })
      return losses
    } finally {
      await model.dispose()
    }
  } finally {
    await device.close()
  }
}

describe("training on CUDA's kernels, emulated", () => {
  if (!deviceVariants().some(({ kind }) => kind === 'cuda-emulated')) {
    it('(skipped: the cuda-emulated device was not built)')
    return
  }

  it('follows the CPU through five steps of the demo, at dtype bf16', async function () {
    this.timeout(600_000)
    let losses: number[]
    try {
      losses = await firstLosses('cuda-emulated')
    } catch (error) {
      if (!(error instanceof DeviceError && error.details.unsupported === 1)) throw error
      this.test!.title += ` (skipped: ${error.message})`
      this.skip()
    }
    const expected = await firstLosses('cpu')
    assert.equal(losses.length, 5)
    // Both round the operands of the products to bf16; CUDA those of attention too, and its sums run in another order.
    losses.forEach((loss, i) => {
      assert.ok(
        Math.abs(loss - expected[i]) < 2e-2,
        `step ${i + 1}: ${loss}, on the CPU ${expected[i]}`,
      )
    })
    assert.ok(new Set(losses).size === 5, 'every step has another loss')
  })
})
