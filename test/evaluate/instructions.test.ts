import assert from 'node:assert/strict'
import { instructions } from '../../lib/evaluate/instructions/checks.js'
import {
  type InstructionArguments,
  instructionCheck,
} from '../../lib/evaluate/instructions/index.js'
import { goldenJson } from '../golden-files.js'

interface Case {
  instruction: string
  arguments: InstructionArguments
  answer: string
  strict: boolean
  loose: boolean
}

const { cases } = goldenJson<{ cases: Case[] }>('harness/instructions.json')

const check = (id: string, values: InstructionArguments, answer: string) => {
  const { strict, loose } = instructionCheck([id], [values])(answer)
  return { strict: strict[0], loose: loose[0] }
}

describe('verifiable instructions', () => {
  // What the reference counts with nltk or langdetect is checked below.
  const others = [
    'language:response_language',
    'length_constraints:number_sentences',
    'change_case:capital_word_frequency',
    'change_case:english_capital',
    'change_case:english_lowercase',
  ]

  for (const name of Object.keys(instructions).filter((id) => !others.includes(id)))
    it(`${name} as lm-evaluation-harness checks it`, () => {
      const own = cases.filter(({ instruction }) => instruction === name)
      assert.ok(own.some(({ strict }) => strict))
      assert.ok(own.some(({ strict }) => !strict))
      for (const { arguments: values, answer, strict, loose } of own)
        assert.deepEqual(check(name, values, answer), { strict, loose }, JSON.stringify(answer))
    })

  it('counts sentences and capital words', () => {
    const three = { num_sentences: 3, relation: 'at least' }
    const sentences = 'length_constraints:number_sentences'
    assert.ok(check(sentences, three, 'One is short. Is two? Three, of 2.5 g!').strict)
    assert.ok(!check(sentences, three, 'One of 2.5 g is short. Two').strict)
    const two = { capital_frequency: 2, capital_relation: 'less than' }
    const capitals = 'change_case:capital_word_frequency'
    assert.ok(check(capitals, two, 'The DNA is long.').strict)
    assert.ok(!check(capitals, two, 'The DNA and the RNA, A-B.').strict)
  })

  it('tells languages and cases', () => {
    const german =
      'Das Wasser ist eine chemische Verbindung aus den Elementen Sauerstoff und Wasserstoff.'
    const english = 'Water is a chemical compound of the elements oxygen and hydrogen.'
    assert.ok(check('language:response_language', { language: 'de' }, german).strict)
    assert.ok(!check('language:response_language', { language: 'de' }, english).strict)
    assert.ok(check('change_case:english_capital', {}, english.toUpperCase()).strict)
    assert.ok(!check('change_case:english_capital', {}, english).strict)
    assert.ok(!check('change_case:english_capital', {}, german.toUpperCase()).strict)
    assert.ok(check('change_case:english_lowercase', {}, english.toLowerCase()).strict)
    assert.ok(!check('change_case:english_lowercase', {}, english).strict)
  })

  it('says which instruction or argument is wrong', () => {
    const wrong: [string, InstructionArguments, RegExp][] = [
      ['keywords:all', {}, /'keywords:all' is not known; there are keywords:existence, /],
      [
        'keywords:existence',
        {},
        /keywords:existence: keywords must be a list of texts, not missing/,
      ],
      ['keywords:letter_frequency', { letter: '!' }, /letter must be one from a to z, not '!'/],
      [
        'length_constraints:number_words',
        { num_words: 3, relation: 'about' },
        /relation must be 'less than' or 'at least', not 'about'/,
      ],
      ['language:response_language', { language: 'xx' }, /language must be one of ar, /],
    ]
    for (const [id, values, message] of wrong)
      assert.throws(() => instructionCheck([id], [values]), message)
    assert.throws(
      () => instructionCheck(['punctuation:no_comma'], []),
      /1 instructions and arguments for 0/,
    )
  })
})
