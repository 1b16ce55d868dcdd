import assert from 'node:assert/strict'
import { readFileSync } from 'node:fs'
import { after, before, describe, it } from 'mocha'
import { ArgumentError, isPolyloraError } from '../lib/errors.js'
import {
  loadNative,
  type NativeDevice,
  type NativeTensor,
  type NativeWeight,
} from '../lib/native.js'

describe("native border: the fields of an operation's arguments", () => {
  const native = loadNative()
  const run = native.run as (...args: unknown[]) => void
  let device: NativeDevice
  let tensor: NativeTensor
  let weight: NativeWeight

  before(() => {
    device = native.openDevice('cpu', { threads: 1 })
    tensor = native.allocate(device, 'f32', [2, 3])
    weight = native.createWeight(device, { rows: 2, columns: 3, storage: 'f32', compute: 'f32' })
  })

  after(() => native.closeDevice(device))

  const thrownBy = (body: () => unknown): unknown => {
    try {
      body()
    } catch (error) {
      return error
    }
    return undefined
  }

  it('are named where they are unknown, missing or mistyped', () => {
    const cases: [string, object, RegExp][] = [
      [
        'fill',
        { y: tensor, value: 0, colour: 1 },
        /fill has no field "colour"; allowed are y, value/,
      ],
      ['fill', { y: tensor }, /fill: value is missing/],
      ['fill', { value: 1 }, /fill: y is missing/],
      ['fill', { y: null, value: 1 }, /fill: y is missing/],
      ['fill', { y: tensor, value: '1' }, /fill: value is "1", must be a number/],
      [
        'matmul',
        { layout: 'tt', segments: [], y: tensor },
        /layout is "tt", must be nt or nn or tn/,
      ],
      [
        'matmul',
        { layout: 'nt', segments: {}, y: tensor },
        /segments is an object, must be an array/,
      ],
      [
        'matmul',
        { layout: 'nt', segments: [7], y: tensor },
        /segments\[0\] is 7, must be an object/,
      ],
      [
        'matmul',
        {
          layout: 'nt',
          segments: [
            { x: tensor, w: tensor },
            { x: tensor, u: 1 },
          ],
          y: tensor,
        },
        /segments\[1\] has no field "u"; allowed are x, w, weight, maskAfter, maskW/,
      ],
      [
        'matmul',
        { layout: 'nt', segments: [{ x: 1 }], y: tensor },
        /segments\[0\].x is 1, must be a tensor/,
      ],
      ['matmul', { layout: 'nt', segments: new Array(2 ** 32 - 1), y: tensor }, /at most 65536/],
      [
        'matmul',
        { layout: 'nt', segments: [], dropout: { probability: 0.5 }, y: tensor },
        /dropout.module is missing/,
      ],
      [
        'low_rank_project',
        {
          x: tensor,
          a: tensor,
          rankScale: tensor,
          s: tensor,
          dropout: {
            probability: 0.5,
            module: -1,
            seed: 0,
            step: tensor,
            rowSample: tensor,
            rowPosition: tensor,
          },
        },
        /dropout.module is -1, must be an integer from 0 to 4294967295/,
      ],
      [
        'gradient_norm',
        { gradients: [tensor, weight], maxNorm: 1, result: tensor },
        /gradients\[1\]/,
      ],
      [
        'random',
        { distribution: 'normal', first: 0, second: 1, seed: -1n, subsequence: 0, y: tensor },
        /seed is a BigInt, must be from 0 to 2\^64 - 1/,
      ],
      [
        'rope',
        { x: tensor, positions: tensor, cosines: tensor, sines: tensor, inverse: 2, y: tensor },
        /inverse is 2/,
      ],
    ]
    for (const [operation, args, message] of cases)
      assert.throws(
        () => native.run(device, operation, args),
        (error) => error instanceof ArgumentError && message.test(error.message),
      )
    for (const args of [undefined, null, 5, 'x'])
      assert.throws(() => run(device, 'fill', args), ArgumentError)
    for (const name of ['', 'Fill', 'fill ', 'toString', 'x'.repeat(1e6), 5, null])
      assert.throws(() => run(device, name, {}), /there is no operation/)
  })

  it('are those of every operation of the kernel table, in camelCase', () => {
    const header = readFileSync(new URL('../src/kernels.h', import.meta.url), 'utf8')
    const withoutComments = header.replace(/\/\*[\s\S]*?\*\//g, '')
    const operations = Array.from(withoutComments.matchAll(/^ {2}X\((\w+)\)/gm), ([, name]) => name)
    assert.ok(operations.length >= 36)
    for (const operation of operations) {
      const body = new RegExp(`typedef struct pl_${operation}_args \\{([\\s\\S]*?)\\}`).exec(
        withoutComments,
      )![1]
      const fields = body
        .split(';')
        .flatMap((line) =>
          line
            .trim()
            .replace(/\s+/g, ' ')
            .replace(/^(const )?\w+\*? /, '')
            .split(', '),
        )
        .filter((name) => name !== '' && name !== 'header' && !name.endsWith('_count'))
        .map((name) => name.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()))
      // Every optional field undefined is fine; every unknown one is refused with the list of those known.
      const error = thrownBy(() =>
        native.run(device, operation, { ...completeArguments(operation), unknownField: 1 }),
      )
      assert.ok(error instanceof ArgumentError)
      assert.match(error.message, /allowed are/)
      const allowed = error.message.split('allowed are ')[1].split(', ')
      assert.deepEqual(allowed.toSorted(), fields.toSorted(), operation)
    }
  })

  /** Something of the right kind for every field, so that reading gets past all of them. */
  function completeArguments(operation: string): object {
    const values: Record<string, unknown> = {}
    for (;;) {
      const error = thrownBy(() => native.run(device, operation, { ...values, unknownField: 1 }))
      assert.ok(isPolyloraError(error))
      const match = /: (\w+) is (?:missing|.*, must be (.*))$/.exec(error.message)
      if (match === null) return values
      const [, field, kind] = match
      const next: Record<string, unknown> = {
        undefined: tensor,
        'a weight': weight,
        'a number': 1,
        'an array': [],
        'an integer from 0 to 2^53 - 1': 0,
        'an integer from 0 to 4294967295': 1,
        'nt or nn or tn': 'nt',
        'uniform or normal': 'uniform',
      }
      assert.ok(String(kind) in next, error.message)
      assert.notEqual(values[field], next[String(kind)], error.message)
      values[field] = next[String(kind)]
    }
  }
})
