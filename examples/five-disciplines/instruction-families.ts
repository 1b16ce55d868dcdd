/** The families of instructions: how they are asked, what obeys them, how that is checked. */
import type { Constraint } from './instructions-check.js'
import type { Random } from './random.js'
import type { Templates } from './skill.js'
import { adjectives, kinds, nouns, numberWords, places, verbs, withArticle } from './words.js'

export interface Draft {
  slots: Record<string, string | number>
  completion: string
  constraints: readonly Constraint[]
  fact: string
}

export interface QuestionFamily {
  name: string
  kind: 'question'
  ask: Templates
  /** Disciplines whose answers never suit the demand. */
  unfit?: readonly string[]
  /** What to answer; undefined where the answer does not suit the demand. */
  form: (answer: string, random: Random) => Omit<Draft, 'fact'> | undefined
}

export interface TaskFamily {
  name: string
  kind: 'task'
  ask: Templates
  draw: (random: Random) => Draft
}

export type Family = QuestionFamily | TaskFamily

const hasLetter = (text: string): boolean => /[A-Za-z]/.test(text)
const oneWord = (text: string): boolean => !text.includes(' ')

const leads = ['', 'Just', 'It is', 'The answer is', 'I think it is'] as const
const endings = ['done', 'thanks', 'bye', 'ready'] as const
const openings = ['Answer:', 'Sure:', 'Well,', 'Reply:'] as const

/** "three animals": plural of a kind, and its members. */
const listable: readonly (readonly [string, string])[] = [
  ['animals', 'animal'],
  ['fruits', 'fruit'],
  ['colors', 'color'],
  ['tools', 'tool'],
  ['clothes', 'piece of clothing'],
  ['vehicles', 'vehicle'],
]

function listDraft(
  random: Random,
  glue: (words: string[]) => string,
  constraint: (count: number) => Constraint,
): Draft {
  const [plural, kind] = random.pick(listable)
  const count = random.between(2, 5)
  const words = random.sample(kinds[kind], count)
  return {
    slots: { n: numberWords[count], things: plural },
    completion: glue(words),
    constraints: [constraint(count)],
    // Few different requests exist: the count and kind together are the content.
    fact: `${count} ${plural}`,
  }
}

const sentence = (random: Random, noun: string): string =>
  `The ${random.pick(adjectives)} ${noun} ${random.pick(verbs)} ${random.pick(places)}.`

export const families: readonly Family[] = [
  {
    name: 'upper-case',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use upper case.',
        'In upper case: {question}',
        '{question} Please write in upper case.',
      ],
      train: [
        '{question} Answer in upper case.',
        'Answer in upper case. {question}',
        '{question} Write upper case letters only.',
      ],
      validation: ['Use upper case letters for the answer. {question}'],
      test: [
        '{question} Give the answer in upper case.',
        'Write the answer in upper case letters. {question}',
      ],
    },
    unfit: ['mathematics'],
    form: (answer) =>
      hasLetter(answer)
        ? { slots: {}, completion: answer.toUpperCase(), constraints: [{ kind: 'upper-case' }] }
        : undefined,
  },
  {
    name: 'json',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use JSON with the key answer.',
        'In JSON with the key answer: {question}',
        '{question} Please write JSON with the key answer.',
      ],
      train: [
        '{question} Answer in JSON with the key answer.',
        'Answer in JSON with the key answer. {question}',
      ],
      validation: ['Use JSON with the key answer for this. {question}'],
      test: [
        '{question} Give the answer as JSON with the key answer.',
        'Write the answer in JSON with the key answer. {question}',
      ],
    },
    form: (answer) => ({
      slots: {},
      completion: JSON.stringify({ answer }).replace(':', ': '),
      constraints: [{ kind: 'json', key: 'answer' }],
    }),
  },
  {
    name: 'word-count',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use exactly {n} {words}.',
        'In exactly {n} {words}: {question}',
        '{question} Please write exactly {n} {words}.',
      ],
      train: [
        '{question} Answer in exactly {n} {words}.',
        'Answer in exactly {n} {words}. {question}',
      ],
      validation: ['Use exactly {n} {words} for the answer. {question}'],
      test: [
        '{question} Give the answer in exactly {n} {words}.',
        'Write exactly {n} {words} as the answer. {question}',
      ],
    },
    form: (answer, random) => {
      if (!oneWord(answer)) return undefined
      const lead = random.pick(leads)
      const completion = lead === '' ? answer : `${lead} ${answer}`
      const count = completion.split(' ').length
      return {
        slots: { n: numberWords[count], words: count === 1 ? 'word' : 'words' },
        completion,
        constraints: [{ kind: 'word-count', count }],
      }
    },
  },
  {
    name: 'repeat',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Repeat it {times}.',
        'Said {times}: {question}',
        '{question} Please say it {times}.',
      ],
      train: ['{question} Say the answer {times}.', 'Say the answer {times}. {question}'],
      validation: ['Repeat the answer {times} for this. {question}'],
      test: ['{question} Give the answer {times}.', 'Write the answer {times}. {question}'],
    },
    form: (answer, random) => {
      const count = random.between(2, 3)
      return {
        slots: { times: count === 2 ? 'twice' : 'three times' },
        completion: Array<string>(count).fill(answer).join(' '),
        constraints: [{ kind: 'repeat', count }],
      }
    },
  },
  {
    name: 'exclamation',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use an exclamation mark.',
        'With an exclamation mark: {question}',
        '{question} Please end with an exclamation mark.',
      ],
      train: [
        '{question} Answer with an exclamation mark at the end.',
        'End the answer with an exclamation mark. {question}',
      ],
      validation: ['Use an exclamation mark at the end. {question}'],
      test: [
        '{question} Give the answer with an exclamation mark.',
        'Write an exclamation mark after the answer. {question}',
      ],
    },
    form: (answer) => ({
      slots: {},
      completion: `${answer}!`,
      constraints: [{ kind: 'ends-with', text: '!' }],
    }),
  },
  {
    name: 'quotes',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use quotes.',
        'In quotes: {question}',
        '{question} Please put it in quotes.',
      ],
      train: ['{question} Answer in quotes.', 'Put the answer in quotes. {question}'],
      validation: ['Use quotes for the answer. {question}'],
      test: ['{question} Give the answer in quotes.', 'Write the answer in quotes. {question}'],
    },
    form: (answer) => ({
      slots: {},
      completion: `"${answer}"`,
      constraints: [{ kind: 'wrapped', open: '"', close: '"' }],
    }),
  },
  {
    name: 'opening',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Start with "{text}".',
        'With "{text}" at the start: {question}',
        '{question} Please begin with "{text}".',
      ],
      train: [
        '{question} Begin the answer with "{text}".',
        'Start the answer with "{text}". {question}',
      ],
      validation: ['Begin with "{text}" for this. {question}'],
      test: [
        '{question} Give the answer and start with "{text}".',
        'Write "{text}" at the start. {question}',
      ],
    },
    form: (answer, random) => {
      const text = random.pick(openings)
      return {
        slots: { text },
        completion: `${text} ${answer}`,
        constraints: [{ kind: 'starts-with', text }],
      }
    },
  },
  {
    name: 'ending',
    kind: 'question',
    ask: {
      tuning: [
        '{question} End with the word {text}.',
        'With the word {text} at the end: {question}',
        '{question} Please finish with the word {text}.',
      ],
      train: [
        '{question} Finish the answer with the word {text}.',
        'End the answer with the word {text}. {question}',
      ],
      validation: ['Finish with the word {text} for this. {question}'],
      test: [
        '{question} Give the answer and end with the word {text}.',
        'Write the word {text} at the end. {question}',
      ],
    },
    form: (answer, random) => {
      const text = random.pick(endings)
      return {
        slots: { text },
        completion: `${answer} ${text}`,
        constraints: [{ kind: 'ends-with', text }],
      }
    },
  },
  {
    name: 'lower-case',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use lower case.',
        'In lower case: {question}',
        '{question} Please write in lower case.',
      ],
      train: ['{question} Answer in lower case.', 'Answer in lower case. {question}'],
      validation: ['Use lower case letters for the answer. {question}'],
      test: [
        '{question} Give the answer in lower case.',
        'Write the answer in lower case letters. {question}',
      ],
    },
    unfit: ['mathematics'],
    form: (answer) =>
      hasLetter(answer)
        ? { slots: {}, completion: answer.toLowerCase(), constraints: [{ kind: 'lower-case' }] }
        : undefined,
  },
  {
    name: 'brackets',
    kind: 'question',
    ask: {
      tuning: [
        '{question} Use square brackets.',
        'In square brackets: {question}',
        '{question} Please put it in square brackets.',
      ],
      train: [
        '{question} Answer in square brackets.',
        'Put the answer in square brackets. {question}',
      ],
      validation: ['Use square brackets for the answer. {question}'],
      test: [
        '{question} Give the answer in square brackets.',
        'Write the answer in square brackets. {question}',
      ],
    },
    form: (answer) => ({
      slots: {},
      completion: `[${answer}]`,
      constraints: [{ kind: 'wrapped', open: '[', close: ']' }],
    }),
  },
  {
    name: 'bullets',
    kind: 'task',
    ask: {
      tuning: [
        '{n} {things} as bullets.',
        'Please list {n} {things} as bullets.',
        'Use bullets for {n} {things}.',
      ],
      train: ['List {n} {things} as bullets.', 'Write a bullet list of {n} {things}.'],
      validation: ['Make a bullet list of {n} {things}.'],
      test: ['Give {n} {things} as bullets.', 'Name {n} {things} in a bullet list.'],
    },
    draw: (random) =>
      listDraft(
        random,
        (words) => words.map((word) => `- ${word}`).join('\n'),
        (count) => ({ kind: 'bullets', count }),
      ),
  },
  {
    name: 'comma-list',
    kind: 'task',
    ask: {
      tuning: [
        '{n} {things} with commas.',
        'Please list {n} {things} with commas.',
        'Use commas for {n} {things}.',
      ],
      train: ['List {n} {things} with commas.', 'Write {n} {things} with commas between them.'],
      validation: ['Make a list of {n} {things} with commas.'],
      test: ['Give {n} {things} with commas.', 'Name {n} {things} with commas between them.'],
    },
    draw: (random) =>
      listDraft(
        random,
        (words) => words.join(', '),
        (count) => ({ kind: 'comma-list', count }),
      ),
  },
  {
    name: 'lines',
    kind: 'task',
    ask: {
      tuning: [
        '{n} {things}, one on each line.',
        'Please list {n} {things}, one on each line.',
        'Use one line for each of {n} {things}.',
      ],
      train: ['List {n} {things}, one on each line.', 'Write {n} {things} with one on each line.'],
      validation: ['Make a list of {n} {things}, one on each line.'],
      test: ['Give {n} {things}, one on each line.', 'Name {n} {things} with one on each line.'],
    },
    draw: (random) =>
      listDraft(
        random,
        (words) => words.join('\n'),
        (count) => ({ kind: 'line-count', count }),
      ),
  },
  {
    name: 'with-word',
    kind: 'task',
    ask: {
      tuning: [
        'A sentence with {word}.',
        'Please write a sentence that has the word {word}.',
        'Use the word {word} in a sentence.',
      ],
      train: [
        'Write a sentence with the word {word}.',
        'Make a sentence that has the word {word}.',
      ],
      validation: ['Put the word {word} in a sentence.'],
      test: ['Give a sentence with the word {word}.', 'Write a sentence and use the word {word}.'],
    },
    draw: (random) => {
      const word = random.pick(nouns)
      return {
        slots: { word },
        completion: sentence(random, word),
        constraints: [
          { kind: 'contains', text: word, ignoreCase: true },
          { kind: 'ends-with', text: '.' },
        ],
        fact: word,
      }
    },
  },
  {
    name: 'without-word',
    kind: 'task',
    ask: {
      tuning: [
        'About {topic}, but no {word}.',
        'Please write about {topic} with no {word} in it.',
        'Do not use {word}, but write about {topic}.',
      ],
      train: [
        'Write about {topic}, but do not use the word {word}.',
        'Do not use the word {word}. Write about {topic}.',
      ],
      validation: ['Leave out the word {word} and write about {topic}.'],
      test: [
        'Give a sentence about {topic} but not the word {word}.',
        'Write about {topic} and never use the word {word}.',
      ],
    },
    draw: (random) => {
      const noun = random.pick(nouns)
      const word = random.pick(adjectives.filter((adjective) => !noun.includes(adjective)))
      let text = sentence(random, noun)
      while (text.includes(word)) text = sentence(random, noun)
      return {
        slots: { topic: withArticle(noun), word },
        completion: text,
        constraints: [
          { kind: 'excludes', text: word },
          { kind: 'contains', text: noun, ignoreCase: true },
        ],
        fact: `${noun},${word}`,
      }
    },
  },
  {
    name: 'short-phrase',
    kind: 'task',
    ask: {
      tuning: [
        'About {topic}, {n} words.',
        'Please write {n} words about {topic}.',
        'Use {n} words for {topic}.',
      ],
      train: [
        'Write exactly {n} words about {topic}.',
        'Tell me about {topic} in exactly {n} words.',
      ],
      validation: ['Say exactly {n} words about {topic}.'],
      test: [
        'Give exactly {n} words about {topic}.',
        'Write about {topic} with exactly {n} words.',
      ],
    },
    draw: (random) => {
      const noun = random.pick(nouns)
      const count = random.between(2, 5)
      const adjective = random.pick(adjectives)
      const phrase = [
        [adjective, noun],
        ['the', adjective, noun],
        ['the', adjective, noun, random.pick(verbs)],
        ['here', 'the', adjective, noun, random.pick(verbs)],
      ][count - 2]
      return {
        slots: { topic: withArticle(noun), n: numberWords[count] },
        completion: phrase.join(' '),
        constraints: [{ kind: 'word-count', count }],
        fact: `${noun},${count}`,
      }
    },
  },
]

/** In the instruction-tuning set and the test, not in the alignment data nor in validation. */
export const heldOutFamilies: readonly string[] = ['ending', 'lower-case', 'brackets', 'lines']
