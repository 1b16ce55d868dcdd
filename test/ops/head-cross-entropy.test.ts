import assert from 'node:assert/strict'
import { it } from 'mocha'
import type { Device } from '../../lib/device.js'
import { DeviceError } from '../../lib/errors.js'
import { headCrossEntropy } from '../../lib/ops/head-cross-entropy.js'
import type { Matrix } from '../../lib/parameter.js'
import { Tensor } from '../../lib/tensor.js'
import { assertClose, assertSameBits, roundingTolerance } from '../compare.js'
import { forEachDevice } from '../devices.js'
import { evaluate } from '../evaluate.js'
import { Random } from '../random.js'
import { assertSameAtAnyThreads } from '../threads.js'
import { makeWeight } from './linear-case.js'
import {
  centralDifferences,
  combine,
  crossEntropy,
  productNN,
  productNT,
  productTN,
  roundToBfloat16,
  takeRows,
} from './reference.js'
import { forwardBackward, forwardPass, trainedParameter } from './tape.js'

interface Sizes {
  readonly numTokens: number
  readonly columns: number
  readonly vocabulary: number
  readonly rows: readonly number[]
}

class HeadCase {
  readonly sizes: Sizes
  readonly inputs: Record<'x' | 'head', Float32Array>
  readonly rows: Int32Array
  readonly labels: Int32Array
  readonly rowWeight: Float32Array
  readonly lossScale = Math.fround(1 / 29)
  readonly initial: Float32Array

  constructor(sizes: Sizes, seed: number) {
    const { numTokens, columns, vocabulary, rows } = sizes
    this.sizes = sizes
    const random = new Random(seed)
    this.inputs = {
      x: random.normal(numTokens * columns),
      head: random.normal(vocabulary * columns, 3 / Math.sqrt(columns)),
    }
    this.rows = Int32Array.from(rows)
    this.labels = random.integers(rows.length, vocabulary)
    this.rowWeight = random.normal(rows.length, 0.4, 1)
    this.initial = random.normal(vocabulary * columns)
  }

  /** The same case with some fields replaced. */
  with(fields: Partial<Pick<HeadCase, 'inputs' | 'rows' | 'labels' | 'rowWeight'>>): HeadCase {
    return Object.assign(Object.create(HeadCase.prototype) as HeadCase, this, fields)
  }

  loss(inputs: Record<'x' | 'head', ArrayLike<number>> = this.inputs): Float64Array {
    return crossEntropy(inputs.x, inputs.head, this.sizes.columns, this.rows, this.labels)
  }

  logits(): Float64Array {
    const { columns, vocabulary } = this.sizes
    const picked = takeRows(this.inputs.x, columns, this.rows)
    return productNT(picked, this.inputs.head, this.rows.length, vocabulary, columns)
  }

  /** dlogits = scale · (softmax - one-hot), of which both gradients are products. */
  backward(): { dx: Float64Array; dHead: Float64Array } {
    const { columns, vocabulary } = this.sizes
    const count = this.rows.length
    const picked = takeRows(this.inputs.x, columns, this.rows)
    const loss = this.loss()
    const logits = this.logits()
    const dLogits = logits.map((logit, i) => {
      const row = Math.floor(i / vocabulary)
      const label = this.labels[row]
      const p = Math.exp(logit - loss[row] - logits[row * vocabulary + label])
      return (p - (i % vocabulary === label ? 1 : 0)) * this.lossScale * this.rowWeight[row]
    })
    const dPicked = productNN(dLogits, this.inputs.head, count, columns, vocabulary)
    const dx = new Float64Array(this.inputs.x.length)
    this.rows.forEach((row, i) =>
      dx.set(dPicked.subarray(i * columns, (i + 1) * columns), row * columns),
    )
    return { dx, dHead: productTN(dLogits, picked, vocabulary, columns, count) }
  }

  run(
    device: Device,
    {
      trainsHead = false,
      storage = 'f32',
      weighted = true,
    }: { trainsHead?: boolean; storage?: 'f32' | 'bf16'; weighted?: boolean } = {},
  ) {
    return evaluate(() => {
      const { numTokens, columns, vocabulary } = this.sizes
      const { x, head } = this.inputs
      const input = Tensor.from(device, x, [numTokens, columns])
      const weight = makeWeight(device, head, vocabulary, columns, { storage })
      try {
        const matrix: Matrix = { name: 'head', weight, master: null }
        if (trainsHead)
          matrix.master = trainedParameter(device, head, [vocabulary, columns], this.initial)
        const made: Tensor[] = []
        const { gradients } = forwardBackward(
          device,
          [input],
          (pass) => {
            const { loss, argmax } = headCrossEntropy(
              pass,
              input,
              matrix,
              Tensor.from(device, this.rows),
              Tensor.from(device, this.labels),
              {
                lossScale: Tensor.from(device, [this.lossScale]),
                rowWeight: weighted ? Tensor.from(device, this.rowWeight) : null,
                wantsArgmax: true,
              },
            )
            made.push(loss, argmax!)
            return []
          },
          [],
        )
        return {
          loss: made[0],
          argmax: made[1],
          dx: gradients[0]!,
          dHead: matrix.master?.gradient ?? Tensor.zeros(device, [1]),
        }
      } finally {
        weight.dispose()
      }
    })
  }
}

const cases = {
  'a few rows': new HeadCase({ numTokens: 7, columns: 5, vocabulary: 11, rows: [0, 3, 6] }, 61),
  'one row of one': new HeadCase({ numTokens: 1, columns: 33, vocabulary: 3, rows: [0] }, 62),
  'every second row of many, a vocabulary beyond one tile': new HeadCase(
    {
      numTokens: 301,
      columns: 71,
      vocabulary: 1037,
      rows: Array.from({ length: 150 }, (_, i) => 2 * i + 1),
    },
    63,
  ),
}

forEachDevice('headCrossEntropy', (context) => {
  it('has a reference whose gradients are those of central differences', () => {
    const one = cases['a few rows']
    const { dx, dHead } = one.backward()
    const differences = centralDifferences((values) => [one.loss(values)], one.inputs, [
      one.rowWeight.map((weight) => weight * one.lossScale),
    ])
    // The cotangents are rounded to float32 here, not there.
    assertClose(dx, differences.x, 2e-7, 'dx')
    assertClose(dHead, differences.head, 2e-7, 'dHead')
  })

  for (const [title, one] of Object.entries(cases))
    it(`and its gradients agree with float64: ${title}`, async () => {
      const { columns, vocabulary } = one.sizes
      const trained = await one.run(context.device, { trainsHead: true })
      const exact = one.backward()
      // Logits of up to 10 times the loss's size, by a chain over the columns; then a sum over the vocabulary.
      const tolerance = 10 * roundingTolerance(columns + Math.sqrt(vocabulary))
      assertClose(trained.loss, one.loss(), tolerance, 'loss')
      assertClose(trained.dx, exact.dx, tolerance, 'dx')
      const sum = combine((a, b) => a + b, exact.dHead, one.initial)
      assertClose(trained.dHead, sum, tolerance, 'dHead')
      const frozen = await one.run(context.device)
      assertSameBits(frozen.dx, trained.dx)
      assertSameBits(frozen.loss, trained.loss)
      const logits = one.logits()
      one.rows.forEach((_, i) => {
        const row = logits.subarray(i * vocabulary, (i + 1) * vocabulary)
        assert.equal(trained.argmax[i], row.indexOf(Math.max(...row)), `argmax of row ${i}`)
      })
    })

  it('counts every labelled row once where no weights are given', async () => {
    const one = cases['a few rows']
    const plain = one.with({ rowWeight: new Float32Array(one.rows.length).fill(1) })
    const unweighted = await one.run(context.device, { weighted: false })
    assertClose(unweighted.dx, plain.backward().dx, roundingTolerance(64))
    // Weights are no part of the loss that is returned.
    assertSameBits(unweighted.loss, (await one.run(context.device)).loss)
  })

  it('reads a bf16 head as it is stored', async () => {
    const one = cases['a few rows']
    const head = Float32Array.from(roundToBfloat16(one.inputs.head))
    const rounded = one.with({ inputs: { ...one.inputs, head } })
    const [narrow, wide] = [
      await one.run(context.device, { storage: 'bf16' }),
      await rounded.run(context.device),
    ]
    assertSameBits(narrow.loss, wide.loss)
    assertSameBits(narrow.dx, wide.dx)
  })

  it('without labels is empty, and sends back zeros', async () => {
    const one = new HeadCase({ numTokens: 5, columns: 6, vocabulary: 9, rows: [] }, 64)
    const { loss, argmax, dx, dHead } = await one.run(context.device, { trainsHead: true })
    assert.equal(loss.length + argmax.length, 0)
    assert.deepEqual(dx, new Float32Array(30))
    assert.deepEqual(dHead, one.initial)
  })

  it('gives a row the same bits whatever rows are labelled beside it', async () => {
    const one = cases['every second row of many, a vocabulary beyond one tile']
    const { columns } = one.sizes
    const whole = await one.run(context.device)
    for (const chosen of [
      [0],
      [149],
      [3, 4, 5, 90],
      Array.from({ length: 77 }, (_, i) => i + 31),
    ]) {
      const part = one.with({
        rows: Int32Array.from(chosen, (i) => one.rows[i]),
        labels: Int32Array.from(chosen, (i) => one.labels[i]),
        rowWeight: Float32Array.from(chosen, (i) => one.rowWeight[i]),
      })
      const { loss, dx } = await part.run(context.device)
      chosen.forEach((i, j) => {
        assertSameBits(loss.slice(j, j + 1), whole.loss.slice(i, i + 1), 'loss')
        const at = one.rows[i] * columns
        assertSameBits(dx.slice(at, at + columns), whole.dx.slice(at, at + columns), 'dx')
      })
    }
  })

  it('has the same bits at any number of threads', () =>
    assertSameAtAnyThreads(context, (device) =>
      cases['every second row of many, a vocabulary beyond one tile'].run(device, {
        trainsHead: true,
      }),
    ))

  it('breaks ties of the argmax toward the lowest token', async () => {
    const head = Float32Array.of(1, 0, 2, 5, 0, 2, 5, 1)
    const { argmax } = await evaluate(() => {
      const weight = makeWeight(context.device, head, 8, 1)
      const { argmax } = headCrossEntropy(
        forwardPass(context.device),
        Tensor.from(context.device, [1, -1, 0], [3, 1]),
        { name: 'head', weight, master: null },
        Tensor.from(context.device, Int32Array.of(0, 1, 2)),
        Tensor.from(context.device, Int32Array.of(0, 0, 0)),
        { lossScale: Tensor.from(context.device, [1]), wantsArgmax: true },
      )
      weight.dispose()
      return { argmax: argmax! }
    })
    assert.deepEqual(Array.from(argmax), [3, 1, 0])
  })

  it('fails the queue, not the process, for rows and labels that do not exist', async () => {
    for (const [rows, labels] of [
      [
        [0, 7],
        [1, 1],
      ],
      [
        [-1, 2],
        [1, 1],
      ],
      [
        [0, 2],
        [1, 11],
      ],
      [
        [0, 2],
        [-100, 1],
      ],
    ]) {
      const device = context.open()
      const one = cases['a few rows'].with({
        rows: Int32Array.from(rows),
        labels: Int32Array.from(labels),
        rowWeight: new Float32Array(2),
      })
      await assert.rejects(one.run(device, { trainsHead: true }), DeviceError)
      await device.close()
    }
  })
})
