import assert from 'node:assert/strict'
import { readFileSync, writeFileSync } from 'node:fs'
import { DuplicateIndex } from '../../lib/laws/duplicates.js'
import { parseStudyConfig, type StudyConfigInput } from '../../lib/laws/study-config.js'
import { prepareData } from '../../lib/laws/study-data.js'
import { Model } from '../../lib/model.js'
import { goldenModel } from '../decoder-logits.js'
import { temporaryFolder } from '../temporary-folder.js'

const completion = (prompt: string, answer: string) => ({
  kind: 'completion' as const,
  prompt,
  completion: answer,
})

describe('near-duplicates', () => {
  const index = new DuplicateIndex()
  index.add(completion('What is the capital of Kenya?', 'Nairobi'), { file: 'a', line: 1 })
  index.add(completion('A dose of 12 mg for 60 kg: how much for each kg?', '0.2 mg'), {
    file: 'a',
    line: 2,
  })

  index.add(completion('2 + 2 = ?', '4'), { file: 'a', line: 3 })

  it('are found through case, spaces and punctuation, and behind other choices', () => {
    const choices = ['Nairobi', 'Mombasa']
    const question = 'What is the capital of Kenya?'
    assert.deepEqual(index.find({ kind: 'choice', question, choices, answer: 0 }), {
      file: 'a',
      line: 1,
    })
    assert.deepEqual(index.find(completion('2+2 =', '4')), { file: 'a', line: 3 })
    for (const prompt of [' what is  the capital of kenya', 'What is the capital, of Kenya!'])
      assert.deepEqual(index.find(completion(prompt, ' nairobi.')), { file: 'a', line: 1 }, prompt)
  })

  it('are found where a letter or two differ', () => {
    const asked =
      'Which of the five large cities in the east of the country is the capital of Kenya today?'
    index.add(completion(asked, 'Nairobi'), { file: 'b', line: 7 })
    const again = completion(asked.replace('today', 'to day'), 'Nairobi')
    assert.deepEqual(index.find(again), { file: 'b', line: 7 })
  })

  it('are not two questions of one template', () => {
    const different: [string, string][] = [
      ['What is the capital of Ghana?', 'Accra'],
      ['What is the capital of Kenya?', 'Mombasa'],
      ['Name the city from which Kenya is governed.', 'Nairobi'],
      ['A dose of 12 mg for 50 kg: how much for each kg?', '0.2 mg'],
      ['2 * 2 = ?', '4'],
    ]
    for (const [prompt, answer] of different)
      assert.equal(index.find(completion(prompt, answer)), null, prompt)
  })
})

describe("a study's data", function () {
  this.timeout(120_000)
  const at = temporaryFolder()
  let model: Model

  before(async () => {
    model = await Model.load(goldenModel('qwen2-text'))
  })
  after(() => model.dispose())

  const write = (name: string, records: readonly object[]) => {
    writeFileSync(at(name), records.map((record) => `${JSON.stringify(record)}\n`).join(''))
    return at(name)
  }
  const sums = (count: number, from = 0) =>
    Array.from({ length: count }, (_, i) => ({
      prompt: `${from + i} plus 1?`,
      completion: ` ${from + i + 1}`,
    }))
  const prepare = (data: StudyConfigInput['data'], changes: Partial<StudyConfigInput> = {}) =>
    prepareData(
      parseStudyConfig({ model: 'm', output: 'o', laws: ['balance'], data, ...changes }),
      model,
      at('prepared'),
      {},
    )
  const lines = (path: string) => readFileSync(path, 'utf8').trimEnd().split('\n')

  it('leaves out training items that are test items, and counts them', async () => {
    const files = {
      train: write('train.jsonl', [...sums(10), { prompt: ' 101  plus 1', completion: '102' }]),
      validation: write('validation.jsonl', sums(4, 50)),
      test: write('test.jsonl', sums(4, 100)),
    }
    const disciplines = { one: files, two: { ...files, train: write('other.jsonl', sums(5, 200)) } }
    const data = await prepare({ disciplines })
    assert.equal(lines(data.disciplines[0].path).length, 10)
    assert.equal(data.disciplines[0].items, 10)
    assert.match(
      data.notes[0],
      /^1 training item of one left out: .*train\.jsonl:11 is .*test\.jsonl:2\)$/,
    )
    await assert.rejects(prepare({ disciplines, duplicates: 'error' }), {
      code: 'ERR_POLYLORA_DATA',
      message:
        /^1 training item of one held out as well.*take them out, or set data\.duplicates: remove$/,
    })
    const same = { ...files, train: files.test }
    await assert.rejects(
      prepare({ disciplines: { one: same, two: files } }),
      /every training item of one is held out as well/,
    )
  })

  it('leaves out validation items that are test items', async () => {
    const files = {
      train: write('train.jsonl', sums(10)),
      validation: write('validation.jsonl', [...sums(4, 50), ...sums(2, 100)]),
      test: write('test.jsonl', sums(4, 100)),
    }
    const disciplines = { one: files, two: { ...files, validation: write('v.jsonl', sums(4, 70)) } }
    const data = await prepare({ disciplines })
    assert.equal(lines(data.sets.get('validation one')!.path).length, 4)
    assert.match(
      data.notes[0],
      /^2 validation items of one left out: tested on as well, or nearly \(.*validation\.jsonl:5 is .*test\.jsonl:1\)$/,
    )
    await assert.rejects(
      prepare({ disciplines, duplicates: 'error' }),
      /^DataError: 2 validation items of one tested on as well.*set data\.duplicates: remove$/,
    )
    await assert.rejects(
      prepare({ disciplines: { one: { ...files, validation: files.test }, two: disciplines.two } }),
      /every validation item of one is tested on as well/,
    )
  })

  it('writes over no file that is read, and none of its own twice', async () => {
    const files = (name: string, from: number) => ({
      train: write(`${name}.train.jsonl`, sums(4, from)),
      validation: write(`${name}.validation.jsonl`, sums(4, from + 10)),
      test: write(`${name}.test.jsonl`, sums(4, from + 20)),
    })
    const data = await prepare({
      disciplines: { 'a b': files('a', 300), 'a-b': files('b', 400), 'A B': files('c', 500) },
    })
    const paths = [...data.disciplines, ...data.sets.values()].map(({ path }) => path)
    assert.equal(new Set(paths).size, 9)
    assert.match(lines(data.disciplines[1].path)[0], /400 plus 1/)
    const own = { ...files('d', 600), test: data.sets.get('test a b')!.path }
    const before = readFileSync(own.test, 'utf8')
    await assert.rejects(prepare({ disciplines: { one: own, two: files('e', 700) } }), {
      code: 'ERR_POLYLORA_CONFIG',
      message: /test-a-b\.jsonl lies in .*prepared, where the study writes its own files; choose/,
    })
    assert.equal(readFileSync(own.test, 'utf8'), before)
  })

  it('divides a corpus where asked, near-duplicates together, the same way every time', async () => {
    const twice = sums(40).flatMap((one) => [one, { ...one, prompt: ` ${one.prompt} ` }])
    const disciplines = {
      one: write('whole.jsonl', twice),
      two: write('whole-2.jsonl', sums(30, 500)),
    }
    const data = await prepare({ disciplines, split: {} })
    const parts = ['test one', 'validation one'].map((name) => lines(data.sets.get(name)!.path))
    const train = lines(data.disciplines[0].path)
    assert.deepEqual([train.length, parts[0].length, parts[1].length], [56, 16, 8])
    const asked = (part: string[]) =>
      new Set(part.map((line) => (JSON.parse(line) as { prompt: string }).prompt.trim()))
    const all = [train, ...parts].map(asked)
    assert.equal(
      all.reduce((sum, one) => sum + one.size, 0),
      40,
      'no question is in two parts',
    )
    assert.equal((await prepare({ disciplines, split: {} })).fingerprint, data.fingerprint)
  })

  it('refuses what has no record, a bad one, or a chance that is none', async () => {
    const files = {
      train: write('a.jsonl', sums(4)),
      validation: write('b.jsonl', sums(4, 10)),
      test: write('c.jsonl', sums(4, 20)),
    }
    const with_ = (change: object) =>
      prepare({ disciplines: { one: { ...files, ...change }, two: files } })
    await assert.rejects(
      with_({ test: write('empty.jsonl', []) }),
      /empty\.jsonl: no record, but the study needs some as data\.disciplines\.one\.test/,
    )
    await assert.rejects(with_({ train: write('bad.jsonl', [{ nothing: 1 }]) }), /bad\.jsonl:1: /)
    await assert.rejects(
      with_({ test: write('chance.jsonl', [{ ...sums(1)[0], chance: 1 }]) }),
      /chance\.jsonl:1: chance must be/,
    )
  })

  it('looks at so many items as it is told, of hashes that do not depend on order', async () => {
    const files = (test: string) => ({ train: at('a.jsonl'), validation: at('b.jsonl'), test })
    const many = sums(50, 600)
    const one = await prepare(
      { disciplines: { one: files(write('m.jsonl', many)), two: files(at('c.jsonl')) } },
      { items: 7 },
    )
    const chosen = lines(one.sets.get('test one')!.path)
    assert.equal(chosen.length, 7)
    const other = await prepare(
      {
        disciplines: {
          one: files(write('m.jsonl', [...many].reverse())),
          two: files(at('c.jsonl')),
        },
      },
      { items: 7 },
    )
    assert.deepEqual(lines(other.sets.get('test one')!.path).sort(), [...chosen].sort())
  })
})
