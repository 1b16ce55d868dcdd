import assert from 'node:assert/strict'
import { successiveHalving, type Trial } from '../../lib/laws/halving.js'
import { Random } from '../random.js'

const trial = (score: number, logLikelihood = -1): Trial => ({ score, logLikelihood })

describe('successive halving', () => {
  /** Runs it over 0 … count - 1 and notes what was tried with how many tokens. */
  async function halve(
    count: number,
    rungs: readonly { tokens: number; keep: number }[],
    outcome: (candidate: number, tokens: number) => Trial | null,
  ) {
    const tried = new Map<number, number[]>()
    const candidates = Array.from({ length: count }, (_, i) => i)
    const best = await successiveHalving(candidates, rungs, (candidate, tokens) => {
      tried.set(tokens, [...(tried.get(tokens) ?? []), candidate])
      return Promise.resolve(outcome(candidate, tokens))
    })
    return { best, tried: [...tried] }
  }

  it('tries at each rung the best of the rung before, by what they did there alone', async () => {
    const random = new Random(3)
    for (let round = 0; round < 50; round++) {
      const count = 2 + random.integer(20)
      const keeps = [1 + random.integer(count), 1 + random.integer(4), 1]
      const rungs = keeps.map((keep, i) => ({ tokens: 100 * 2 ** i, keep }))
      const scores = rungs.map(() => Array.from({ length: count }, () => random.next()))
      const { best, tried } = await halve(count, rungs, (candidate, tokens) =>
        trial(scores[Math.log2(tokens / 100)][candidate]),
      )
      let left = Array.from({ length: count }, (_, i) => i)
      for (const [rung, { tokens, keep }] of rungs.entries()) {
        assert.deepEqual(tried[rung], [tokens, left])
        left = [...left].sort((a, b) => scores[rung][b] - scores[rung][a]).slice(0, keep)
      }
      assert.equal(best, left[0])
    }
  })

  it('takes of equals the likelier, then the one that was named first', async () => {
    const outcomes = [trial(0.5, -2), trial(0.5, -1), trial(0.5, -1), trial(0.4, 0)]
    const { best, tried } = await halve(
      4,
      [
        { tokens: 1, keep: 2 },
        { tokens: 2, keep: 1 },
      ],
      (i, tokens) => (tokens === 1 ? outcomes[i] : trial(1)),
    )
    assert.deepEqual(tried[1], [2, [1, 2]])
    assert.equal(best, 1)
  })

  it('puts what failed last, and what is not finite before it', async () => {
    const lost = trial(0, -Infinity)
    const outcomes = [null, lost, null, trial(0, -9), lost]
    const order: number[] = []
    for (let keep = 1; keep <= 5; keep++) {
      const { tried } = await halve(
        5,
        [
          { tokens: 1, keep },
          { tokens: 2, keep: 1 },
        ],
        (i) => outcomes[i],
      )
      order.push(tried[1][1].at(-1)!)
    }
    assert.deepEqual(order, [3, 1, 4, 0, 2])
    assert.equal((await halve(2, [{ tokens: 1, keep: 1 }], () => null)).best, 0)
  })
})
