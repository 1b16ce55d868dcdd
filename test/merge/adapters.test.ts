import assert from 'node:assert/strict'
import { join } from 'node:path'
import { mergeRecipe, type MergeRecipeOptions, parseRecipe } from '../../lib/merge/index.js'
import { assertClose } from '../compare.js'
import { readTensors } from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { goldenPath } from '../golden-files.js'
import { randomWord } from '../random.js'
import { temporaryFolder } from '../temporary-folder.js'
import { createHash } from 'node:crypto'
import { randomAdapter } from './adapter-folders.js'

const base = goldenPath('merging/models/base')
const chemistry = goldenPath('merging/models/chemistry')

type Tensors = Awaited<ReturnType<typeof readTensors>>
type Deltas = Map<string, Float64Array>

forEachDevice('adapters in a recipe', (context) => {
  const at = temporaryFolder()
  let first: Deltas
  let second: Deltas
  let weights: Tensors

  const merge = async (
    name: string,
    recipe: Record<string, unknown>,
    options: Partial<MergeRecipeOptions> = {},
  ) => {
    const { kind, options: device } = context.variant
    const located = { base_model: base, ...recipe }
    const parsed = parseRecipe(located, name)
    const output = at(`${name}-${String(options.seed ?? 0)}`)
    await mergeRecipe({ ...device, ...options, recipe: parsed, output, device: kind })
    return readTensors(context.device, join(output, 'model.safetensors'))
  }
  const models = (one: Record<string, unknown>, two: Record<string, unknown>) => [
    { model: at('first'), parameters: one },
    { model: at('second'), parameters: two },
  ]
  /** Every tensor is the base's, plus what `update` gives of both deltas. */
  const check = (
    actual: Tensors,
    update: (one: number, two: number, key: string, i: number) => number,
    tolerance = 1e-6,
  ) => {
    for (const [key, { values }] of weights) {
      const path = key.replace(/\.weight$/, '')
      const expected = Array.from(
        values,
        (value, i) => value + update(first.get(path)?.[i] ?? 0, second.get(path)?.[i] ?? 0, key, i),
      )
      assertClose(actual.get(key)!.values, expected, tolerance, key)
    }
    assert.equal(actual.size, weights.size)
  }

  it('are made', async () => {
    const { device } = context
    weights = await readTensors(device, join(base, 'model.safetensors'))
    // Different targets, ranks, alphas and scaling, so that every shortcut shows.
    first = await randomAdapter(device, base, at('first'), 1, {
      rank: 3,
      alpha: 7,
      targets: ['q_proj', 'down_proj', 'up_proj'],
      rankPattern: { up_proj: 5 },
      alphaPattern: { down_proj: 2 },
    })
    second = await randomAdapter(device, base, at('second'), 2, {
      rank: 4,
      alpha: 3,
      rsLora: true,
      targets: ['down_proj', 'up_proj', 'v_proj'],
    })
  })

  for (const method of ['task_arithmetic', 'cat'])
    it(`${method} adds exactly w s B A of each`, async () => {
      const recipe = { merge_method: method, models: models({ weight: 0.7 }, { weight: -1.3 }) }
      check(await merge(method, recipe), (one, two) => 0.7 * one - 1.3 * two)
    })

  it('linear averages base + adapter', async () => {
    const recipe = { merge_method: 'linear', models: models({ weight: 1 }, { weight: 3 }) }
    check(await merge('linear', recipe), (one, two) => (one + 3 * two) / 4)
  })

  it('an adapter of another model is that model and the adapter', async () => {
    const tuned = await readTensors(context.device, join(chemistry, 'model.safetensors'))
    const recipe = {
      merge_method: 'task_arithmetic',
      models: [{ model: `${chemistry}+${at('first')}`, parameters: { weight: 0.5 } }],
    }
    const difference = (key: string, i: number) =>
      tuned.get(key)!.values[i] - weights.get(key)!.values[i]
    check(await merge('plus', recipe), (one, _, key, i) => 0.5 * (one + difference(key, i)))
  })

  it('dare_linear draws by seed, model, tensor and element alone', async () => {
    const recipe = {
      merge_method: 'dare_linear',
      models: models({ weight: 1, density: 0.4 }, { weight: 2, density: 0.7 }),
    }
    const keeps = (seed: bigint, model: number, key: string, i: number, density: number) => {
      const digest = createHash('sha256').update(`${model}\0${key}`).digest()
      const stream = BigInt.asUintN(64, digest.readBigUInt64LE() << 24n)
      // Uniform numbers are the upper 24 bits of a word.
      return (randomWord(seed, stream, i) >>> 8) / 2 ** 24 < Math.fround(density)
    }
    for (const seed of [0, 9])
      check(await merge('dare', recipe, { seed }), (one, two, key, i) => {
        const kept = keeps(BigInt(seed), 0, key, i, 0.4) ? one / 0.4 : 0
        return kept + (keeps(BigInt(seed), 1, key, i, 0.7) ? (2 * two) / 0.7 : 0)
      })
  })

  it('svd of the full rank is exact, and of a lower one the nearest', async () => {
    const recipe = (rank: number) => ({
      merge_method: 'svd',
      models: models({ weight: 1 }, { weight: 1 }),
      parameters: { rank },
    })
    check(await merge('svd-full', recipe(9)), (one, two) => one + two, 2e-6)
    const rank2 = await merge('svd-two', recipe(2))
    const key = 'model.layers.1.mlp.up_proj.weight'
    const path = 'model.layers.1.mlp.up_proj'
    const sum = first.get(path)!.map((value, i) => value + second.get(path)![i])
    const actual = Array.from(
      rank2.get(key)!.values,
      (value, i) => value - weights.get(key)!.values[i],
    )
    assertClose(actual, nearest(sum, 17, 12, 2), 2e-6)
  })

  it('knots with nothing to trim and no signs that differ is the mean', async () => {
    const parameters = { weight: 1, density: 1 }
    const recipe = {
      merge_method: 'knots',
      models: [
        { model: at('first'), parameters },
        { model: at('first'), parameters },
      ],
    }
    check(await merge('knots', recipe), (one) => one, 2e-6)
  })

  it('ties elects signs on the whole update, not on its factors', async () => {
    const recipe = {
      merge_method: 'ties',
      models: models({ weight: 1 }, { weight: 1 }),
      parameters: { normalize: false },
    }
    check(await merge('ties', recipe), (one, two) =>
      one * two >= 0 ? one + two : Math.abs(one) >= Math.abs(two) ? one : two,
    )
  })
})

/** The nearest matrix of a lower rank: what is left along the leading eigenvectors of MᵀM, found by power iteration. */
function nearest(matrix: Float64Array, rows: number, columns: number, rank: number): number[] {
  const rest = Float64Array.from(matrix)
  const result = new Array<number>(matrix.length).fill(0)
  for (let k = 0; k < rank; k++) {
    let v = Array.from({ length: columns }, (_, j) => Math.cos(j + 1))
    for (let step = 0; step < 20_000; step++) {
      const u = Array.from({ length: rows }, (_, i) =>
        v.reduce((sum, value, j) => sum + value * rest[i * columns + j], 0),
      )
      v = v.map((_, j) => u.reduce((sum, value, i) => sum + value * rest[i * columns + j], 0))
      const norm = Math.hypot(...v)
      v = v.map((value) => value / norm)
    }
    for (let i = 0; i < rows; i++) {
      const along = v.reduce((sum, value, j) => sum + value * rest[i * columns + j], 0)
      for (let j = 0; j < columns; j++) {
        result[i * columns + j] += along * v[j]
        rest[i * columns + j] -= along * v[j]
      }
    }
  }
  return result
}
