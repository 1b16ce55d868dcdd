import assert from 'node:assert/strict'
import { mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Adapter } from '../../lib/adapters/adapter.js'
import { lora } from '../../lib/adapters/declaration.js'
import { loadAdapter } from '../../lib/adapters/peft.js'
import { ArgumentError, ConfigError, type PolyloraError } from '../../lib/errors.js'
import { mergeAdapter } from '../../lib/merge/merge.js'
import { saveModel } from '../../lib/models/save.js'
import { assertClose } from '../compare.js'
import {
  goldenFolder,
  goldenModel,
  logitsOf,
  openDecoder,
  readExpected,
  readTensors,
} from '../decoder-logits.js'
import { forEachDevice } from '../devices.js'
import { temporaryFolder } from '../temporary-folder.js'

const goldenAdapter = (name: string) => join(goldenFolder, 'adapters', name)
const read = (path: string) => JSON.parse(readFileSync(path, 'utf8')) as Record<string, unknown>
const baseOf = (name: string) => read(join(goldenAdapter(name), 'expected.json')).base as string

forEachDevice('merge', (context) => {
  const at = temporaryFolder()

  for (const name of ['all-linear', 'patterns', 'patterns-rslora', 'rslora'])
    it(`of PEFT's adapter ${name} gives PEFT's merged logits, in memory and from the folder`, async () => {
      const { device } = context
      const base = goldenModel(baseOf(name))
      const expected = await readExpected(device, goldenAdapter(name))
      {
        using model = await openDecoder(device, base)
        const adapter = await loadAdapter(
          device,
          model.config,
          join(goldenAdapter(name), 'adapter'),
        )
        const progress: number[] = []
        try {
          await mergeAdapter(model.weights, adapter, {
            float32: true,
            onProgress: (merged, total) => progress.push(merged / total),
          })
          assert.equal(progress.length, adapter.modules.length)
          assert.equal(progress.at(-1), 1)
        } finally {
          adapter.dispose()
        }
        const logits = await logitsOf(model.decoder, null, expected.sequences)
        // rslora's base is bf16: what the products read is rounded to 2^-9 of each weight, the file is not.
        const tolerance = name === 'rslora' ? 2e-2 : 1e-4
        assertClose(logits, expected.mergedLogits, tolerance, 'merged logits')
        await saveModel(at(name), { ...model, tokenizerFrom: null, dtype: 'f32' })
      }
      using again = await openDecoder(device, at(name))
      const logits = await logitsOf(again.decoder, null, expected.sequences)
      assertClose(logits, expected.mergedLogits, 1e-4, 'saved logits')
      assert.deepEqual(readdirSync(at(name)).sort(), ['config.json', 'model.safetensors'])
    })

  it('refuses an adapter of another model before it changes anything', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen2'))
    using other = await openDecoder(device, goldenModel('qwen3'))
    const adapter = Adapter.create(device, other.config, lora({ rank: 2 }))
    try {
      const { weight } = model.weights.layers[0].query.matrix
      using before = weight.read()
      await assert.rejects(mergeAdapter(model.weights, adapter), ArgumentError)
      using after = weight.read()
      assert.deepEqual(await after.read(), await before.read())
    } finally {
      adapter.dispose()
    }
  })
})

forEachDevice('saved model', (context) => {
  const at = temporaryFolder()

  for (const name of ['qwen2-tied', 'llama-2', 'llama-bias', 'qwen3', 'mistral'])
    it(`${name} holds the tensors of its source, bit for bit, in one file`, async () => {
      const { device } = context
      const source = goldenModel(name)
      using model = await openDecoder(device, source)
      await saveModel(at(name), { ...model, tokenizerFrom: source })
      const saved = await readTensors(device, join(at(name), 'model.safetensors'))
      const original = new Map(
        (
          await Promise.all(
            readdirSync(source)
              .filter((file) => file.endsWith('.safetensors'))
              .map((file) => readTensors(device, join(source, file))),
          )
        ).flatMap((tensors) => [...tensors]),
      )
      if (model.config.tieWordEmbeddings) original.delete('lm_head.weight')
      assert.deepEqual([...saved.keys()].sort(), [...original.keys()].sort())
      for (const [key, value] of original) assert.deepEqual(saved.get(key), value, key)
      assert.deepEqual(read(join(at(name), 'config.json')), read(join(source, 'config.json')))
    })

  it('takes another dtype, and says so in config.json under the name that was there', async () => {
    const { device } = context
    for (const [name, key] of [
      ['qwen2', 'dtype'],
      ['qwen2-tied', 'torch_dtype'],
    ]) {
      using model = await openDecoder(device, goldenModel(name))
      for (const [dtype, its, stored] of [
        ['bf16', 'bfloat16', 'BF16'],
        ['f16', 'float16', 'F16'],
        ['f32', 'float32', 'F32'],
      ] as const) {
        const folder = at(`${name}-${dtype}`)
        await saveModel(folder, { ...model, tokenizerFrom: null, dtype })
        assert.equal(read(join(folder, 'config.json'))[key], its)
        for (const one of (await readTensors(device, join(folder, 'model.safetensors'))).values())
          assert.equal(one.dtype, stored)
      }
      await assert.rejects(
        saveModel(at('never'), { ...model, tokenizerFrom: null, dtype: 'int4' as 'f32' }),
        ConfigError,
      )
    }
  })

  it('brings the tokenizer along, through links, and is never written over anything', async () => {
    const { device } = context
    using model = await openDecoder(device, goldenModel('qwen2'))
    const source = at('source')
    mkdirSync(source)
    writeFileSync(at('blob'), '{"model": {}}')
    symlinkSync(at('blob'), join(source, 'tokenizer.json'))
    writeFileSync(join(source, 'chat_template.jinja'), 'T')
    writeFileSync(join(source, 'optimizer.bin'), 'not wanted')
    mkdirSync(join(source, 'vocab.json'))
    await saveModel(at('with-tokenizer'), { ...model, tokenizerFrom: source })
    assert.deepEqual(readdirSync(at('with-tokenizer')).sort(), [
      'chat_template.jinja',
      'config.json',
      'model.safetensors',
      'tokenizer.json',
    ])
    assert.equal(
      readFileSync(join(at('with-tokenizer'), 'tokenizer.json'), 'utf8'),
      '{"model": {}}',
    )
    const refused: [string, RegExp][] = [
      [source, /is the input folder/],
      [join(source, 'merged'), /lies inside the input folder/],
      [at('with-tokenizer'), /already holds "chat_template\.jinja"/],
      [at('blob'), /is a file/],
    ]
    for (const [folder, expected] of refused)
      await assert.rejects(
        saveModel(folder, { ...model, tokenizerFrom: source }),
        (error: PolyloraError) => {
          assert.ok(error instanceof ConfigError)
          assert.match(error.message, expected)
          return true
        },
      )
  })
})
