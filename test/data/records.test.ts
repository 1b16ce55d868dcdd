import assert from 'node:assert/strict'
import { describe, it } from 'mocha'
import { parseRecord } from '../../lib/data/records.js'

const user = { role: 'user', content: 'Hi' }
const assistant = { role: 'assistant', content: 'Hello' }

describe('records', () => {
  it('knows a record by its keys', () => {
    const cases: [Record<string, unknown>, unknown][] = [
      [
        { prompt: 'a', completion: ' b', id: 3 },
        { kind: 'completion', prompt: 'a', completion: ' b' },
      ],
      [
        { prompt: '', completion: 'b' },
        { kind: 'completion', prompt: '', completion: 'b' },
      ],
      [{ text: 'a b' }, { kind: 'text', text: 'a b' }],
      [
        { messages: [user, { ...assistant, name: 'x' }], prompt: 'no' },
        { kind: 'chat', messages: [user, assistant] },
      ],
      [
        { prompt: [user], completion: [assistant] },
        { kind: 'chat', messages: [user, assistant], completionFrom: 1 },
      ],
      // Columns of a table: null where a row has none, lists as JSON.
      [
        { text: null, prompt: 'a', completion: 'b', messages: null },
        { kind: 'completion', prompt: 'a', completion: 'b' },
      ],
      [
        { messages: JSON.stringify([user, assistant]) },
        { kind: 'chat', messages: [user, assistant] },
      ],
    ]
    for (const [fields, expected] of cases) assert.deepEqual(parseRecord(fields), expected)
  })

  it('frames Alpaca records for models without a template', () => {
    assert.deepEqual(parseRecord({ instruction: 'Add.', input: '1 2', output: '3' }), {
      kind: 'completion',
      prompt: 'Add.\n\n1 2',
      completion: '3',
      plainPrompt:
        'Below is an instruction that describes a task, paired with an input that provides further context. Write a response that appropriately completes the request.\n\n### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:\n',
    })
    for (const input of [undefined, null, ''])
      assert.deepEqual(parseRecord({ instruction: 'Sing.', input, output: 'La' }), {
        kind: 'completion',
        prompt: 'Sing.',
        completion: 'La',
        plainPrompt:
          'Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n### Instruction:\nSing.\n\n### Response:\n',
      })
  })

  it('takes the answer of a choice as index, digits, text or letter', () => {
    const answers: [unknown, number][] = [
      [0, 0],
      [2, 2],
      ['1', 1],
      ['C', 2],
      ['b', 1],
      ['water', 1],
      ['A', 2],
    ]
    for (const [answer, index] of answers) {
      const choices = answer === 'A' ? ['C', 'B', 'A'] : ['fire', 'water', 'air']
      for (const given of [choices, JSON.stringify(choices)])
        assert.deepEqual(parseRecord({ question: 'Which?', choices: given, answer }), {
          kind: 'choice',
          question: 'Which?',
          choices,
          answer: index,
        })
    }
  })

  it('says in one clause what is wrong', () => {
    const question = 'Which?'
    const choices = ['a', 'b']
    const cases: [Record<string, unknown>, RegExp][] = [
      [{}, /^no known keys/],
      [{ Prompt: 'a' }, /^no known keys/],
      [{ prompt: 'a' }, /^completion is missing; it must be a text$/],
      [{ completion: 'a' }, /^prompt is missing/],
      [{ prompt: 5, completion: 'a' }, /^prompt must be a text, not 5$/],
      [{ prompt: 'a', completion: { b: 1 } }, /^completion must be a text, not \{"b":1\}$/],
      [{ prompt: 'a', completion: '' }, /^completion is empty$/],
      [{ prompt: 'a', completion: ' \n' }, /^completion is empty$/],
      [{ prompt: 'a\ud800', completion: 'b' }, /^prompt is not valid Unicode$/],
      [{ prompt: [user], completion: 'b' }, /^completion must be a list of messages/],
      [{ prompt: [user], completion: [] }, /^completion is empty$/],
      [{ text: '' }, /^text is empty$/],
      [{ text: ['a'] }, /^text must be a text, not \["a"\]$/],
      [{ instruction: 'a', output: 'b', input: 7 }, /^input must be a text/],
      [{ instruction: 'a' }, /^output is missing/],
      [{ messages: 'hello' }, /^messages must be a list of messages, not "hello"$/],
      [{ messages: '[1' }, /^messages must be a list of messages/],
      [{ messages: [] }, /^messages have no assistant turn$/],
      [{ messages: [user] }, /^messages have no assistant turn$/],
      [{ messages: [user, { ...assistant, content: ' ' }] }, /^every assistant turn is empty$/],
      [{ messages: [null, assistant] }, /^messages\[0\]\.role is missing/],
      [
        { messages: [user, { role: 'assistant', content: 5 }] },
        /^messages\[1\]\.content must be a text/,
      ],
      [{ messages: new Array(1025).fill(assistant) }, /^messages has 1025 messages; at most 1024/],
      [{ question, choices }, /^answer is missing/],
      [{ choices, answer: 0 }, /^question is missing/],
      [
        { question, choices, answer: 2 },
        /^answer must be a choice: its index, 0 to 1, its letter or its text, not 2$/,
      ],
      [{ question, choices, answer: -1 }, /^answer must/],
      [{ question, choices, answer: 0.5 }, /^answer must/],
      [{ question, choices, answer: 'C' }, /^answer must/],
      [{ question, choices, answer: true }, /^answer must/],
      [{ question, choices: ['a'], answer: 0 }, /^choices has 1 entries/],
      [{ question, choices: ['a', 5], answer: 0 }, /^choices\[1\] must be a text/],
      [{ question, choices: ['a', 'a'], answer: 0 }, /^choices has two equal entries$/],
      [{ question, choices: 'ab', answer: 0 }, /^choices must be a list of texts, not "ab"$/],
    ]
    for (const [fields, problem] of cases) {
      const parsed = parseRecord(fields)
      assert.ok('problem' in parsed, JSON.stringify(fields))
      assert.match(parsed.problem, problem)
      assert.ok(parsed.problem.length < 200)
    }
  })

  it('takes no key from a prototype', () => {
    const hostile = JSON.parse('{"__proto__": {"prompt": "a", "completion": "b"}}') as Record<
      string,
      unknown
    >
    assert.ok('problem' in parseRecord(hostile))
    assert.ok('problem' in parseRecord({ constructor: 'a', toString: 'b' }))
    assert.equal(({} as Record<string, unknown>).prompt, undefined)
  })
})
