import assert from 'node:assert/strict'
import { runInNewContext } from 'node:vm'
import { describe, it } from 'mocha'
import * as errors from '../lib/errors.js'

describe('errors', () => {
  const names = Object.keys(errors.errorCodes) as errors.PolyloraErrorName[]

  it('gives every class its own name and code', () => {
    assert.equal(names.length, 11)
    assert.equal(new Set(Object.values(errors.errorCodes)).size, names.length)
    for (const name of names) {
      const error = new errors[name]('a sentence')
      assert.ok(error instanceof errors.PolyloraError)
      assert.ok(error instanceof Error)
      assert.equal(error.name, name)
      assert.equal(error.code, errors.errorCodes[name])
      assert.equal(String(error), `${name}: a sentence`)
      assert.ok(error.stack?.includes('errors.test'))
    }
  })

  it('carries details and cause', () => {
    const cause = new TypeError('below')
    const error = new errors.DataError('line 3', { details: { file: 'a.jsonl', line: 3 }, cause })
    assert.deepEqual(error.details, { file: 'a.jsonl', line: 3 })
    assert.equal(error.cause, cause)
    assert.equal('cause' in new errors.DataError('no cause'), false)
  })

  it('rebuilds a typed error from its code', () => {
    for (const name of names) {
      const error = errors.errorFromCode(errors.errorCodes[name], 'again', { details: { n: 1 } })
      assert.ok(error instanceof errors[name])
      assert.deepEqual(error.details, { n: 1 })
    }
    assert.equal(errors.errorFromCode('ERR_OTHER', 'x'), undefined)
  })

  it('recognises its own errors and nothing else', () => {
    assert.ok(errors.isPolyloraError(new errors.ShapeError('x')))
    const foreign: unknown = runInNewContext('({ code: "ERR_POLYLORA_SHAPE" })')
    for (const value of [new Error('x'), null, undefined, 'ERR_POLYLORA_SHAPE', {}, foreign])
      assert.equal(errors.isPolyloraError(value), false)
  })
})
