import assert from 'node:assert/strict'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { assertSameAtAnyThreads } from '../threads.js'
import { it } from 'mocha'
import { MixtureCase, type MixtureSizes } from './mixture-case.js'
import { centralDifferences } from './reference.js'

const base = { numTokens: 11, inFeatures: 9, outFeatures: [7, 5], rank: 3, experts: 4 } as const

const cases: Record<string, MixtureSizes> = {
  'symmetric, dense': { ...base, gate: 'router', bias: true, residual: true },
  'symmetric, dense, with dropout': { ...base, gate: 'router', dropout: 0.3 },
  'shared A, dense': { ...base, gate: 'router', sharedA: true, dropout: 0.2, residual: true },
  'shared B, dense': { ...base, gate: 'router', sharedB: true },
  'one expert': { ...base, experts: 1, gate: 'router' },
  'top 2 of 4': { ...base, gate: 'router', sharedA: true, topK: 2 },
  'top 1 of 4, chosen with a bias': { ...base, gate: 'router', topK: 1, selectionBias: true },
  'top 2 of 4, chosen with a bias': { ...base, gate: 'router', topK: 2, selectionBias: true },
  'prototypes without a sign': { ...base, gate: 'router', topK: 3, absolute: true },
  'balance loss, dense': { ...base, gate: 'router', losses: { balance: 3 } },
  'balance loss, top 2': { ...base, gate: 'router', topK: 2, losses: { balance: 3 } },
  'variance loss, dense': { ...base, gate: 'router', sharedA: true, losses: { variance: 5 } },
  'variance loss, top 2': { ...base, gate: 'router', topK: 2, losses: { variance: 5 } },
  'z loss': { ...base, gate: 'router', topK: 2, losses: { z: 2 } },
  supervised: { ...base, gate: 'router', losses: { supervised: 4 } },
  'all losses': {
    ...base,
    gate: 'router',
    topK: 3,
    losses: { balance: 1, variance: 2, z: 0.5, supervised: 3 },
  },
  'fixed gates': { ...base, gate: 'fixed', sharedA: true },
  'gates by discipline': { ...base, gate: 'task', disciplines: 3 },
  'gates and matrices by discipline': {
    ...base,
    gate: 'task',
    sharedA: true,
    disciplines: 3,
    transform: true,
    dropout: 0.2,
  },
  magnitude: { ...base, experts: 1, gate: 'none', magnitude: true, bias: true, residual: true },
  'magnitude, with dropout': { ...base, experts: 1, gate: 'none', magnitude: true, dropout: 0.3 },
  'a correction, with dropout': {
    ...base,
    experts: 1,
    gate: 'none',
    correction: true,
    dropout: 0.3,
  },
  // Whole fours of every row, which CUDA takes at once.
  'a rank of 8, shared A': {
    ...base,
    outFeatures: [8, 12],
    rank: 8,
    gate: 'router',
    sharedA: true,
  },
  'a rank of 8, shared B': { ...base, outFeatures: [8], rank: 8, gate: 'router', sharedB: true },
  'magnitude of 12 outputs': {
    ...base,
    outFeatures: [12],
    experts: 1,
    gate: 'none',
    magnitude: true,
    bias: true,
    residual: true,
  },
  'long ranks and many rows': {
    numTokens: 40,
    inFeatures: 19,
    outFeatures: [3],
    rank: 21,
    experts: 2,
    gate: 'router',
    sharedA: true,
  },
}

forEachDevice('linear with a mixture', (context) => {
  Object.entries(cases).forEach(([title, sizes], i) => {
    it(`has the outputs and gradients of its formula: ${title}`, async () => {
      const one = new MixtureCase(sizes, 900 + i)
      const read = await evaluate(() => {
        const { outputs, gradients } = one.run(context.device)
        return { ...gradients, ...Object.fromEntries(outputs.map((y, j) => [`y${j}`, y])) }
      })
      const outputs = one.forward().slice(0, -1)
      // Chains of a few dozen roundings, and an exponential that is good to a few units in the last place.
      const tolerance = 4 * roundingTolerance(64)
      outputs.forEach((y, j) => assertClose(read[`y${j}`], y, tolerance, `y of layer ${j}`))
      const differences = centralDifferences(
        (values) => one.forward({ ...one.values, ...values }),
        Object.fromEntries(
          [...one.trained, 'x', ...(sizes.residual ? ['residual'] : [])].map((name) => [
            name,
            one.values[name],
          ]),
        ),
        [...one.cotangents, [1]],
      )
      for (const [name, gradient] of Object.entries(differences))
        assertClose(read[name], gradient, tolerance, `gradient of ${name}`)
      assert.deepEqual(
        Object.keys(read)
          .filter((name) => !/^y\d/.test(name))
          .sort(),
        Object.keys(differences).sort(),
      )
    })
  })

  it('has the same bits at any number of threads', () =>
    assertSameAtAnyThreads(context, async (device) => {
      const one = new MixtureCase(
        {
          ...base,
          numTokens: 300,
          inFeatures: 130,
          outFeatures: [140, 33],
          rank: 5,
          gate: 'router',
          topK: 2,
          dropout: 0.1,
          losses: { balance: 1, variance: 1, z: 1, supervised: 1 },
        },
        7,
      )
      return evaluate(() => {
        const { outputs, gradients } = one.run(device)
        return { ...gradients, y0: outputs[0], y1: outputs[1] }
      })
    }))

  it('adds nothing to the product where all gates are zero', async () => {
    const one = new MixtureCase({ ...base, gate: 'fixed' }, 3)
    one.values.gate.fill(0)
    const other = new MixtureCase({ ...base, gate: 'fixed' }, 3)
    for (const name of ['gate', 'b0', 'b1']) other.values[name].fill(0)
    const outputs = (of: MixtureCase) => evaluate(() => ({ y: of.run(context.device).outputs[0] }))
    assertSameBits((await outputs(one)).y, (await outputs(other)).y)
  })
})
