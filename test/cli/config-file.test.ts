import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { applyOverrides, parseOverride, readYaml } from '../../lib/cli/config-file.js'
import { ConfigError, type PolyloraError } from '../../lib/errors.js'
import { temporaryFolder } from '../temporary-folder.js'

describe('configuration file', () => {
  const at = temporaryFolder()

  it('is YAML, with numbers as they are written', async () => {
    writeFileSync(
      at('a.yaml'),
      'optimizer: { learningRate: 2.0e-4, betas: [0.9, 1e-3] }\nsteps: 5\n',
    )
    assert.deepEqual(await readYaml(at('a.yaml')), {
      optimizer: { learningRate: 2e-4, betas: [0.9, 1e-3] },
      steps: 5,
    })
  })

  it('is refused with file, line and column', async () => {
    const laughs = ['a: &a [x, x, x, x, x, x, x, x, x]']
    for (let i = 0; i < 9; i++) {
      const [name, before] = [String.fromCharCode(98 + i), String.fromCharCode(97 + i)]
      laughs.push(`${name}: &${name} [${Array.from({ length: 9 }, () => `*${before}`).join()}]`)
    }
    const bad: [string, string | Buffer, RegExp][] = [
      ['duplicate', 'steps: 1\nmodel: m\nsteps: 2\n', /duplicate:3:1: /],
      ['syntax', 'model: m\ndata: [1, 2\n', /syntax:\d:\d+: /],
      ['tag', 'a: !!js/function "x"\n', /tag:1:4: /],
      ['laughs', laughs.join('\n'), /laughs: .*alias/],
      ['large', ' '.repeat((1 << 20) + 1), /at most 1048576/],
    ]
    for (const [name, content, expected] of bad) {
      writeFileSync(at(name), content)
      await assert.rejects(readYaml(at(name)), (error: PolyloraError) => {
        assert.ok(error instanceof ConfigError, String(error))
        assert.match(error.message, expected)
        return true
      })
    }
    mkdirSync(at('folder'))
    for (const name of ['folder', 'missing', 'a\0b'])
      await assert.rejects(readYaml(at(name)), ConfigError)
  })

  it('is overridden by dotted keys, without being changed', () => {
    const config = { steps: 5, data: { train: [{ path: 'a' }] }, batch: null }
    const overrides = [
      'steps=7',
      'optimizer.learningRate=1e-4',
      'data.train.0.weight=2',
      'data.train.1={ path: b }',
      'batch.size=3',
      'batch.size=4',
      'optimizer.betas=[0.5, 0.6]',
      'model=a=b',
      'seed=',
    ].map(parseOverride)
    assert.deepEqual(applyOverrides(config, overrides), {
      steps: 7,
      data: { train: [{ path: 'a', weight: 2 }, { path: 'b' }] },
      batch: { size: 4 },
      optimizer: { learningRate: 1e-4, betas: [0.5, 0.6] },
      model: 'a=b',
      seed: null,
    })
    assert.deepEqual(config, { steps: 5, data: { train: [{ path: 'a' }] }, batch: null })
    assert.deepEqual(applyOverrides(null, [parseOverride('a.b=1')]), { a: { b: 1 } })
  })

  it('never reaches beyond the configuration', () => {
    for (const text of [
      '__proto__.polluted=1',
      'constructor.prototype.polluted=1',
      'a.__proto__.polluted=1',
    ])
      applyOverrides({ a: {} }, [parseOverride(text)])
    assert.equal(({} as Record<string, unknown>).polluted, undefined)
  })

  it('refuses overrides that make no sense', () => {
    const bad: [string, RegExp][] = [
      ['steps', /KEY=VALUE/],
      ['=3', /KEY=VALUE/],
      ['a=[1', /--set a: .*not YAML/],
      ['steps.x=3', /steps\.x cannot be set: steps is 5/],
      ['data.train.x=3', /"x" is no place in data\.train, a list of 1/],
      ['data.train.7.path=3', /no place in data\.train/],
    ]
    for (const [text, expected] of bad)
      assert.throws(
        () => applyOverrides({ steps: 5, data: { train: [{}] } }, [parseOverride(text)]),
        (error: PolyloraError) => {
          assert.ok(error instanceof ConfigError, String(error))
          assert.match(error.message, expected)
          assert.doesNotMatch(error.message, /\n/)
          return true
        },
        text,
      )
  })
})
