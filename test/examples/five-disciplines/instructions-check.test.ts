import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import {
  checkConstraint,
  checkInstruction,
  type Constraint,
} from '../../../examples/five-disciplines/instructions-check.js'

/** A constraint, texts that obey it, texts that do not. */
const cases: [Constraint, string[], string[]][] = [
  [{ kind: 'upper-case' }, ['PARIS', ' RIO DE JANEIRO 2\n', 'ÉTÉ'], ['Paris', '42', '', 'PARIs']],
  [{ kind: 'lower-case' }, ['paris', 'a 1'], ['Paris', '1', '']],
  [{ kind: 'title-case' }, ['Red River', 'Éclair'], ['Red river', 'RED River', '', '1 Red']],
  [
    { kind: 'json', key: 'answer' },
    ['{"answer": "blue"}', '{"answer":3}', ' {"answer": true} '],
    [
      '{"answer": null}',
      '{"answer": {}}',
      '{"answer": "a", "b": 1}',
      '{"reply": "a"}',
      '["answer"]',
      'answer',
      '{',
      '',
      'null',
    ],
  ],
  [{ kind: 'word-count', count: 3 }, ['It is red', 'a  b\nc'], ['red', 'one two three four', '']],
  [{ kind: 'starts-with', text: 'Answer:' }, ['Answer: red'], ['answer: red', 'The Answer:', '']],
  [{ kind: 'ends-with', text: '!' }, ['red!', 'red!\n'], ['red', '!red', '']],
  [{ kind: 'repeat', count: 2 }, ['red red', '5 mg 5 mg'], ['red', 'red blue', 'red red red', '']],
  [{ kind: 'repeat', count: 3 }, ['red red red'], ['red red', 'red red blue', '']],
  [
    { kind: 'bullets', count: 2 },
    ['- a\n- b b'],
    ['- a', '- a\nb', '-a\n-b', '- a\n- b\n- c', '- a\n\n- b', ''],
  ],
  [{ kind: 'line-count', count: 2 }, ['a\nb'], ['a', 'a\n\nb', 'a\nb\nc', '']],
  [{ kind: 'comma-list', count: 3 }, ['a, b, c', 'a,b,c d'], ['a, b', 'a, , c', 'a, b,', '']],
  [{ kind: 'wrapped', open: '[', close: ']' }, ['[a]'], ['[]', 'a]', '[a', '[a].', '']],
  [{ kind: 'wrapped', open: '"', close: '"' }, ['"a"'], ['""', '"', 'a', '']],
  [
    { kind: 'contains', text: 'cat' },
    ['the cat.', 'cat', 'a (cat)'],
    ['the cats', 'concat', 'Cat', ''],
  ],
  [{ kind: 'contains', text: 'Cat', ignoreCase: true }, ['the CAT', 'cat!'], ['catalogue', '']],
  [{ kind: 'excludes', text: 'red' }, ['a blue hat'], ['a Red hat', 'tired', '']],
]

describe('five disciplines: checking instructions', () => {
  for (const [constraint, good, bad] of cases) {
    it(JSON.stringify(constraint), () => {
      for (const text of good) assert.ok(checkConstraint(constraint, text), JSON.stringify(text))
      for (const text of bad) assert.ok(!checkConstraint(constraint, text), JSON.stringify(text))
    })
  }

  it('wants every constraint, and at least one', () => {
    const constraints: Constraint[] = [
      { kind: 'contains', text: 'cat' },
      { kind: 'ends-with', text: '.' },
    ]
    assert.ok(checkInstruction({ constraints }, 'A cat.'))
    assert.ok(!checkInstruction({ constraints }, 'A cat'))
    assert.ok(!checkInstruction({ constraints }, 'A dog.'))
    assert.ok(!checkInstruction({ constraints: [] }, 'A cat.'))
  })

  it('stays quick on long and strange texts', () => {
    const long = `${'a '.repeat(50_000)}\n{"answer": `
    for (const [constraint] of cases) checkConstraint(constraint, long)
    assert.ok(!checkConstraint({ kind: 'json', key: '__proto__' }, '{"__proto__": 1, "a": 2}'))
    assert.ok(!checkConstraint({ kind: 'contains', text: '' }, 'anything'))
  })
})
