import assert from 'node:assert/strict'
import { appendFileSync, readFileSync, writeFileSync } from 'node:fs'
import { builtInTasks } from '../../lib/evaluate/tasks/built-in.js'
import { evaluateTask, parseTask, type TaskInput } from '../../lib/evaluate/tasks/index.js'
import { ConfigError, DataError } from '../../lib/errors.js'
import { Model } from '../../lib/model.js'
import { goldenJson, goldenPath } from '../golden-files.js'
import { temporaryFolder } from '../temporary-folder.js'

interface Case {
  records: Record<string, unknown>[]
  examples: Record<string, unknown>[]
  figures: Record<string, number>
  samples: {
    filter: string
    item: number
    acc?: number
    acc_norm?: number
    exact_match?: number
    choices?: number[]
    answer?: string
  }[]
}

const {
  model: modelName,
  maxTokens,
  tasks,
} = goldenJson<{
  model: string
  maxTokens: number
  tasks: Record<string, Case>
}>('harness/tasks.json')

const filterNames: Readonly<Record<string, string>> = {
  'exactMatch.strict': 'strict-match',
  'exactMatch.flexible': 'flexible-extract',
}

describe('tasks', () => {
  const folder = temporaryFolder()
  let model: Model

  before(async () => {
    model = await Model.load(goldenPath(`models/${modelName}/model`), { threads: 1 })
  })
  after(() => model.dispose())

  const write = (name: string, records: readonly object[]): string => {
    const path = folder(name)
    writeFileSync(path, records.map((record) => `${JSON.stringify(record)}\n`).join(''))
    return path
  }
  const choiceTask: TaskInput = {
    kind: 'choice',
    name: 'own',
    prompt: 'Question: {question}\nAnswer:',
    choices: 'choices',
    answer: 'answer',
    group: 'skill',
  }
  const choiceRecords = Array.from({ length: 10 }, (_, i) => ({
    question: `What is ${i} plus 1?`,
    choices: [`${i}`, `${i + 1}`, `${i + 2}`],
    answer: 1,
    skill: i % 2 === 0 ? 'even' : 'odd',
  }))

  for (const [name, { records, examples, figures, samples }] of Object.entries(tasks))
    it(`scores ${name} as lm-evaluation-harness does, item by item`, async () => {
      const task = builtInTasks[name]
      const items: Parameters<NonNullable<Parameters<typeof evaluateTask>[2]['onItem']>>[0][] = []
      const shots = { data: write(`${name}.dev.jsonl`, examples), count: examples.length }
      const result = await evaluateTask(
        model,
        task.kind === 'generation' ? { ...task, maxTokens } : task,
        {
          data: write(`${name}.jsonl`, records),
          shots: examples.length > 0 ? shots : undefined,
          onItem: (item) => items.push(item),
        },
      )
      assert.equal(items.length, records.length)
      for (const sample of samples) {
        const item = items[sample.item]
        if (sample.choices) {
          sample.choices.forEach((expected, i) => {
            const difference = Math.abs(item.choices![i] - expected)
            assert.ok(
              difference < 1e-4 * Math.abs(expected),
              `${item.choices![i]}, not ${expected}`,
            )
          })
          assert.equal(Number(item.scores.accuracy), sample.acc)
          if (sample.acc_norm !== undefined)
            assert.equal(Number(item.scores.accuracyNormalized), sample.acc_norm)
        } else {
          assert.equal(item.answer, sample.answer)
          const figure = Object.keys(filterNames).find((key) => filterNames[key] === sample.filter)!
          assert.equal(Number(item.scores[figure]), sample.exact_match, item.answer)
        }
      }
      for (const { name: figure, value, standardError, interval } of result.figures) {
        const [key, errorKey] =
          figure === 'accuracy'
            ? ['acc', 'acc_stderr']
            : figure === 'accuracyNormalized'
              ? ['acc_norm', 'acc_norm_stderr']
              : [`exact_match,${filterNames[figure]}`, `exact_match_stderr,${filterNames[figure]}`]
        if (!(key in figures)) continue
        assert.ok(Math.abs(value - figures[key]) < 1e-12, `${figure}: ${value}`)
        assert.ok(
          Math.abs(standardError! - figures[errorKey]) < 1e-12,
          `${figure}: ${standardError}`,
        )
        assert.ok(interval[0] <= value && value <= interval[1])
      }
    })

  it('gives figures for each group, and a perplexity with its interval', async () => {
    const data = write('own.jsonl', choiceRecords)
    const result = await evaluateTask(model, choiceTask, { data })
    assert.deepEqual(Object.keys(result.groups), ['even', 'odd'])
    const [even, odd] = ['even', 'odd'].map((group) => result.groups[group][0].value)
    assert.ok(Math.abs((even + odd) / 2 - result.figures[0].value) < 1e-12)
    assert.ok(result.secondsPerItem! > 0)
    const likelihood: TaskInput = {
      kind: 'likelihood',
      name: 'likelihood',
      prompt: '{question}',
      target: '{choices.1}',
    }
    const { figures } = await evaluateTask(model, likelihood, { data })
    const perplexity = figures.find(({ name }) => name === 'perplexity')!
    assert.ok(perplexity.value > 1)
    assert.ok(perplexity.interval[0] <= perplexity.value)
    assert.ok(perplexity.value <= perplexity.interval[1])
  })

  it('asks through the chat template where that is wanted', async () => {
    const data = write('chat.jsonl', [
      { question: 'What is the capital of Japan?', answer: 'Tokyo' },
    ])
    const task: TaskInput = {
      kind: 'generation',
      name: 'chat',
      prompt: '{question}',
      target: '{answer}',
      maxTokens: 16,
    }
    const answers: (string | undefined)[] = []
    const onItem = ({ answer }: { answer?: string }) => answers.push(answer)
    const { figures } = await evaluateTask(model, task, { data, chatTemplate: true, onItem })
    assert.equal(figures[0].value, 1, String(answers))
  })

  it('goes on where a file of scores ends, and refuses that of another evaluation', async () => {
    const data = write('resumed.jsonl', choiceRecords)
    const output = folder('scores.jsonl')
    const whole = await evaluateTask(model, choiceTask, { data, output, identity: 'one' })
    const text = readFileSync(output, 'utf8')
    // Three items and a torn line.
    writeFileSync(output, text.split('\n').slice(0, 4).join('\n') + '\n')
    appendFileSync(output, '{"line":4,"gro')
    let scored = 0
    const options = { data, output, identity: 'one', onItem: () => scored++ }
    const resumed = await evaluateTask(model, choiceTask, options)
    assert.equal(scored, 7)
    assert.deepEqual(resumed.figures, whole.figures)
    assert.equal(readFileSync(output, 'utf8'), text)
    const again = await evaluateTask(model, choiceTask, options)
    assert.equal(scored, 7)
    assert.equal(again.secondsPerItem, null)
    await assert.rejects(
      evaluateTask(model, choiceTask, { ...options, identity: 'two' }),
      (error) => error instanceof ConfigError && /scores of another model/.test(error.message),
    )
    const note = folder('note.jsonl')
    writeFileSync(note, 'mine\n')
    await assert.rejects(evaluateTask(model, choiceTask, { ...options, output: note }), ConfigError)
    assert.equal(readFileSync(note, 'utf8'), 'mine\n')
  })

  it('names the file, the line and what is wrong with a record', async () => {
    const bad: [object, RegExp][] = [
      [{ choices: ['a', 'b'], answer: 0, skill: 's' }, /bad\.jsonl:1: question is missing/],
      [
        { question: 'q', choices: ['a'], answer: 0, skill: 's' },
        /choices must be a list of 2 to 26/,
      ],
      [{ question: 'q', choices: ['a', 'b'], answer: 2, skill: 's' }, /answer must be a choice/],
      [{ question: 'q', choices: ['a', 'b'], answer: 0 }, /skill is missing/],
      [{ question: {}, choices: ['a', 'b'], answer: 0, skill: 's' }, /question must be a text/],
    ]
    for (const [record, message] of bad) {
      const data = write('bad.jsonl', [record])
      await assert.rejects(
        evaluateTask(model, choiceTask, { data }),
        (error) => error instanceof DataError && message.test(error.message),
      )
    }
    const data = write('some.jsonl', [{}, choiceRecords[0]])
    const { items, badRecords } = await evaluateTask(model, choiceTask, {
      data,
      onBadRecord: 'skip',
    })
    assert.deepEqual([items, badRecords], [1, 1])
    const few = write('few.jsonl', choiceRecords.slice(0, 1))
    await assert.rejects(
      evaluateTask(model, choiceTask, { data: few, shots: { data: few, count: 2 } }),
      /there are 1 examples of the group 'even' and 2 are wanted/,
    )
  })

  it('refuses a declaration that it does not understand', () => {
    const wrong: [unknown, RegExp][] = [
      ['mmlu-pro', /the task 'mmlu-pro' is not known; there are mmlu, /],
      [{ kind: 'choice' }, /task: name: /],
      [{ ...choiceTask, choices: ['one'] }, /task: choices: /],
      [{ ...choiceTask, extra: 1 }, /task: .*extra/],
      [
        { kind: 'generation', name: 'n', prompt: 'p', target: 't', ignore: ['('] },
        /task: ignore\.0: not a regular expression/,
      ],
    ]
    for (const [value, message] of wrong)
      assert.throws(
        () => parseTask(value),
        (error) => error instanceof ConfigError && message.test(error.message),
      )
  })
})
