/** The general set: everyday language, to measure what fine-tuning on disciplines makes a model forget. */
import type { Random } from './random.js'
import { type Case, type Discipline, nearNumbers } from './skill.js'
import {
  days,
  kinds,
  letters,
  months,
  nouns,
  numberWords,
  opposites,
  plurals,
  thingColors,
  withArticle,
} from './words.js'

function neighbours(list: readonly string[], kind: string, others: readonly string[]): Case[] {
  return list.flatMap((item, index) =>
    (
      [
        ['after', 1],
        ['before', -1],
      ] as const
    ).flatMap(([relation, step]) => {
      const answer = list[(index + step + list.length) % list.length]
      if (list === letters && (index + step < 0 || index + step >= list.length)) return []
      return [
        {
          fact: `${kind}:${relation}:${item}`,
          slots: { item, relation, kind, direction: relation === 'after' ? 'follows' : 'precedes' },
          answer,
          wrong: (random: Random) => random.shuffle(others.filter((other) => other !== item)),
        },
      ]
    }),
  )
}

const oppositeCases: Case[] = opposites.flatMap(([a, b]) =>
  [
    [a, b],
    [b, a],
  ].map(([word, answer]) => ({
    fact: `opposite:${a},${b}`,
    slots: { word: word },
    answer: answer,
    wrong: (random: Random) => random.shuffle(opposites.flat().filter((other) => other !== word)),
  })),
)

const colorCases: Case[] = thingColors.map(([thing, color]) => ({
  fact: `color:${thing}`,
  slots: { thing },
  answer: color,
  wrong: (random) => random.shuffle(kinds['color']),
}))

const kindNames = Object.keys(kinds)
const kindCases: Case[] = kindNames
  .filter((kind) => kind !== 'color')
  .flatMap((kind) =>
    kinds[kind].map((word) => ({
      fact: `kind:${word}`,
      slots: { word: withArticle(word), options: '' },
      answer: kind,
      wrong: (random: Random) => random.shuffle(kindNames),
    })),
  )

const pluralCases: Case[] = plurals.map(([word, plural]) => ({
  fact: `plural:${word}`,
  slots: { word },
  answer: plural,
  wrong: () => [`${word}s`, `${word}es`, word, `${word}en`, `${word.slice(0, -1)}ies`],
}))

function biggerNumber(random: Random): Case {
  const bigger = random.below(2) === 0
  const [a, b] = random.sample(
    Array.from({ length: 99 }, (_, i) => i + 1),
    2,
  ) as [number, number]
  return {
    fact: `bigger-number:${Math.min(a, b)},${Math.max(a, b)}`,
    slots: { a, b, word: bigger ? 'bigger' : 'smaller' },
    answer: String(bigger ? Math.max(a, b) : Math.min(a, b)),
    options: [String(a), String(b)],
  }
}

function countWords(random: Random): Case {
  const word = random.pick(nouns)
  const count = random.between(2, 7)
  const other = random.pick(nouns.filter((noun) => noun !== word))
  const words = random.shuffle([
    ...Array<string>(count).fill(word),
    ...Array<string>(random.between(0, 2)).fill(other),
  ])
  return {
    fact: `count-words:${words.join(' ')}:${word}`,
    slots: { words: words.join(' '), word },
    answer: numberWords[count],
    wrong: (r) => nearNumbers(r, count).map((n) => numberWords[Number(n)]),
  }
}

function copy(random: Random): Case {
  const words = random.sample(nouns, random.between(2, 4)).join(' ')
  return {
    fact: `copy:${words}`,
    slots: { words },
    answer: words,
    wrong: (r) => [
      words.split(' ').reverse().join(' '),
      ...Array.from({ length: 4 }, () => r.sample(nouns, words.split(' ').length).join(' ')),
    ],
  }
}

function pickPlace(random: Random): Case {
  const words = random.sample(nouns, 3)
  const place = random.below(3)
  return {
    fact: `pick-place:${words.join(' ')}`,
    slots: { words: words.join(', '), place: ['first', 'second', 'last'][place] },
    answer: words[place],
    options: words,
  }
}

function firstLetter(): Case[] {
  return nouns.map((word) => ({
    fact: `first-letter:${word}`,
    slots: { word },
    answer: word[0],
    wrong: (random) => random.shuffle([...word.slice(1), ...letters]),
  }))
}

export const general: Discipline<'general'> = {
  name: 'general',
  skills: [
    {
      name: 'calendar',
      kind: 'lookup',
      cases: [...neighbours(days, 'day', days), ...neighbours(months, 'month', months)],
      ask: {
        tuning: [
          '{item}: which {kind} is {relation} it?',
          'Please name the {kind} {relation} {item}.',
        ],
        train: [
          'Which {kind} comes {relation} {item}?',
          'What {kind} is {relation} {item}?',
          'Find the {kind} {relation} {item}.',
        ],
        validation: ['Name the {kind} that {direction} {item}.'],
        test: [
          'Give the {kind} right {relation} {item}.',
          'What is the {kind} that {direction} {item}?',
        ],
      },
      say: [
        'The {kind} {relation} {item} is {answer}.',
        '{answer} comes right {relation} {item}.',
        '{answer} is the {kind} that {direction} {item}.',
      ],
    },
    {
      name: 'opposite',
      kind: 'lookup',
      cases: oppositeCases,
      ask: {
        tuning: ['{word} has which opposite?', 'Please say the opposite of {word}.'],
        train: [
          'What is the opposite of {word}?',
          'Which word is the opposite of {word}?',
          'Find the opposite of {word}.',
        ],
        validation: ['Name the opposite of {word}.'],
        test: ['Give the opposite of {word}.', 'What word means the opposite of {word}?'],
      },
      say: [
        'The opposite of {word} is {answer}.',
        '{answer} is the opposite of {word}.',
        'What is not {word} may be {answer}.',
        '{word} and {answer} are opposites.',
      ],
    },
    {
      name: 'color',
      kind: 'lookup',
      cases: colorCases,
      ask: {
        tuning: ['{thing} has which color?', 'Please say the color of {thing}.'],
        train: [
          'What color is {thing}?',
          'What is the color of {thing}?',
          'Which color does {thing} have?',
        ],
        validation: ['Name the color of {thing}.'],
        test: ['Give the color of {thing}.', 'Which color is {thing}?'],
      },
      say: [
        'The color of {thing} is {answer}.',
        'We know that {thing} is {answer}.',
        '{thing} has the color {answer}.',
        'A picture shows {thing} in {answer}.',
      ],
    },
    {
      name: 'kind',
      kind: 'lookup',
      cases: kindCases,
      ask: {
        tuning: ['{word} is which kind of thing?', 'Please say what kind of thing {word} is.'],
        train: ['What kind of thing is {word}?', 'What is {word}?', 'What do we call {word}?'],
        validation: ['Name the kind of thing that {word} is.'],
        test: ['Give the kind of thing for {word}.', 'To what kind of things does {word} belong?'],
      },
      say: [
        '{word} is a kind of {answer}.',
        'We call {word} a {answer}.',
        'One {answer} is {word}.',
      ],
    },
    {
      name: 'plural',
      kind: 'lookup',
      cases: pluralCases,
      ask: {
        tuning: ['{word} has which plural?', 'Please write the plural of {word}.'],
        train: [
          'What is the plural of {word}?',
          'One {word}, two what?',
          'Find the plural of {word}.',
        ],
        validation: ['Name the plural of {word}.'],
        test: ['Give the plural of {word}.', 'How do we say more than one {word}?'],
      },
      say: [
        'The plural of {word} is {answer}.',
        'One {word}, two {answer}.',
        'I see one {word} and many {answer}.',
        'There is a {word} here and three {answer} there.',
      ],
    },
    {
      name: 'bigger-number',
      kind: 'rule',
      draw: biggerNumber,
      ask: {
        tuning: ['{a} or {b}: the {word} one?', 'Please say which is {word}: {a} or {b}.'],
        train: [
          'Which is {word}, {a} or {b}?',
          'Which number is {word}: {a} or {b}?',
          'Find the {word} number: {a}, {b}.',
        ],
        validation: ['Name the {word} number of {a} and {b}.'],
        test: ['Give the {word} of {a} and {b}.', 'Is {a} or {b} the {word} number?'],
      },
      say: [
        'Of {a} and {b}, the {word} number is {answer}.',
        'The {word} of {a} and {b} is {answer}.',
      ],
    },
    {
      name: 'count-words',
      kind: 'rule',
      draw: countWords,
      ask: {
        tuning: ['{words}: how many {word}?', 'Please count {word} in: {words}.'],
        train: [
          'How many times is {word} in: {words}?',
          'Count the word {word} in: {words}.',
          'How often do you see {word} in: {words}?',
        ],
        validation: ['Name how many times {word} is in: {words}.'],
        test: [
          'Give the number of times {word} is in: {words}.',
          'In the list {words}, how many times is {word}?',
        ],
      },
      say: [
        'In {words}, the word {word} is there {answer} times.',
        'The list {words} has {word} {answer} times.',
      ],
    },
    {
      name: 'copy',
      kind: 'rule',
      draw: copy,
      ask: {
        tuning: ['Write this: {words}', 'Please say: {words}'],
        train: ['Copy these words: {words}', 'Say after me: {words}', 'Repeat the words {words}.'],
        validation: ['Write down the words {words}.'],
        test: ['Give back the words {words}.', 'Copy the words {words}.'],
      },
      say: [
        'He said: {words}. She said after him: {words}.',
        'The list says {words}. The copy says {words}.',
      ],
    },
    {
      name: 'pick-place',
      kind: 'rule',
      draw: pickPlace,
      ask: {
        tuning: ['{words}: the {place} word?', 'Please say the {place} word of {words}.'],
        train: [
          'What is the {place} word in {words}?',
          'Which word is {place} in {words}?',
          'Find the {place} word: {words}.',
        ],
        validation: ['Name the {place} word of {words}.'],
        test: ['Give the {place} word of {words}.', 'In the list {words}, which word is {place}?'],
      },
      say: [
        'In the list {words}, the {place} word is {answer}.',
        'The {place} word of {words} is {answer}.',
      ],
    },
    {
      name: 'first-letter',
      kind: 'lookup',
      cases: firstLetter(),
      ask: {
        tuning: ['{word} begins with which letter?', 'Please say the first letter of {word}.'],
        train: [
          'What is the first letter of {word}?',
          'Which letter does {word} begin with?',
          'Find the first letter of {word}.',
        ],
        validation: ['Name the first letter of {word}.'],
        test: ['Give the first letter of {word}.', 'With which letter does the word {word} start?'],
      },
      say: [
        'The word {word} begins with the letter {answer}.',
        'The first letter of {word} is {answer}.',
        '{answer} is the first letter of {word}.',
      ],
    },
  ],
}
