import assert from 'node:assert/strict'
import { ConfigError } from '../../lib/errors.js'
import { methods } from '../../lib/merge/methods.js'
import { parseRecipe } from '../../lib/merge/recipe.js'
import { resolveParameters, type Settings } from '../../lib/merge/settings.js'

const valid = {
  merge_method: 'ties',
  base_model: 'base',
  models: [{ model: 'a', parameters: { weight: 1, density: 0.5 } }],
}

describe('recipe', () => {
  const refused: [string, unknown, RegExp][] = [
    ['a method that is not known', { ...valid, merge_method: 'magic' }, /"magic".*linear.*ties/],
    ['an inherited name as a method', { ...valid, merge_method: 'constructor' }, /"constructor"/],
    ['an unknown key', { ...valid, densities: 1 }, /densities is not a known key.*merge_method/],
    [
      'an unknown key of a model',
      { ...valid, models: [{ model: 'a', wieght: 1 }] },
      /models\.0\.wieght is not a known key.*model, parameters, fisher/,
    ],
    [
      'a parameter of another method',
      { ...valid, parameters: { t: 0.5 } },
      /parameters\.t is no parameter of ties, which takes weight, lambda/,
    ],
    [
      'a parameter of another method at a model',
      { ...valid, models: [{ model: 'a', parameters: { weight: 1, epsilon: 0.1 } }] },
      /models\.0\.parameters\.epsilon/,
    ],
    ['no base', { ...valid, base_model: undefined }, /ties needs base_model/],
    ['no models', { ...valid, models: undefined }, /models or slices/],
    ['models and slices', { ...valid, slices: [] }, /slices/],
    ['modules', { ...valid, modules: {} }, /modules is not supported/],
    ['a tokenizer to build', { ...valid, tokenizer: { source: 'union' } }, /tokenizer is not supp/],
    ['a union of vocabularies', { ...valid, tokenizer_source: 'union' }, /union is not supported/],
    ['a chat template', { ...valid, chat_template: 'auto' }, /chat_template is not supported/],
    ['an unknown dtype', { ...valid, dtype: 'int4' }, /dtype.*int4/],
    ['the base alone', { ...valid, models: [{ model: 'base' }] }, /ties merges.*beside.*not 0/],
    [
      'three models for slerp',
      {
        merge_method: 'slerp',
        base_model: 'base',
        models: ['a', 'b', 'c'].map((model) => ({ model })),
      },
      /slerp merges 1 to 2 models beside the base, not 3/,
    ],
    [
      'slices of different lengths',
      {
        merge_method: 'linear',
        slices: [
          {
            sources: [
              { model: 'a', layer_range: [0, 2] },
              { model: 'b', layer_range: [0, 3] },
            ],
          },
        ],
      },
      /2, 3 layers/,
    ],
    [
      'an empty slice',
      {
        merge_method: 'passthrough',
        slices: [{ sources: [{ model: 'a', layer_range: [2, 2] }] }],
      },
      /at least one layer/,
    ],
    [
      'fisher without its information',
      { merge_method: 'fisher', base_model: 'base', models: [{ model: 'a' }] },
      /fisher needs fisher for a/,
    ],
    [
      'information that nothing reads',
      { ...valid, models: [{ ...valid.models[0], fisher: 'f' }] },
      /ties does not take fisher for a/,
    ],
    ['a list', [], /recipe: the recipe/],
    ['nothing', null, /recipe: the recipe/],
  ]
  for (const [what, value, message] of refused)
    it(`refuses ${what}`, () => {
      assert.throws(
        () => parseRecipe(value),
        (error: unknown) => {
          assert.ok(error instanceof ConfigError)
          assert.match(error.message, message)
          return true
        },
      )
    })

  it('takes int8_mask and says that it has no effect', () => {
    assert.deepEqual(parseRecipe(valid).messages, [])
    const [message] = parseRecipe({ ...valid, parameters: { int8_mask: true } }).messages
    assert.match(message, /int8_mask has no effect/)
  })

  it('out_dtype goes before dtype', () => {
    assert.equal(parseRecipe({ ...valid, dtype: 'float32', out_dtype: 'bfloat16' }).dtype, 'bf16')
    assert.equal(parseRecipe({ ...valid, dtype: 'float16' }).dtype, 'f16')
    assert.equal(parseRecipe(valid).dtype, null)
  })
})

describe('parameters of a recipe', () => {
  const at = (settings: Settings[], name: string, depth: number) =>
    resolveParameters(methods.ties, 'model', settings, { name, depth }, 'a')

  it('interpolate over the layers, and by the first filter that fits', () => {
    const settings: Settings = {
      weight: [{ filter: 'mlp', value: [0, 1, 0.5] }, { filter: 'q_proj', value: 7 }, { value: 2 }],
      density: [1, 0],
    }
    assert.deepEqual(at([settings], 'layers.0.mlp.up', 0.25), { weight: 0.5, density: 0.75 })
    assert.deepEqual(at([settings], 'layers.2.mlp.up', 1), { weight: 0.5, density: 0 })
    assert.equal(at([settings], 'layers.1.q_proj', 0.5).weight, 7)
    assert.equal(at([settings], 'norm', 0).weight, 2)
  })

  it('are taken from the most particular place that has one for the tensor', () => {
    const own: Settings = { weight: { filter: 'mlp', value: 3 } }
    const shared: Settings = { weight: 1, density: 0.25 }
    assert.deepEqual(at([own, shared], 'mlp', 0), { weight: 3, density: 0.25 })
    assert.deepEqual(at([own, shared], 'norm', 0), { weight: 1, density: 0.25 })
  })

  it('must be given where there is no default, and lie within their range', () => {
    assert.throws(() => at([], 'norm', 0), /weight must be given for a/)
    assert.throws(
      () => at([{ weight: 1, density: 1.5 }], 'x', 0),
      /density of a must be a number from 0/,
    )
    assert.throws(() => at([{ weight: true }], 'x', 0), /weight of a must be a number/)
    const shared = (settings: Settings) =>
      resolveParameters(methods.ties, 'merge', [settings], { name: 'x', depth: 0 }, '')
    assert.throws(() => shared({ normalize: 2 }), /normalize must be true or false/)
    assert.equal(shared({ normalize: false }).normalize, 0)
  })
})
