import assert from 'node:assert/strict'
import { cpSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, it } from 'mocha'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora, type LoraDeclaration } from '../../lib/adapters/declaration.js'
import { describeAdapter } from '../../lib/adapters/describe.js'
import { dora, hydraLora, loraMoe, mtlLora } from '../../lib/adapters/kinds.js'
import { loadAdapter, saveAdapter } from '../../lib/adapters/peft.js'
import { Device } from '../../lib/device.js'
import { ConfigError, FormatError } from '../../lib/errors.js'
import { readConfig } from '../../lib/models/index.js'
import { SafetensorsFile, writeSafetensors } from '../../lib/safetensors.js'
import { Tensor } from '../../lib/tensor.js'
import { goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'

// Reading and checking are the same on every device.
describe('mixture folder', () => {
  const at = temporaryFolder()
  const model = goldenModel('qwen3-sharded')
  let device: Device

  before(() => {
    device = Device.open('cpu', { threads: 1 })
  })
  after(async () => {
    await device.close()
  })

  async function save(declaration: LoraDeclaration, name: string): Promise<number> {
    const adapter = Adapter.create(device, await readConfig(model), declaration)
    try {
      await saveAdapter(adapter, at(name), { baseModel: 'the/base' })
      return adapter.numParameters
    } finally {
      adapter.dispose()
    }
  }

  const mixed = hydraLora({ rank: 3, experts: 4, targets: ['q_proj', 'down_proj'] })

  async function refused(folder: string, expected: RegExp): Promise<void> {
    const config = await readConfig(model)
    await assert.rejects(
      async () => {
        const adapter = await loadAdapter(device, config, folder)
        adapter.dispose()
      },
      (error: Error) => {
        assert.ok(error instanceof FormatError, String(error))
        assert.match(error.message, expected)
        assert.ok(error.message.includes(folder), error.message)
        return true
      },
    )
  }

  it('is refused by the field that is wrong', async () => {
    await save(mixed, 'good')
    const cases: [Record<string, unknown>, RegExp][] = [
      [{ format: 'other' }, /format must be "polylora-mixture"/],
      [{ version: 2 }, /version must be 1, not 2/],
      [{ kind: 'lora' }, /kind must be lora-moe/],
      [{ experts: 0 }, /experts must be/],
      [{ experts: 1e9 }, /experts must be/],
      [{ experts: 5 }, /lora_B\.weight has shape|top_k/],
      [{ shares: 'everything' }, /shares must be/],
      [{ shares: 'nothing' }, /lora_A\.weight has shape \[3, \d+\].* ask for \[12/],
      [{ gate: { kind: 'magic' } }, /gate\.kind must be/],
      [{ gate: { kind: 'router', top_k: 9 } }, /gate\.top_k must be/],
      [{ gate: { kind: 'router', top_k: 2, extra: 1 } }, /gate\.extra is not a known field/],
      [{ gate: { kind: 'fixed', weights: [1, 2] } }, /gate\.weights must be a list of 4 numbers/],
      [{ gate: { kind: 'task', temperature: 1 } }, /disciplines/],
      [{ transform: true }, /disciplines/],
      [{ surprise: 1 }, /surprise is not a known field/],
      [{ dropout: 2 }, /dropout must be/],
      [{ modules: [] }, /modules must be/],
      [{ modules: [{ path: 'nowhere', rank: 1, alpha: 1 }] }, /modules\.0\.path must be/],
      [
        {
          modules: [0, 1].map(() => ({
            path: 'model.layers.0.self_attn.q_proj',
            rank: 3,
            alpha: 6,
          })),
        },
        /modules\.1\.path must be .* named once/,
      ],
      [
        { modules: [{ path: 'model.layers.0.self_attn.q_proj', rank: 0, alpha: 1 }] },
        /rank must be/,
      ],
      [
        { modules: [{ path: 'model.layers.0.self_attn.q_proj', rank: 3, alpha: 6 }] },
        /tensor .* cannot be used/,
      ],
    ]
    for (const [i, [changes, expected]] of cases.entries()) {
      const folder = at(`field-${i}`)
      cpSync(at('good'), folder, { recursive: true })
      const path = join(folder, 'mixture_config.json')
      const value = JSON.parse(readFileSync(path, 'utf8')) as object
      writeFileSync(path, JSON.stringify({ ...value, ...changes }))
      await refused(folder, expected)
    }
  })

  it('is refused by the tensor that is wrong', async () => {
    await save(mixed, 'tensors')
    const router = 'model.layers.1.self_attn.q_proj.lora_router.weight'
    const change = async (name: string, changes: Record<string, Tensor | null>) => {
      cpSync(at('tensors'), at(name), { recursive: true })
      const path = join(at(name), 'mixture_model.safetensors')
      const entries: { name: string; source: Tensor }[] = []
      {
        using file = await SafetensorsFile.open(path)
        for (const [key, { shape }] of file.entries) {
          if (key in changes) continue
          const source = Tensor.empty(device, shape)
          await file.readTensor(key, source)
          entries.push({ name: key, source })
        }
      }
      for (const [key, source] of Object.entries(changes))
        if (source) entries.push({ name: key, source })
      await writeSafetensors(path, [['format', 'pt']], entries)
      for (const { source } of entries) source.release()
      return at(name)
    }
    const { hiddenSize } = await readConfig(model)
    await refused(await change('missing', { [router]: null }), /has no tensor .*lora_router/)
    await refused(
      await change('shape', { [router]: Tensor.zeros(device, [3, hiddenSize]) }),
      /lora_router\.weight has shape \[3/,
    )
    await refused(
      await change('nan', { [router]: Tensor.full(device, [4, hiddenSize], NaN) }),
      /element 0 of tensor .*lora_router\.weight is NaN/,
    )
    await refused(
      await change('more', {
        'model.layers.0.mlp.up_proj.lora_router.weight': Tensor.zeros(device, [4, 2]),
      }),
      /cannot be used/,
    )
    rmSync(join(at('more'), 'mixture_model.safetensors'))
    await refused(at('more'), /mixture_model\.safetensors/)
    writeFileSync(join(at('nan'), 'adapter_config.json'), '{}')
    await refused(at('nan'), /is one of the two/)
  })

  it('takes the place of an adapter in the other format, and of nothing else', async () => {
    await save(lora({ rank: 2 }), 'changed')
    await save(mixed, 'changed')
    const adapter = await loadAdapter(device, await readConfig(model), at('changed'))
    assert.equal(adapter.declaration.kind, 'hydra-lora')
    adapter.dispose()
    writeFileSync(join(at('changed'), 'README.md'), 'mine')
    await save(mixed, 'changed')
    await assert.rejects(save(lora({ rank: 2 }), 'changed'), ConfigError)
    assert.equal(readFileSync(join(at('changed'), 'README.md'), 'utf8'), 'mine')
  })

  it('is described from its files alone, with the parameters that it trains', async () => {
    const declarations: [LoraDeclaration, string, string][] = [
      [lora({ rank: 4, rankPattern: { v_proj: 2 } }), 'one expert a layer', 'r·in + r·out'],
      [dora({ rank: 2 }), 'LoRA with a magnitude for every output', 'r·in + r·out + out'],
      [mixed, '4 experts a layer that share A, softmax of a router', 'r·in + 4·r·out + 4·in'],
      [
        loraMoe({ gate: 'top-k', experts: 3, topK: 1, biasRate: 0.1 }),
        '3 experts a layer, top 1 of a router',
        '3·r·in + 3·r·out + 3·in',
      ],
      [
        loraMoe({ gate: 'uniform', shares: 'b', experts: 2 }),
        '2 experts a layer that share B, constant gates 0.5, 0.5',
        '2·r·in + r·out',
      ],
      [
        mtlLora({ rank: 2, disciplines: ['biology', 'law'] }),
        '3 experts a layer that share A, gates by discipline (biology, law)',
        'r·in + 3·r·out + 2·r² + 6',
      ],
    ]
    for (const [i, [declaration, about, formula]] of declarations.entries()) {
      const parameters = await save(declaration, `described-${i}`)
      const described = await describeAdapter(at(`described-${i}`))
      assert.equal(described.kind, declaration.kind)
      assert.equal(described.about, about)
      assert.equal(described.parameterFormula, formula)
      assert.equal(described.trainableParameters, parameters)
      assert.equal(described.base, 'the/base')
      assert.ok(described.size > 4 * parameters)
    }
    await assert.rejects(describeAdapter(at('nothing')), FormatError)
  })
})
