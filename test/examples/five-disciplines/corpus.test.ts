import assert from 'node:assert/strict'
import { createHash } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { describe, it } from 'mocha'
import {
  type DisciplineData,
  disciplineNames,
  disciplines,
  factSplits,
  generateCorpus,
  lowResource,
  reserve,
  trainingSizes,
} from '../../../examples/five-disciplines/corpus.js'
import { committedSeed, corpusFiles } from '../../../examples/five-disciplines/generate.js'
import { heldOutFamilies } from '../../../examples/five-disciplines/instruction-families.js'
import { checkInstruction } from '../../../examples/five-disciplines/instructions-check.js'
import {
  pretrainingDocument,
  pretrainingDocuments,
} from '../../../examples/five-disciplines/pretraining.js'
import { instructionTuningRecords } from '../../../examples/five-disciplines/tuning.js'

const folder = new URL('../../../examples/five-disciplines/', import.meta.url)
const corpus = generateCorpus({ seed: committedSeed })
const sha256 = (text: string): string => createHash('sha256').update(text).digest('hex')

/** Lower case, letters and digits only, single spaces: what near-identical text has in common. */
const normalised = (text: string): string =>
  text
    .toLowerCase()
    .replace(/[^\p{L}\p{N}]+/gu, ' ')
    .trim()

const sets: [string, DisciplineData][] = [
  ...Object.entries(corpus.disciplines),
  ['general', corpus.general],
]

/** Every question that validation or test asks, over all sets. */
function heldOutPrompts(): Set<string> {
  const prompts = new Set<string>()
  for (const [, data] of [...sets, ['cross', corpus.cross] as const]) {
    for (const record of [...data.validation, ...data.test]) prompts.add(record.prompt)
    for (const record of [...data.validationChoices, ...data.testChoices])
      prompts.add(record.question)
  }
  for (const record of [...corpus.instructions.validation, ...corpus.instructions.test]) {
    prompts.add(record.prompt)
  }
  return prompts
}

const shares = (values: readonly string[]): Map<string, number> => {
  const counts = new Map<string, number>()
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1)
  return counts
}

describe('five disciplines: the corpus', function () {
  this.timeout(60_000)

  it('equals the committed files', () => {
    const files = corpusFiles(corpus)
    assert.deepEqual(readdirSync(new URL('data/', folder)).sort(), [...files.keys()].sort())
    for (const [name, text] of files) {
      const committed = readFileSync(new URL(`data/${name}`, folder), 'utf8')
      assert.equal(sha256(committed), sha256(text), `${name} is not what generate.ts writes`)
    }
  })

  it('depends on the seed in its records, and on nothing in its splits', () => {
    const sizes = { mathematics: 50, chemistry: 50, biology: 50, medicine: 50, geography: 50 }
    const other = generateCorpus({ seed: committedSeed + 1, sizes })
    assert.notDeepEqual(other.disciplines.geography.test, corpus.disciplines.geography.test)
    for (const name of disciplineNames) {
      const tested = new Set(corpus.disciplines[name].test.map(({ fact }) => fact))
      assert.ok(other.disciplines[name].train.every(({ fact }) => !tested.has(fact)))
    }
  })

  it('has the sizes it promises, 50:1 from mathematics to geography', () => {
    for (const name of disciplineNames) {
      assert.equal(corpus.disciplines[name].train.length, trainingSizes[name])
    }
    assert.equal(trainingSizes.mathematics, 50 * trainingSizes.geography)
  })

  it('repeats one skill in six of ten low-resource training records', () => {
    for (const name of lowResource) {
      const data = corpus.disciplines[name]
      const counts = [...shares(data.train.map(({ skill }) => skill)).values()].sort(
        (a, b) => b - a,
      )
      assert.equal(counts.length, 10)
      assert.equal(counts[0], Math.round(data.train.length * 0.6))
      assert.ok(counts.slice(1).every((count) => count < data.train.length * 0.06))
    }
  })

  it('tests every skill equally', () => {
    for (const name of disciplineNames) {
      const { skills } = disciplines.find((discipline) => discipline.name === name)!
      const counts = shares(corpus.disciplines[name].test.map(({ skill }) => skill))
      assert.equal(counts.size, skills.length)
      // A table of twenty amino acids or eighteen blood values runs out a little earlier.
      for (const [skill, count] of counts)
        assert.ok(count >= 20 && count <= 30, `${skill}: ${count}`)
    }
  })

  it('keeps facts and templates of the splits apart', () => {
    for (const [name, data] of sets) {
      const parts = {
        train: data.train,
        validation: [...data.validation, ...data.validationChoices],
        test: [...data.test, ...data.testChoices],
      }
      for (const key of ['fact', 'template'] as const) {
        const owner = new Map<string, string>()
        for (const [split, records] of Object.entries(parts)) {
          for (const record of records) {
            const value = record[key]
            assert.equal(owner.get(value) ?? split, split, `${name}: ${value} is in two splits`)
            owner.set(value, split)
          }
        }
      }
    }
    const { train, validation, test } = corpus.instructions
    const templates = [train, validation, test].map(
      (set) => new Set(set.map(({ template }) => template)),
    )
    assert.ok(
      [...templates[0]].every(
        (template) => !templates[1].has(template) && !templates[2].has(template),
      ),
    )
    assert.ok([...templates[1]].every((template) => !templates[2].has(template)))
  })

  it('has no question twice in a set, and none of validation or test in training text', () => {
    const heldOut = heldOutPrompts()
    const plain = new Set([...heldOut].map(normalised))
    const training = [
      ...sets.flatMap(([, { train }]) => train.map(({ prompt }) => prompt)),
      ...corpus.instructions.train.map(({ prompt }) => prompt),
      ...instructionTuningRecords({ seed: committedSeed }).flatMap(({ messages }) =>
        messages.filter(({ role }) => role === 'user').map(({ content }) => content),
      ),
      ...reserve('geography', 3000).map(({ prompt }) => prompt),
    ]
    for (const prompt of training) {
      assert.ok(!heldOut.has(prompt), prompt)
      assert.ok(!plain.has(normalised(prompt)), prompt)
    }
    for (const [name, data] of sets) {
      for (const part of ['train', 'validation', 'test'] as const) {
        const prompts = data[part].map(({ prompt }) => prompt)
        assert.equal(new Set(prompts).size, prompts.length, `${name}.${part}`)
      }
    }
  })

  it('has none of them in the pre-training text, and no number that a rule is tested on', () => {
    const plain = [...heldOutPrompts()].map(normalised)
    // Questions by their first four words: a text is searched for those only.
    const byStart = new Map<string, string[]>()
    for (const prompt of plain) {
      const start = prompt.split(' ').slice(0, 4).join(' ')
      byStart.set(start, [...(byStart.get(start) ?? []), prompt])
    }
    const rules = new Set(
      disciplines.flatMap(({ skills }) =>
        skills.filter(({ kind }) => kind === 'rule').map(({ name }) => name),
      ),
    )
    const tested = new Set(
      sets.flatMap(([, data]) =>
        [...data.validation, ...data.validationChoices, ...data.test, ...data.testChoices]
          .filter(({ skill }) => rules.has(skill))
          .map(({ fact }) => fact),
      ),
    )
    for (let index = 0; index < 6000; index++) {
      const { text, facts } = pretrainingDocument(
        committedSeed,
        index,
        index < 3000 ? 'learn' : 'review',
      )
      const words = normalised(text).split(' ')
      const whole = words.join(' ')
      for (let i = 0; i + 4 <= words.length; i++) {
        for (const prompt of byStart.get(words.slice(i, i + 4).join(' ')) ?? []) {
          assert.ok(!whole.includes(prompt), `the pre-training text asks: ${prompt}`)
        }
      }
      for (const fact of facts) assert.ok(!tested.has(fact), `the pre-training text states ${fact}`)
    }
  })

  it('states every tested fact of a table in the pre-training text', () => {
    const stated = new Set<string>()
    for (let index = 0; index < 9000; index++) {
      for (const fact of pretrainingDocument(committedSeed, index).facts) stated.add(fact)
    }
    for (const [name, data] of sets) {
      for (const record of [...data.validation, ...data.test]) {
        if (record.stratum === 'phrasing')
          assert.ok(stated.has(record.fact), `${name}: ${record.fact}`)
      }
    }
  })

  it('balances the positions of right answers, and offers each choice once', () => {
    for (const [name, data] of [...sets, ['cross', corpus.cross] as const]) {
      for (const records of [data.validationChoices, data.testChoices]) {
        const positions = new Map<string, number>()
        for (const { choices, answer } of records) {
          assert.equal(new Set(choices).size, choices.length)
          assert.ok(answer >= 0 && answer < choices.length)
          const key = `${choices.length}:${answer}`
          positions.set(key, (positions.get(key) ?? 0) + 1)
        }
        for (const size of [2, 4]) {
          const counts = Array.from({ length: size }, (_, i) => positions.get(`${size}:${i}`) ?? 0)
          assert.ok(Math.max(...counts) - Math.min(...counts) <= 1, `${name}: ${counts.join(' ')}`)
        }
      }
    }
  })

  it('leaves cross-discipline questions out of every training set', () => {
    const skills = new Set(corpus.cross.test.map(({ skill }) => skill))
    assert.ok(skills.size >= 5)
    for (const record of [...corpus.cross.validation, ...corpus.cross.test]) {
      assert.equal(record.stratum, 'cross')
      assert.equal(record.disciplines?.length, 2)
    }
    const validation = new Set(corpus.cross.validation.map(({ fact }) => fact))
    assert.ok(corpus.cross.test.every(({ fact }) => !validation.has(fact)))
    for (const [, { train }] of sets) assert.ok(train.every(({ skill }) => !skills.has(skill)))
  })

  it('trains on rules with facts of its own split only', () => {
    for (const { name, skills } of disciplines) {
      const train = new Set(corpus.disciplines[name].train.map(({ fact }) => fact))
      for (const fact of train) assert.equal(factSplits.of(fact), 'train')
      assert.ok(skills.length === 10)
    }
    // Translation is built from codons: none that the test asks for may be practised.
    const tested = corpus.disciplines.biology.test
      .filter(({ skill }) => skill === 'codon')
      .map(({ fact }) => fact.slice('codon:'.length))
    const translated = corpus.disciplines.biology.train.filter(
      ({ skill }) => skill === 'translation',
    )
    assert.ok(translated.length > 0 && tested.length > 0)
    for (const { prompt } of translated) assert.ok(tested.every((codon) => !prompt.includes(codon)))
  })

  it('has a fresh reserve as large as the largest discipline', () => {
    for (const name of lowResource) {
      const fresh = reserve(name)
      assert.equal(fresh.length, trainingSizes.mathematics)
      const used = new Set(corpus.disciplines[name].train.map(({ prompt }) => prompt))
      assert.equal(new Set(fresh.map(({ prompt }) => prompt)).size, fresh.length)
      assert.ok(
        fresh.every(({ prompt, fact }) => !used.has(prompt) && factSplits.of(fact) === 'train'),
      )
    }
    assert.throws(() => reserve('alchemy' as 'chemistry'), /the discipline is 'alchemy'/)
  })

  it('puts half of the answers on lines of their own where facts are reviewed', () => {
    const text = (form: 'learn' | 'review'): string[] =>
      Array.from(
        { length: 300 },
        (_, index) => pretrainingDocument(committedSeed, index, form).text,
      )
    const [learn, review] = [text('learn'), text('review')].map((documents) => {
      const stated = documents.join('\n')
      const cards = stated.match(/:\n/g)!.length
      return cards / (cards + stated.match(/\.(\s|$)/g)!.length)
    })
    assert.ok(learn < 0.2, String(learn))
    assert.ok(review > 0.35 && review < 0.6, String(review))
    assert.ok(
      text('review').some((document) => /A land border between .+:\n(yes|no)/.test(document)),
    )
  })

  it('makes a longer pre-training text from a shorter one', () => {
    const short = [...pretrainingDocuments({ seed: 5, tokens: 3000 })]
    const long = [...pretrainingDocuments({ seed: 5, tokens: 9000 })]
    assert.ok(short.length > 5 && long.length > 2 * short.length)
    assert.deepEqual(long.slice(0, short.length), short)
    assert.notDeepEqual([...pretrainingDocuments({ seed: 6, tokens: 3000 })], short)
  })

  it('asks for forms in instructions that the answers have', () => {
    const { train, validation, test } = corpus.instructions
    for (const record of [...train, ...validation, ...test]) {
      assert.ok(checkInstruction(record, record.completion), JSON.stringify(record))
    }
    const families = (records: readonly { skill: string }[]): Set<string> =>
      new Set(records.map(({ skill }) => skill))
    assert.ok(heldOutFamilies.every((family) => families(test).has(family)))
    assert.ok(heldOutFamilies.every((family) => !families(train).has(family)))
    assert.ok(train.every(({ content }) => content === 'general'))
    for (const name of disciplineNames)
      assert.ok(
        test.some(({ content }) => content === name),
        name,
      )
  })

  it('writes a tuning set of chats that end with an answer', () => {
    const records = instructionTuningRecords({ seed: 3, count: 500 })
    assert.equal(records.length, 500)
    assert.deepEqual(instructionTuningRecords({ seed: 3, count: 500 }), records)
    for (const { messages } of records) {
      assert.ok(messages.length % 2 === 0)
      messages.forEach(({ role, content }, index) => {
        assert.equal(role, index % 2 === 0 ? 'user' : 'assistant')
        assert.notEqual(content, '')
      })
    }
  })

  it('gives a surface form different meanings in different disciplines', () => {
    const answers = new Map<string, Set<string>>()
    for (const [name, data] of Object.entries(corpus.disciplines)) {
      for (const { prompt, completion } of [...data.train, ...data.test]) {
        const letter = /\b(?:symbol|code|element|is|does) ([A-Z])\b/.exec(prompt)?.[1]
        if (letter === undefined) continue
        answers.set(letter, (answers.get(letter) ?? new Set()).add(`${name}: ${completion}`))
      }
    }
    const torn = [...answers.values()].filter((found) =>
      ['chemistry', 'biology'].every((name) =>
        [...found].some((answer) => answer.startsWith(name)),
      ),
    )
    assert.ok(torn.length >= 5, `${torn.length} letters mean an element and an amino acid`)
    const units = (name: 'chemistry' | 'medicine'): string =>
      corpus.disciplines[name].train.map(({ completion }) => completion).join('\n')
    assert.match(units('chemistry'), /^\d+ g$/m)
    assert.match(units('medicine'), /^\d+ mg$/m)
  })

  it('names the source of every table', () => {
    const files = readdirSync(new URL('disciplines/', folder))
    assert.ok(files.length >= 8)
    for (const file of files) {
      const head = readFileSync(new URL(`disciplines/${file}`, folder), 'utf8').split('*/')[0]
      if (file !== 'cross.ts') assert.match(head, /Sources?: /, file)
    }
    assert.match(
      readFileSync(new URL('facts/zones.tsv', folder), 'utf8'),
      /^# Source: IANA Time Zone Database/,
    )
    assert.match(readFileSync(new URL('words.ts', folder), 'utf8'), /Source: /)
  })
})
