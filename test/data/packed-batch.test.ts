import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { mix } from '../../lib/data/order.js'
import { packBatch } from '../../lib/data/packed-batch.js'

describe('packing', () => {
  it('lays samples end to end, as counted by hand', () => {
    const batch = packBatch(
      [
        {
          sampleIndex: 41,
          example: {
            inputIds: Int32Array.of(7, 8, 9, 2),
            labelMask: Uint8Array.of(0, 0, 1, 1),
            discipline: 1,
          },
        },
        {
          sampleIndex: 42,
          example: {
            inputIds: Int32Array.of(5, 6, 2),
            labelMask: Uint8Array.of(0, 1, 0),
            discipline: 0,
          },
        },
      ],
      ['biology', 'chemistry'],
    )
    assert.deepEqual(batch, {
      // The last token of each predicts nothing.
      inputIds: Int32Array.of(7, 8, 9, 5, 6),
      positions: Int32Array.of(0, 1, 2, 0, 1),
      cuSeqlens: Int32Array.of(0, 3, 5),
      maxSeqlen: 3,
      rowSample: Int32Array.of(41, 41, 41, 42, 42),
      rowDiscipline: Int32Array.of(1, 1, 1, 0, 0),
      labelRows: Int32Array.of(1, 2, 3),
      labels: Int32Array.of(9, 2, 6),
      labelDiscipline: Int32Array.of(1, 1, 0),
      disciplineNames: ['biology', 'chemistry'],
    })
  })

  it('keeps what it packs, whatever the samples', () => {
    for (let trial = 0; trial < 60; ++trial) {
      const draw = (what: number, most: number): number => mix(mix(trial, what), 7) % most
      const samples = Array.from({ length: 1 + draw(0, 9) }, (_, s) => {
        const length = 2 + draw(100 + s, 40)
        const labelMask = Uint8Array.from({ length }, (_, t) =>
          t === 0 ? 0 : draw(1000 * s + t, 2),
        )
        return {
          sampleIndex: 1000 + s,
          example: {
            inputIds: Int32Array.from({ length }, (_, t) => draw(5000 + 100 * s + t, 50_000)),
            labelMask,
            discipline: s % 3,
          },
        }
      })
      const batch = packBatch(samples, ['a', 'b', 'c'])
      const lengths = samples.map(({ example }) => example.inputIds.length - 1)
      assert.equal(
        batch.inputIds.length,
        lengths.reduce((a, b) => a + b),
      )
      assert.equal(batch.maxSeqlen, Math.max(...lengths))
      const targets: number[][] = []
      for (const [s, { example, sampleIndex }] of samples.entries()) {
        const [begin, end] = batch.cuSeqlens.subarray(s, s + 2)
        assert.equal(end - begin, lengths[s])
        assert.deepEqual(batch.inputIds.slice(begin, end), example.inputIds.slice(0, -1))
        assert.deepEqual(
          [...batch.positions.subarray(begin, end)],
          Array.from({ length: end - begin }, (_, t) => t),
        )
        assert.ok(batch.rowSample.subarray(begin, end).every((sample) => sample === sampleIndex))
        example.inputIds.forEach((id, t) => {
          if (example.labelMask[t]) targets.push([begin + t - 1, id, example.discipline])
        })
      }
      assert.deepEqual(
        Array.from(batch.labelRows, (row, i) => [row, batch.labels[i], batch.labelDiscipline[i]]),
        targets,
      )
    }
  })
})
