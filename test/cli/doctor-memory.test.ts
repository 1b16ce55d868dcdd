import assert from 'node:assert/strict'
import { cpSync, readFileSync, writeFileSync } from 'node:fs'
import { goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'
import { polylora } from './polylora.js'

describe('polylora doctor --memory', function () {
  this.timeout(60_000)
  const at = temporaryFolder()

  before(() => {
    cpSync(goldenModel('qwen2-text'), at('base'), { recursive: true })
    const lines = Array.from({ length: 9 }, (_, i) => ({ prompt: `${i} and`, completion: ` ${i}` }))
    writeFileSync(at('data.jsonl'), lines.map((line) => JSON.stringify(line)).join('\n'))
    const run = (method: string, model: string) =>
      `model: ${model}
output: run
method: ${method}
data: { train: [{ path: data.jsonl }] }
batch: { size: 3 }
steps: 4
`
    writeFileSync(at('run.yaml'), run('{ kind: lora, rank: 3 }', 'base'))
    cpSync(at('base'), at('huge'), { recursive: true })
    const config = JSON.parse(readFileSync(at('huge/config.json'), 'utf8')) as object
    const wide = { hidden_size: 1 << 15, intermediate_size: 1 << 17, head_dim: 64 }
    writeFileSync(at('huge/config.json'), JSON.stringify({ ...config, ...wide }))
    writeFileSync(at('huge.yaml'), run('{ kind: full, initialize: true }', 'huge'))
  })

  it('prints what a run would hold, and runs nothing', async () => {
    const { code, stdout, stderr } = await polylora(['doctor', '--memory', 'run.yaml'], at('.'))
    assert.equal(stderr, '')
    assert.equal(code, 0)
    assert.match(stdout, /^largest micro-batch: \d+ tokens, \d+ of them trained$/m)
    assert.match(stdout, /^weights +[\d.]+ KiB +[\d.]+ KiB$/m)
    assert.match(stdout, /^at the worst moment +[\d.]+ [KM]iB +[\d.]+ [KM]iB$/m)
    assert.match(stdout, /^the device may use [\d.]+ [MG]iB/m)
  })

  it('refuses with exit code 2 what does not fit, and says what would help', async () => {
    const { code, stdout, stderr } = await polylora(['doctor', '--memory', 'huge.yaml'], at('.'))
    assert.equal(code, 2)
    assert.match(stdout, /^at the worst moment +[\d.]+ [GT]iB/m)
    assert.match(stderr, /^polylora: the run needs [\d,]+ MiB .* may be used; .* a smaller model$/m)
  })

  it('refuses a configuration that the run would refuse', async () => {
    writeFileSync(at('bad.yaml'), 'model: base\noutput: run\nmethod: { kind: lora, rank: 0 }\n')
    const { code, stderr } = await polylora(['doctor', '--memory', 'bad.yaml'], at('.'))
    assert.equal(code, 2)
    assert.match(stderr, /^polylora: bad\.yaml: method\.rank: /m)
  })
})
