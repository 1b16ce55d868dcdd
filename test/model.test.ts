import assert from 'node:assert/strict'
import { Model } from '../lib/model.js'
import { Tokenizer } from '../lib/text/index.js'
import { goldenModel } from './decoder-logits.js'

describe('a model', () => {
  it('takes a tokenizer that is loaded already, and leaves it open', async () => {
    const folder = goldenModel('qwen2-text')
    await using tokenizer = await Tokenizer.load(folder)
    const model = await Model.load(folder, { tokenizer })
    assert.equal(model.tokenizer, tokenizer)
    await model.dispose()
    const [ids] = await tokenizer.encode(['still there'])
    assert.ok(ids.length > 0)
  })
})
