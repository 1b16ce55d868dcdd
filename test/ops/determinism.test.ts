import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import type { NativeTensor, NativeWeight } from '../../lib/native.js'
import { deviceVariants } from '../devices.js'
import { Maker, type Shelf } from '../fuzz/maker.js'
import { makeArguments, operationNames } from '../fuzz/operations.js'
import { native } from '../fuzz/world.js'
import { Random } from '../random.js'

// From less than a vector to several of the pieces that threads share out.
const sizes = [1, 33, 200]

/** Every byte that a call leaves in its tensors and weights; what it is given depends on the seed alone. */
async function bytesAfter(operation: string, seed: number, options: object): Promise<Buffer[]> {
  const device = native.openDevice('cpu', { ...options, memoryBudget: 2 ** 30 })
  const tensors: NativeTensor[] = []
  const weights: { weight: NativeWeight; shape: [number, number] }[] = []
  const random = new Random(seed)
  const shelf: Shelf = {
    random,
    facts: new WeakMap(),
    own(made, handle) {
      if (made === 'allocate') tensors.push(handle as NativeTensor)
      return handle
    },
    view: (...args) => native.view(...args),
    weight(rows, columns) {
      const [storage, compute] = (
        [
          ['f32', 'f32'],
          ['bf16', 'f32'],
          ['bf16', 'bf16'],
        ] as const
      )[random.integer(3)]
      const weight = native.createWeight(device, { rows, columns, storage, compute })
      weights.push({ weight, shape: [rows, columns] })
      return weight
    },
  }
  native.run(device, operation, makeArguments(operation, new Maker(shelf, device, { sizes })))
  for (const { weight, shape } of weights) {
    const y = native.allocate(device, 'f32', shape)
    native.run(device, 'weight_read', { weight, rowBegin: 0, y })
    tensors.push(y)
  }
  const bytes = []
  for (const tensor of tensors) bytes.push(Buffer.from(await native.readTensor(tensor)))
  await native.closeDevice(device)
  return bytes
}

describe('determinism: 1, 2 and 4 threads give the same bits', function () {
  this.timeout(300_000)
  for (const { name, options } of deviceVariants().filter(({ kind }) => kind === 'cpu'))
    it(`of every operation (${name})`, async () => {
      for (const operation of operationNames)
        for (const seed of [1, 2]) {
          const expected = await bytesAfter(operation, seed, { ...options, threads: 1 })
          for (const threads of [2, 4])
            for (const [i, bytes] of (
              await bytesAfter(operation, seed, { ...options, threads })
            ).entries())
              assert.ok(
                bytes.equals(expected[i]),
                `${operation}, seed ${seed}, tensor ${i}: other bits with ${threads} threads`,
              )
        }
    })
})
