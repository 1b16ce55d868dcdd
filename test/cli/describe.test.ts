import assert from 'node:assert/strict'
import { mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { hydraLora } from '../../lib/adapters/kinds.js'
import { saveAdapter } from '../../lib/adapters/peft.js'
import { Device } from '../../lib/device.js'
import { readConfig } from '../../lib/models/index.js'
import { goldenFolder, goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora } from './polylora.js'

describe('polylora describe', function () {
  this.timeout(120_000)
  const at = temporaryFolder()

  it('says what an adapter, a mixture and a run are', async () => {
    const rslora = join(goldenFolder, 'adapters/rslora/adapter')
    const plain = await polylora(['describe', rslora], at('.'))
    assert.equal(plain.code, 0, plain.stderr)
    assert.match(plain.stdout, /^lora: one expert a layer\n/)
    assert.match(plain.stdout, /scaling: alpha \/ sqrt\(rank\)/)
    assert.match(plain.stdout, /2 × q_proj: rank 6, \d+ to \d+/)

    const device = Device.open('cpu', { threads: 1 })
    const config = await readConfig(goldenModel('qwen3-sharded'))
    const adapter = Adapter.create(device, config, hydraLora({ rank: 2, experts: 3 }))
    const { numParameters } = adapter
    mkdirSync(at('run/step-20'), { recursive: true })
    mkdirSync(at('run/step-100'))
    await saveAdapter(adapter, at('run/adapter'), { baseModel: 'base' })
    adapter.dispose()
    await device.close()
    writeFileSync(at('run/run.json'), '{"model": "models/small", "method": {"kind": "hydra-lora"}}')
    const json = await polylora(['describe', 'run/adapter', '--json'], at('.'))
    assert.equal(json.code, 0, json.stderr)
    const described = JSON.parse(json.stdout) as Record<string, unknown>
    assert.equal(described.kind, 'hydra-lora')
    assert.equal(described.trainableParameters, numParameters)
    const run = await polylora(['describe', 'run'], at('.'))
    assert.equal(run.code, 0, run.stderr)
    assert.match(
      run.stdout,
      /run: hydra-lora on models\/small\ncheckpoints: 20, 100\nresult: written/,
    )
    assert.match(run.stdout, new RegExp(`trainable parameters: ${numParameters} `))
    const folder = await polylora(['describe', join(goldenFolder, 'adapters/rslora')], at('.'))
    assert.equal(folder.code, 0, folder.stderr)
    assert.match(folder.stdout, /^adapter:\n {2}lora: one expert a layer\n/)
  })

  it('refuses a folder that is none of these, in one sentence', async () => {
    mkdirSync(at('empty'))
    mkdirSync(at('model'))
    writeFileSync(at('model/config.json'), '{}')
    for (const [folder, problem] of [
      ['empty', 'holds no adapter_config.json, mixture_config.json or run.json'],
      ['model', 'is a model'],
      ['nowhere', 'cannot be read'],
    ]) {
      const result = await polylora(['describe', folder], at('.'))
      assert.notEqual(result.code, 0)
      assert.match(result.stderr, new RegExp(`^polylora: ${folder} ${problem}: .*\\n$`))
    }
  })
})
