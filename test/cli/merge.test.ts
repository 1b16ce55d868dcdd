import assert from 'node:assert/strict'
import { existsSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { stringify } from 'yaml'
import { Device } from '../../lib/device.js'
import { goldenModel } from '../decoder-logits.js'
import { goldenPath } from '../golden-files.js'
import { randomAdapter } from '../merge/adapter-folders.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora } from './polylora.js'

const model = goldenModel('qwen2-text')

describe('polylora merge', function () {
  this.timeout(60_000)
  const at = temporaryFolder()
  const recipe = (method: string, more: object = {}) => ({
    merge_method: method,
    base_model: model,
    models: ['a', 'b'].map((name) => ({ model: name, parameters: { weight: 0.5 } })),
    dtype: 'float32',
    ...more,
  })
  const merge = (...args: string[]) => polylora(['merge', ...args], at('.'))

  before(async () => {
    const device = Device.open('cpu', { threads: 1 })
    try {
      for (const [i, name] of ['a', 'b'].entries())
        await randomAdapter(device, model, at(name), i, { rank: 2, alpha: 1 })
    } finally {
      await device.close()
    }
    writeFileSync(at('cat.yaml'), stringify(recipe('cat')))
    writeFileSync(at('svd.yaml'), stringify(recipe('svd', { parameters: { rank: 2 } })))
    writeFileSync(at('ties.yaml'), stringify(recipe('ties', { parameters: { int8_mask: true } })))
    writeFileSync(at('wrong.yaml'), 'merge_method: ties\nbase_model: x\nmodel: []\n')
  })

  it('merges by a recipe and compares logits with the adapters side by side', async () => {
    const merged = await merge('cat.yaml', '--output', 'merged', '--prompt', 'Name:')
    assert.equal(merged.code, 0, merged.stderr)
    const [first, row] = merged.stdout.trimEnd().split('\n')
    assert.equal(first, 'merged model written to merged')
    const match =
      /^"Name:": (\d+) tokens, logits differ by (\S+) of (\S+), divergence (\S+), same next token at (\d+)$/.exec(
        row,
      )
    assert.ok(match, row)
    assert.ok(Number(match[2]) < 1e-4 * Number(match[3]), row)
    assert.equal(match[1], match[5])
    assert.ok(existsSync(at('merged/tokenizer.json')))
  })

  it('says what has no effect', async () => {
    const { code, stderr } = await merge('ties.yaml', '--output', 'ties')
    assert.equal(code, 0, stderr)
    assert.match(stderr, /int8_mask has no effect/)
  })

  it('writes an adapter, and what its rank has lost', async () => {
    const { code, stdout, stderr } = await merge('svd.yaml', '--output', 'svd', '--as', 'adapter')
    assert.equal(code, 0, stderr)
    assert.match(stdout, /^merged adapter written to svd\nlost energy [1-9]\.\d{3}e-[123]\n$/)
    const config = JSON.parse(
      readFileSync(join(at('svd'), 'adapter_config.json'), 'utf8'),
    ) as Record<string, unknown>
    assert.equal(config.r, 2)
    assert.equal(config.lora_alpha, 2)
  })

  const refused: [string, string[], RegExp][] = [
    ['nothing to merge', [], /--model must be given, or a recipe/],
    ['a model beside a recipe', ['cat.yaml', '--model', model], /exclude each other/],
    ['a dtype beside a recipe', ['cat.yaml', '--dtype', 'f32'], /exclude each other/],
    [
      'an adapter that is not there',
      ['--model', model, '--adapter', 'none'],
      /none holds no adapter/,
    ],
    ['an unknown key', ['wrong.yaml'], /wrong\.yaml: model is not a known key; there are merge_/],
    ['a recipe that is not there', ['nowhere.yaml'], /nowhere\.yaml/],
    ['an adapter of full rank', ['ties.yaml', '--as', 'adapter'], /full rank/],
  ]
  for (const [what, args, message] of refused)
    it(`refuses ${what} in one sentence`, async () => {
      const { code, stderr, stdout } = await merge(...args, '--output', 'never')
      assert.equal(code, 2, stderr)
      assert.match(stderr, message)
      assert.match(stderr, /polylora: [^\n]*\n$/)
      assert.equal(stdout, '')
      assert.ok(!existsSync(at('never')))
    })

  it('takes the recipes of mergekit as they are', async () => {
    const text = readFileSync(goldenPath('merging/mergekit/ties-gradient.yaml'), 'utf8')
    writeFileSync(at('gradient.yaml'), text)
    const merged = await polylora(
      ['merge', at('gradient.yaml'), '--output', at('gradient')],
      goldenPath('merging/models'),
    )
    assert.equal(merged.code, 0, merged.stderr)
    assert.ok(existsSync(at('gradient/model.safetensors')))
  })
})
