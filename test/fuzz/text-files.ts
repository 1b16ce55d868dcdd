/** Tokenizers, chat templates, YAML and corpora that do harm. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import * as zlib from 'node:zlib'
import { readYaml } from '../../lib/cli/config-file.js'
import { readRecords } from '../../lib/data/readers/index.js'
import { Tokenizer } from '../../lib/text/index.js'
import { parseTrainConfig } from '../../lib/train/options.js'
import { characterTokenizer } from '../text/helpers.js'
import { type HostileFile, type Kind, textOf } from './kind.js'

// ---- Tokenizers and chat templates ----

async function openTokenizer(folder: string): Promise<void> {
  const tokenizer = await Tokenizer.load(folder, { deadlineMs: 3000, heapLimitMb: 128 })
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
      expected: what.includes('backtracks') ? 'either' : 'refused',
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
      expected: 'refused',
    })),
}

// ---- Configurations ----

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
      expected: 'refused',
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
  corpusKind('a.jsonl.gz', () => zlib.gzipSync(jsonl()), 1_000),
  {
    ...corpusKind('a.jsonl.zst', () => Buffer.from('28b52ffd2400010000', 'hex'), 10),
    unreadable: 'createZstdDecompress' in zlib ? undefined : 'this Node has no zstd',
  },
  ...['plain', 'snappy', 'zstd', 'brotli', 'encodings', 'gzip-pages', 'lz4-pages'].map((name) =>
    corpusKind(`${name}.parquet`, parquet(name), 100),
  ),
]

/** Small files that would become large ones. */
export function bombs(): HostileFile[] {
  const zeros = zlib.gzipSync(Buffer.alloc(1 << 25))
  const line = zlib.gzipSync(Buffer.from(`{"text":"${'x'.repeat(2 ** 24)}"}\n`))
  const repeated = (part: Buffer, times: number) =>
    Buffer.concat(Array.from({ length: times }, () => part))
  return [
    {
      what: 'gigabytes of zeros',
      files: { 'a.jsonl.gz': repeated(zeros, 64) },
      open: openCorpus('a.jsonl.gz'),
      expected: 'refused',
      reason: /ratio/,
    },
    {
      what: 'gzip within gzip',
      files: { 'a.csv.gz': zlib.gzipSync(zlib.gzipSync(Buffer.alloc(1 << 20))) },
      open: openCorpus('a.csv.gz'),
      expected: 'refused',
      reason: /gzip data/,
    },
    {
      what: 'endless lines',
      files: { 'a.jsonl.gz': repeated(line, 40) },
      open: openCorpus('a.jsonl.gz'),
      expected: 'refused',
      reason: /ratio/,
    },
    {
      what: 'a line of lists in lists',
      files: { 'a.jsonl': `${'['.repeat(500_000)}\n` },
      open: openCorpus('a.jsonl'),
      expected: 'either',
    },
    {
      what: 'a quote that never ends',
      files: { 'a.csv': `a,b\n"${'x\n'.repeat(6e5)}` },
      open: openCorpus('a.csv'),
      expected: 'either',
    },
    {
      what: 'a header of columns without end',
      files: { 'a.csv': `${'a,'.repeat(400_000)}\n1` },
      open: openCorpus('a.csv'),
      expected: 'refused',
    },
  ]
}

export const textFileKinds: readonly Kind[] = [tokenizer, template, yaml, ...corpora]
