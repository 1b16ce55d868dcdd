/** The kinds of files that come from anyone: a good one, how it is opened, and some that were made to do harm. */

import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { gzipSync } from 'node:zlib'
import { loadAdapter } from '../../lib/adapters/peft.js'
import { readYaml } from '../../lib/cli/config-file.js'
import { readRecords } from '../../lib/data/readers/index.js'
import { Device } from '../../lib/device.js'
import { Model } from '../../lib/model.js'
import { readConfig } from '../../lib/models/index.js'
import { SafetensorsFile } from '../../lib/safetensors.js'
import { Tensor } from '../../lib/tensor.js'
import { Tokenizer } from '../../lib/text/index.js'
import { parseTrainConfig } from '../../lib/train/options.js'
import { safetensorsBytes } from '../safetensors-bytes.js'
import { characterTokenizer } from '../text/helpers.js'

type Files = Record<string, string | Uint8Array>

export interface HostileFile {
  /** What is wrong with it. */
  readonly what: string
  readonly files: Files
  /** As the product opens it. */
  open(folder: string): Promise<unknown>
  /** Otherwise it may happen to be good. */
  readonly mustFail: boolean
  /** What the message says of it. */
  readonly reason?: RegExp
}

export interface Kind {
  readonly name: string
  /** The one of the files that is damaged. */
  readonly file: string
  good(): Files
  open(folder: string): Promise<unknown>
  hostile(): HostileFile[]
  /** How many times it is damaged at random. */
  readonly damages: number
  readonly everyTruncation?: boolean
}

const golden = (path: string) => fileURLToPath(new URL(`../golden/${path}`, import.meta.url))
const textOf = (path: string) => readFileSync(golden(path), 'utf8')

let device: Device | null = null

/** Opens a file on a device, where it must leave nothing. */
async function withDevice(body: (device: Device) => Promise<void>): Promise<void> {
  device ??= Device.open('cpu', { threads: 1, memoryBudget: 1 << 26 })
  let refused: unknown
  try {
    await body(device)
  } catch (error) {
    refused = error
  }
  const { memoryUsed } = device.info
  if (memoryUsed !== 0)
    throw new Error(`${memoryUsed} bytes of device memory are still in use`, { cause: refused })
  if (refused !== undefined) throw refused as Error
}

/** Ends what the kinds share. */
export async function closeDevice(): Promise<void> {
  await device?.close()
  device = null
}

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
      mustFail: true,
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

const withChanges = (text: string, changes: object) =>
  JSON.stringify({ ...(JSON.parse(text) as object), ...changes })

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
    return cases.map(([what, files]) => ({ what, files, open: readConfig, mustFail: true }))
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
      mustFail: true,
    }))
  },
}

// ---- Text ----

async function openTokenizer(folder: string): Promise<void> {
  const tokenizer = await Tokenizer.load(folder, { deadlineMs: 1000, heapLimitMb: 128 })
  try {
    const [ids] = await tokenizer.encode(['Hello, world! aaaaaaaaaaaaaaaaaaaaaaaaaaaaaa!'])
    await tokenizer.decode(ids)
    if (tokenizer.chatTemplate !== undefined)
      await tokenizer.applyChatTemplate([{ role: 'user', content: 'Hello' }])
  } finally {
    await tokenizer.dispose()
  }
}

const tokenizer: Kind = {
  name: 'tokenizer.json',
  file: 'tokenizer.json',
  good: () => ({
    'tokenizer.json': JSON.stringify(characterTokenizer({ merges: ['ab', 'll'], split: '\\s+' })),
  }),
  open: openTokenizer,
  damages: 60,
  hostile: () => {
    const cases: [string, unknown][] = [
      ['no JSON', '{'],
      ['nested without end', '['.repeat(200_000)],
      ['a pattern that backtracks for ever', characterTokenizer({ split: '(a+)+$' })],
      ['a pattern that does not end', characterTokenizer({ split: '((((((((((a' })],
      [
        'an id of 4e9',
        { ...characterTokenizer(), added_tokens: [{ id: 4e9, content: 'x', special: true }] },
      ],
      [
        'a replacement that grows',
        characterTokenizer({
          normalizer: {
            type: 'Sequence',
            normalizers: Array.from({ length: 12 }, () => ({
              type: 'Replace',
              pattern: { Regex: '.' },
              content: 'x'.repeat(1000),
            })),
          },
        }),
      ],
      ['a normalizer in itself', characterTokenizer({ normalizer: nested(2000) })],
      ['an unknown model', { ...characterTokenizer(), model: { type: '__proto__', vocab: {} } }],
    ]
    return cases.map(([what, value]) => ({
      what,
      files: { 'tokenizer.json': typeof value === 'string' ? value : JSON.stringify(value) },
      open: openTokenizer,
      // A pattern may be read by an engine that does not backtrack.
      mustFail: !what.includes('backtracks'),
    }))
  },
}

function nested(depth: number): unknown {
  let value: unknown = { type: 'NFC' }
  for (let i = 0; i < depth; ++i) value = { type: 'Sequence', normalizers: [value] }
  return value
}

const template: Kind = {
  name: 'chat template',
  file: 'chat_template.jinja',
  good: () => ({
    ...tokenizer.good(),
    'chat_template.jinja': textOf('text/templates/chatml.jinja'),
  }),
  open: openTokenizer,
  damages: 40,
  hostile: () =>
    (
      [
        ['a list of two thousand million', '{{ range(2000000000) }}'],
        [
          'a loop in loops',
          '{% for a in range(9999) %}{% for b in range(9999) %}{% for c in range(9999) %}{{ c }}{% endfor %}{% endfor %}{% endfor %}',
        ],
        [
          'text that doubles',
          `{% set n = namespace(v='aaaaaaaa') %}${'{% set n.v = n.v + n.v %}'.repeat(40)}{{ n.v }}`,
        ],
        ['a macro that calls itself', '{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}'],
        ['no end of parentheses', `{{ ${'('.repeat(50_000)}1${')'.repeat(50_000)} }}`],
        ['an open block', '{% for a in messages %}'],
        ['an exception of its own', "{{ raise_exception('no') }}"],
        ['a filter that is none', '{{ messages | nothing }}'],
        ['of megabytes', 'x'.repeat(2 ** 21)],
      ] as const
    ).map(([what, text]) => ({
      what,
      files: { ...tokenizer.good(), 'chat_template.jinja': text },
      open: openTokenizer,
      mustFail: true,
    })),
}

// ---- Adapters and configurations ----

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
    const changed = cases.map(([what, changes]) => ({
      what,
      files: { ...rest, 'adapter_config.json': withChanges(text, changes) },
      open: openAdapter,
      mustFail: true,
    }))
    const without = {
      what: 'without tensors',
      files: { 'adapter_config.json': text },
      open: openAdapter,
      mustFail: true,
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

async function openYaml(folder: string): Promise<void> {
  const file = join(folder, 'run.yaml')
  parseTrainConfig(await readYaml(file), file)
}

const yaml: Kind = {
  name: 'YAML',
  file: 'run.yaml',
  good: () => ({
    'run.yaml': [
      'model: models/a',
      'output: runs/first',
      'method: { kind: lora, rank: 16, targets: all-linear, dropout: 0.05 }',
      'data: { train: [{ path: a.jsonl, weight: 4 }] }',
      'optimizer: { learningRate: 2.0e-4 }',
      'steps: 5',
      '',
    ].join('\n'),
  }),
  open: openYaml,
  damages: 2_000,
  hostile: () =>
    (
      [
        ['nothing', ''],
        ['a list', '- a'],
        [
          'a billion laughs',
          `a: &a [x,x,x,x,x,x,x,x,x]\n${Array.from('bcdefghij', (name, i) => `${name}: &${name} [${Array.from({ length: 9 }, () => `*${'abcdefghij'[i]}`).join()}]`).join('\n')}`,
        ],
        ['an alias of itself', 'a: &a { b: *a }'],
        ['a tag of JavaScript', 'model: !!js/function "function () {}"'],
        ['nested without end', `a: ${'['.repeat(100_000)}`],
        ['nested by dashes', `${'- '.repeat(20_000)}a`],
        ['a key twice', 'model: a\nmodel: b'],
        ['a prototype', '__proto__: { steps: 3 }\nconstructor: 3'],
        ['bytes', Buffer.from([0xff, 0xfe, 0, 1, 2, 3])],
        ['of megabytes', 'x'.repeat(2 ** 21)],
        [
          'numbers out of range',
          'model: a\noutput: b\nmethod: { kind: lora, rank: 1e9 }\ndata: { train: [{ path: a }] }\nsteps: 1',
        ],
        [
          'steps without end',
          'model: a\noutput: b\nmethod: { kind: lora }\ndata: { train: [{ path: a }] }\nsteps: .inf',
        ],
        ['tabs', 'model:\n\t- a'],
      ] as [string, string | Buffer][]
    ).map(([what, text]) => ({
      what,
      files: { 'run.yaml': text },
      open: openYaml,
      mustFail: true,
    })),
}

// ---- Corpora ----

/** Reads a corpus to its end. Bad records are told one by one, each with its line and the reason. */
const openCorpus = (name: string) => async (folder: string) => {
  for await (const one of readRecords(join(folder, name))) {
    if ('record' in one) continue
    if (!(one.line >= 1) || one.reason.length < 5)
      throw new Error(`a bad record without line or reason: ${JSON.stringify(one)}`)
  }
}

function corpusKind(name: string, bytes: () => string | Uint8Array, damages: number): Kind {
  return {
    name,
    file: name,
    good: () => ({ [name]: bytes() }),
    open: openCorpus(name),
    hostile: () => [],
    damages,
  }
}

const jsonl = () =>
  Array.from({ length: 40 }, (_, i) =>
    JSON.stringify({
      prompt: `What is ${i}?`,
      completion: ' A "number", ü 漢',
      nested: { list: [i, null] },
    }),
  ).join('\n')
const csv = () =>
  `question,answer,choices\n${Array.from({ length: 40 }, (_, i) => `"What, ""is"" ${i}?",${i},"a\nb"`).join('\n')}\n`
const parquet = (name: string) => () =>
  readFileSync(new URL(`../data/parquet/${name}.parquet`, import.meta.url))

const corpora: readonly Kind[] = [
  corpusKind('a.jsonl', jsonl, 2_000),
  corpusKind('a.csv', csv, 2_000),
  corpusKind('a.tsv', () => csv().replaceAll(',', '\t'), 500),
  corpusKind('a.jsonl.gz', () => gzipSync(jsonl()), 1_000),
  corpusKind('a.jsonl.zst', () => Buffer.from('28b52ffd2400010000', 'hex'), 10),
  ...['plain', 'snappy', 'zstd', 'brotli', 'encodings', 'gzip-pages', 'lz4-pages'].map((name) =>
    corpusKind(`${name}.parquet`, parquet(name), 100),
  ),
]

/** Small files that would become large ones. */
export function bombs(): HostileFile[] {
  const zeros = gzipSync(Buffer.alloc(1 << 25))
  const line = gzipSync(Buffer.from(`{"text":"${'x'.repeat(2 ** 24)}"}\n`))
  const repeated = (part: Buffer, times: number) =>
    Buffer.concat(Array.from({ length: times }, () => part))
  return [
    {
      what: 'gigabytes of zeros',
      files: { 'a.jsonl.gz': repeated(zeros, 64) },
      open: openCorpus('a.jsonl.gz'),
      mustFail: true,
      reason: /ratio/,
    },
    {
      what: 'gzip within gzip',
      files: { 'a.csv.gz': gzipSync(gzipSync(Buffer.alloc(1 << 20))) },
      open: openCorpus('a.csv.gz'),
      mustFail: true,
      reason: /gzip data/,
    },
    {
      what: 'endless lines',
      files: { 'a.jsonl.gz': repeated(line, 40) },
      open: openCorpus('a.jsonl.gz'),
      mustFail: true,
      reason: /ratio/,
    },
    {
      what: 'a line of lists in lists',
      files: { 'a.jsonl': `${'['.repeat(500_000)}\n` },
      open: openCorpus('a.jsonl'),
      mustFail: false,
    },
    {
      what: 'a quote that never ends',
      files: { 'a.csv': `a,b\n"${'x\n'.repeat(6e5)}` },
      open: openCorpus('a.csv'),
      mustFail: false,
    },
    {
      what: 'a header of columns without end',
      files: { 'a.csv': `${'a,'.repeat(400_000)}\n1` },
      open: openCorpus('a.csv'),
      mustFail: true,
    },
  ]
}

export const kinds: readonly Kind[] = [
  safetensors,
  config,
  model,
  tokenizer,
  template,
  adapter,
  adapterTensors,
  yaml,
  ...corpora,
]
