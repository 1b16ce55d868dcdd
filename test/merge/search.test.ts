import assert from 'node:assert/strict'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/declaration.js'
import { loadAdapter } from '../../lib/adapters/peft.js'
import { Device } from '../../lib/device.js'
import { ArgumentError } from '../../lib/errors.js'
import { ensembleLogits, searchGrid } from '../../lib/merge/emorl.js'
import { searchWeights } from '../../lib/merge/lorahub.js'
import { searchPareto } from '../../lib/merge/nsga2.js'
import { WeightedAdapters } from '../../lib/merge/weighted-adapters.js'
import { scope } from '../../lib/scope.js'
import { vector } from '../../lib/tensor.js'
import { assertClose } from '../compare.js'
import { goldenModel, logitsOf, openDecoder } from '../decoder-logits.js'
import { Random } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'
import { randomAdapter } from './adapter-folders.js'

describe('searches for weights', () => {
  let device: Device
  before(() => {
    device = Device.open('cpu', { threads: 1 })
  })
  after(() => device.close())

  const target = [0.9, -0.4, 0.2]
  // A narrow valley: the weights hang together.
  const valley = (weights: readonly number[]) => {
    const [a, b, c] = weights.map((weight, i) => weight - target[i])
    return Promise.resolve((a + b) ** 2 * 10 + (a - b) ** 2 + (c + 0.5 * a) ** 2)
  }

  it('LoraHub finds the least of a valley, and the same for the same seed', async () => {
    const options = { count: 3, objective: valley, device, budget: 600, penalty: 0 }
    const found = await searchWeights(options)
    assert.ok(found.value < 1e-6, String(found.value))
    found.weights.forEach((weight, i) => assert.ok(Math.abs(weight - target[i]) < 1e-2))
    assert.ok(found.evaluations <= 600)
    assert.deepEqual(await searchWeights(options), found)
    assert.notDeepEqual(await searchWeights({ ...options, seed: 1 }), found)
  })

  it('LoraHub starts at zero, stays in its bounds and budget, and passes over what is not finite', async () => {
    const seen: number[][] = []
    const found = await searchWeights({
      count: 2,
      device,
      bound: 0.5,
      objective: (weights) => {
        seen.push([...weights])
        return Promise.resolve(weights[0] > 0.3 ? NaN : -weights[0] - weights[1])
      },
    })
    assert.deepEqual(seen[0], [0, 0])
    assert.equal(seen.length, 40)
    assert.ok(seen.flat().every((weight) => Math.abs(weight) <= 0.5))
    assert.ok(found.weights[0] <= 0.3 && found.weights[1] > 0.3)
    // With a penalty above all that could be won, nothing is taken.
    const none = await searchWeights({
      count: 2,
      device,
      penalty: 10,
      objective: ([a]) => Promise.resolve(-a),
    })
    assert.deepEqual(none.weights, [0, 0])
    const objective = () => Promise.resolve(0)
    await assert.rejects(searchWeights({ count: 0, device, objective }), ArgumentError)
    await assert.rejects(searchWeights({ count: 1, device, objective, bound: 0 }), ArgumentError)
  })

  it('NSGA-II spreads over the known front of two objectives', async () => {
    // Two distances: the front is the segment between the two points.
    const points = [
      [0.2, 0.8],
      [0.7, 0.1],
    ]
    const distance = (w: readonly number[], p: readonly number[]) =>
      Math.hypot(w[0] - p[0], w[1] - p[1])
    const options = {
      count: 2,
      device,
      population: 24,
      generations: 40,
      objectives: (w: readonly number[]) => Promise.resolve(points.map((p) => distance(w, p))),
    }
    const front = await searchPareto(options)
    const length = distance(points[0], points[1])
    assert.ok(front.length >= 12, String(front.length))
    for (const { values } of front) assert.ok(values[0] + values[1] < 1.05 * length)
    assert.ok(front[0].values[0] < 0.1 * length && front.at(-1)!.values[1] < 0.1 * length)
    for (const one of front)
      for (const other of front)
        assert.ok(
          one === other ||
            one.values[0] > other.values[0] ||
            one.values[1] > other.values[1] ||
            String(one.values) === String(other.values),
        )
    assert.deepEqual(await searchPareto(options), front)
  })

  it('NSGA-II tries each adapter alone first, and refuses what is no objective', async () => {
    const seen: (readonly number[])[] = []
    const objectives = (weights: readonly number[]) => {
      seen.push(weights)
      return Promise.resolve([weights[0], weights[1]])
    }
    await searchPareto({ count: 3, device, objectives, population: 6, generations: 0 })
    assert.equal(seen.length, 6)
    assert.deepEqual(seen.slice(0, 3), [
      [1, 0, 0],
      [0, 1, 0],
      [0, 0, 1],
    ])
    const bad = () => Promise.resolve([NaN])
    await assert.rejects(searchPareto({ count: 1, device, objectives: bad }), ArgumentError)
    await assert.rejects(
      searchPareto({ count: 1, device, objectives, population: 5 }),
      ArgumentError,
    )
  })

  it('the grid halves its cell around the best, 3^d points a round', async () => {
    const best = [0.31, 0.77]
    let calls = 0
    const objective = (weights: readonly number[]) => {
      calls++
      return Promise.resolve(-weights.reduce((sum, w, i) => sum + (w - best[i]) ** 2, 0))
    }
    const first = await searchGrid({ count: 2, objective, rounds: 1 })
    assert.equal(calls, 9)
    assert.deepEqual(first.weights, [0.5, 1])
    const found = await searchGrid({ count: 2, objective })
    // Five rounds: points 1/32 apart.
    found.weights.forEach((weight, i) => assert.ok(Math.abs(weight - best[i]) <= 1 / 32))
    assert.ok(found.evaluations <= 9 + 4 * 5)
    await assert.rejects(searchGrid({ count: 9, objective }), ArgumentError)
  })
})

describe('ensemble of hidden states', () => {
  it('is the head over the weighted sum, which by linearity is the weighted sum of logits', async () => {
    const device = Device.open('cpu', { threads: 1 })
    try {
      using model = await openDecoder(device, goldenModel('qwen2'))
      const random = new Random(1)
      const adapters = [1, 2].map((seed) => {
        const adapter = Adapter.create(device, model.config, lora({ rank: 2, seed }))
        for (const { part } of adapter.modules)
          part.b.value.write(random.normal(part.b.value.size, 0.2))
        return adapter
      })
      const tokens = Int32Array.of(3, 1, 4, 1, 5)
      const run = (which: (Adapter | null)[], weights: number[]) => {
        const result = scope(() => {
          const positions = vector(device, Int32Array.from(tokens.keys()))
          const cuSeqlens = vector(device, Int32Array.of(0, tokens.length))
          const input = {
            inputIds: vector(device, tokens),
            positions,
            numPositions: tokens.length,
            sequences: { cuSeqlens },
          }
          return ensembleLogits(model.decoder, which, weights, input, positions)
        })
        return result.readFloats().finally(() => {
          result.release()
        })
      }
      const each = [
        await run([adapters[0]], [1]),
        await run([adapters[1]], [1]),
        await run([null], [1]),
      ]
      const weights = [0.5, 0.8, -0.3]
      const expected = each[0].map((_, i) =>
        each.reduce((sum, one, m) => sum + weights[m] * one[i], 0),
      )
      assertClose(await run([...adapters, null], weights), expected, 1e-5)
      assert.throws(() => void run([null], []), ArgumentError)
      for (const adapter of adapters) adapter.dispose()
    } finally {
      await device.close()
    }
  })
})

describe('weighted adapters', () => {
  const at = temporaryFolder()

  it('are the sum of the adapters, for every choice of weights', async () => {
    const device = Device.open('cpu', { threads: 1 })
    try {
      const folder = goldenModel('qwen2')
      using model = await openDecoder(device, folder)
      await randomAdapter(device, folder, at('a'), 1, { rank: 2, targets: ['q_proj', 'up_proj'] })
      await randomAdapter(device, folder, at('b'), 2, {
        rank: 3,
        rsLora: true,
        targets: ['up_proj', 'down_proj', 'v_proj'],
      })
      const sequences = { tokens: Int32Array.of(3, 1, 4, 1, 5), cuSeqlens: Int32Array.of(0, 5) }
      const both = await WeightedAdapters.open(device, model.config, [at('a'), at('b')])
      const only = async (name: string) => {
        const adapter = await loadAdapter(device, model.config, at(name))
        const result = await logitsOf(model.decoder, adapter, sequences)
        adapter.dispose()
        return result
      }
      for (const [weights, expected] of [
        [[1, 0], await only('a')],
        [[0, 1], await only('b')],
        [[0, 0], await logitsOf(model.decoder, null, sequences)],
      ] as const) {
        both.setWeights(weights)
        assertClose(await logitsOf(model.decoder, both.adapter, sequences), expected, 1e-5)
      }
      assert.throws(() => {
        both.setWeights([1])
      }, ArgumentError)
      assert.throws(() => {
        both.setWeights([1, NaN])
      }, ArgumentError)
      both.dispose()
    } finally {
      await device.close()
    }
  })
})
