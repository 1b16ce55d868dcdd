/** safetensors, config.json, model folders and adapters that do harm. */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { loadAdapter } from '../../lib/adapters/peft.js'
import { Model } from '../../lib/model.js'
import { readConfig } from '../../lib/models/index.js'
import { SafetensorsFile } from '../../lib/safetensors.js'
import { Tensor } from '../../lib/tensor.js'
import { safetensorsBytes } from '../safetensors-bytes.js'
import {
  type Files,
  golden,
  type HostileFile,
  type Kind,
  textOf,
  withChanges,
  withDevice,
} from './kind.js'

// ---- safetensors ----

const safetensorsFile = 'a.safetensors'

async function openSafetensors(folder: string): Promise<void> {
  await withDevice(async (device) => {
    using file = await SafetensorsFile.open(join(folder, safetensorsFile))
    for (const { name, shape, dtype } of file.entries.values()) {
      if (!['F32', 'BF16', 'F16', 'I32'].includes(dtype)) continue
      using tensor = Tensor.empty(
        device,
        shape.length > 4 ? [shape.reduce((a, b) => a * b, 1)] : shape,
        dtype === 'I32' ? 'i32' : 'f32',
      )
      await file.readTensor(name, tensor)
    }
  })
}

const entry = (dtype: string, shape: unknown, begin: unknown, end: unknown) => ({
  dtype,
  shape,
  data_offsets: [begin, end],
})

/** A header, as text or as an object, and so many bytes of data. */
function withHeader(header: string | object | Buffer, dataBytes = 0, claimed?: bigint): Buffer {
  const text = Buffer.isBuffer(header)
    ? header
    : Buffer.from(typeof header === 'string' ? header : JSON.stringify(header))
  const size = Buffer.alloc(8)
  size.writeBigUInt64LE(claimed ?? BigInt(text.length))
  return Buffer.concat([size, text, Buffer.alloc(dataBytes)])
}

const f32 = (begin: number, end: number) => entry('F32', [(end - begin) / 4], begin, end)

const safetensors: Kind = {
  name: 'safetensors',
  file: safetensorsFile,
  good: () => ({
    [safetensorsFile]: safetensorsBytes({
      a: { dtype: 'F32', shape: [2, 3], bytes: new Float32Array(6) },
      'layers.0.b': { dtype: 'BF16', shape: [5], bytes: new Uint16Array(5) },
      c: { dtype: 'I32', shape: [], bytes: new Int32Array(1) },
    }),
  }),
  open: openSafetensors,
  damages: 10_000,
  everyTruncation: true,
  hostile: () =>
    (
      [
        ['no bytes', Buffer.alloc(0), /fewer than the 8/],
        ['7 bytes', Buffer.alloc(7), /fewer than the 8/],
        ['a header of 2^64 - 1 bytes', withHeader('{}', 0, 2n ** 64n - 1n), /header/],
        ['a header of 2^63 bytes', withHeader('{}', 0, 2n ** 63n), /header/],
        ['a header of over 100 MB', withHeader('{}', 0, 100_000_001n), /header/],
        ['a header past the end', withHeader('{}', 0, 3n), /header/],
        ['bad UTF-8', withHeader(Buffer.from([0x7b, 0x22, 0xff, 0x22, 0x7d])), /UTF-8/],
        ['bad JSON', withHeader('{"a":'), /./],
        ['a list', withHeader('[]'), /./],
        ['no end of nesting', withHeader('{"a":'.repeat(100_000)), /./],
        ['an unknown dtype', withHeader({ a: entry('F128', [1], 0, 16) }, 16), /F128/],
        ['a gap', withHeader({ a: f32(0, 4), b: f32(8, 12) }, 12), /./],
        ['a gap at the start', withHeader({ a: f32(4, 8) }, 8), /./],
        ['an overlap', withHeader({ a: f32(0, 8), b: f32(4, 12) }, 12), /./],
        ['an end before the begin', withHeader({ a: entry('F32', [1], 4, 0) }, 4), /./],
        ['bytes unlike the shape', withHeader({ a: entry('F32', [3], 0, 8) }, 8), /./],
        ['a shape that overflows', withHeader({ a: entry('F32', [2 ** 32, 2 ** 32], 0, 0) }), /./],
        [
          'a shape that overflows to what is there',
          withHeader({ a: entry('F32', [2 ** 31, 2 ** 31, 4], 0, 0) }),
          /./,
        ],
        ['a size below 0', withHeader({ a: entry('F32', [-1, -1], 0, 4) }, 4), /./],
        ['a size of half', withHeader({ a: entry('F32', [0.5], 0, 2) }, 2), /./],
        [
          'offsets over 2^53',
          withHeader(
            `{"a":{"dtype":"U8","shape":[9007199254740993],"data_offsets":[0,9007199254740993]}}`,
          ),
          /./,
        ],
        ['a last offset that is not the end', withHeader({ a: f32(0, 4) }, 5), /./],
        [
          'the same name twice',
          withHeader(
            '{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            1,
          ),
          /./,
        ],
        ['metadata that is no text', withHeader({ __metadata__: { a: 1 } }), /./],
        ['metadata that is a list', withHeader({ __metadata__: [] }), /./],
        ['a name of megabytes', withHeader({ ['x'.repeat(4e6)]: entry('F32', [9], 0, 4) }, 4), /./],
        [
          'many dimensions',
          withHeader(
            {
              a: entry(
                'U8',
                Array.from({ length: 1e5 }, () => 1),
                0,
                2,
              ),
            },
            2,
          ),
          /./,
        ],
      ] as [string, Buffer, RegExp][]
    ).map(([what, bytes, reason]) => ({
      what,
      files: { [safetensorsFile]: bytes },
      open: openSafetensors,
      expected: 'refused',
      reason,
    })),
}

// ---- Model folders ----

const modelFolder = golden('models/qwen2-text/model')

function modelFiles(): Files {
  return Object.fromEntries(
    readdirSync(modelFolder).map((name) => [name, readFileSync(join(modelFolder, name))]),
  )
}

async function openModel(folder: string): Promise<void> {
  await withDevice(async (device) => {
    await using model = await Model.load(folder, { device })
    void model
  })
}

const config: Kind = {
  name: 'config.json',
  file: 'config.json',
  good: () => ({ 'config.json': textOf('models/qwen2-text/model/config.json').trim() }),
  open: readConfig,
  damages: 2_000,
  everyTruncation: true,
  hostile: () => {
    const { 'config.json': text } = config.good() as { 'config.json': string }
    const cases: [string, Files][] = [
      ['missing', {}],
      ['no JSON', { 'config.json': 'model_type: qwen2' }],
      ['a list', { 'config.json': '[]' }],
      ['null', { 'config.json': 'null' }],
      ['nested without end', { 'config.json': '['.repeat(1e6) }],
      ['of megabytes', { 'config.json': `{"a":"${'x'.repeat(2 ** 21)}"}` }],
      ['bad UTF-8', { 'config.json': Buffer.from(text.replace('qwen2', 'qwen\u00ff'), 'latin1') }],
      ...Object.entries({
        hidden_size: [0, -8, 1e9, 2 ** 53, 7.5, '64', null],
        num_hidden_layers: [0, 1e9, NaN],
        num_attention_heads: [0, 3, 1e9],
        vocab_size: [0, 1e18],
        rms_norm_eps: [-1, 'x'],
        rope_parameters: [{ rope_type: 'constructor' }, { rope_type: 'yarn', factor: 1e308 }],
        model_type: ['__proto__', 'bert', 7],
        hidden_act: ['gelu'],
      }).flatMap(([key, values]) =>
        values.map((value): [string, Files] => [
          `${key} ${JSON.stringify(value)}`,
          { 'config.json': withChanges(text, { [key]: value }) },
        ]),
      ),
    ]
    return cases.map(([what, files]) => ({ what, files, open: readConfig, expected: 'refused' }))
  },
}

const model: Kind = {
  name: 'model',
  file: 'config.json',
  good: modelFiles,
  open: openModel,
  damages: 40,
  hostile: () => {
    const files = modelFiles()
    const text = Buffer.from(files['config.json']).toString()
    const index = (shards: Record<string, string>) => {
      const { 'model.safetensors': weights, ...rest } = files
      return {
        ...rest,
        'model-1.safetensors': weights,
        'model.safetensors.index.json': JSON.stringify({ metadata: {}, weight_map: shards }),
      }
    }
    const cases: [string, Files][] = [
      [
        'of terabytes',
        {
          ...files,
          'config.json': withChanges(text, {
            vocab_size: 2 ** 31 - 1,
            hidden_size: 2 ** 20,
            num_attention_heads: 64,
          }),
        },
      ],
      [
        'deeper than its weights',
        {
          ...files,
          'config.json': withChanges(text, { num_hidden_layers: 4000, max_window_layers: 4000 }),
        },
      ],
      ['a shard out of the folder', index({ 'lm_head.weight': '../model-1.safetensors' })],
      ['an absolute shard', index({ 'lm_head.weight': '/etc/passwd' })],
      ['a shard by a name of NUL', index({ 'lm_head.weight': 'a\0.safetensors' })],
      ['no shards', index({})],
      ['weights that are text', { ...files, 'model.safetensors': 'these are no weights' }],
      [
        'a pickle',
        {
          'config.json': text,
          'tokenizer.json': files['tokenizer.json'],
          'pytorch_model.bin': Buffer.from('\x80\x02.'),
        },
      ],
    ]
    return cases.map(([what, damaged]) => ({
      what,
      files: damaged,
      open: openModel,
      expected: 'refused',
    }))
  },
}

// ---- Adapters ----

const adapterFolder = 'adapters/rslora/adapter'
const adapterBase = golden('models/llama-3-scaling/model')

async function openAdapter(folder: string): Promise<void> {
  const base = await readConfig(adapterBase)
  await withDevice(async (device) => {
    const adapter = await loadAdapter(device, base, folder)
    adapter.dispose()
  })
}

const adapter: Kind = {
  name: 'adapter_config.json',
  file: 'adapter_config.json',
  good: () => ({
    'adapter_config.json': textOf(`${adapterFolder}/adapter_config.json`),
    'adapter_model.safetensors': readFileSync(golden(`${adapterFolder}/adapter_model.safetensors`)),
  }),
  open: openAdapter,
  damages: 1_000,
  hostile: () => {
    const { 'adapter_config.json': text, ...rest } = adapter.good() as {
      'adapter_config.json': string
    }
    const cases: [string, object][] = [
      ['rank 2^31', { r: 2 ** 31 }],
      ['rank 0', { r: 0 }],
      ['rank 1e6', { r: 1e6 }],
      ['alpha 1e400', { lora_alpha: 'Infinity' }],
      ['another type', { peft_type: 'IA3' }],
      ['a pattern that backtracks for ever', { target_modules: '(([a-z._0-9]+)+)+$^' }],
      ['a pattern that does not parse', { target_modules: '(((' }],
      ['no modules', { target_modules: [] }],
      ['other modules', { target_modules: ['lm_head_of_another'] }],
      ['patterns of ranks', { rank_pattern: { '(x+)+$': 4, q_proj: -3 } }],
    ]
    const changed = cases.map(([what, changes]): HostileFile => ({
      what,
      files: { ...rest, 'adapter_config.json': withChanges(text, changes) },
      open: openAdapter,
      expected: 'refused',
    }))
    const without: HostileFile = {
      what: 'without tensors',
      files: { 'adapter_config.json': text },
      open: openAdapter,
      expected: 'refused',
    }
    return [...changed, without]
  },
}

const adapterTensors: Kind = {
  ...adapter,
  name: 'adapter_model.safetensors',
  file: 'adapter_model.safetensors',
  damages: 1_000,
  hostile: () => [],
}

export const modelFileKinds: readonly Kind[] = [safetensors, config, model, adapter, adapterTensors]
