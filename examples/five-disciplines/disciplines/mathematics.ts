/**
 * Mathematics. Source: the rules of arithmetic; every answer is computed exactly. Numbers stay within what a model of
 * three million parameters learns to compute in twenty million tokens.
 */
import type { Random } from '../random.js'
import { type Case, type Discipline, nearNumbers } from '../skill.js'

const pair = (a: number, b: number): string => `${Math.min(a, b)},${Math.max(a, b)}`

function addition(random: Random): Case {
  const a = random.between(2, 99)
  const b = random.between(2, 99)
  return {
    fact: `addition:${pair(a, b)}`,
    slots: { a, b },
    answer: String(a + b),
    wrong: (r) => nearNumbers(r, a + b),
  }
}

function subtraction(random: Random): Case {
  const b = random.between(2, 90)
  const answer = random.between(1, 99 - b)
  const a = answer + b
  return {
    fact: `subtraction:${a},${b}`,
    slots: { a, b },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

function timesTable(): Case[] {
  const cases: Case[] = []
  for (let a = 2; a <= 12; a++) {
    for (let b = a; b <= 12; b++) {
      for (const [first, second] of a === b
        ? [[a, b]]
        : [
            [a, b],
            [b, a],
          ]) {
        cases.push({
          fact: `times-table:${a},${b}`,
          subject: `the ${a} times table`,
          slots: { a: first, b: second },
          answer: String(a * b),
          wrong: (r) => r.shuffle([a * b + a, a * b - a, a * b + b, a * b - b, a + b]).map(String),
        })
      }
    }
  }
  return cases
}

function product(random: Random): Case {
  const a = random.between(13, 30)
  const b = random.between(2, 9)
  return {
    fact: `product:${a},${b}`,
    slots: { a, b },
    answer: String(a * b),
    wrong: (r) => [...r.shuffle([a * b + a, a * b - a]).map(String), ...nearNumbers(r, a * b)],
  }
}

function division(random: Random): Case {
  const b = random.between(2, 10)
  const answer = random.between(2, 20)
  return {
    fact: `division:${answer * b},${b}`,
    slots: { a: answer * b, b },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

function squares(): Case[] {
  return Array.from({ length: 29 }, (_, index) => {
    const n = index + 2
    return {
      fact: `square:${n}`,
      subject: 'square numbers',
      slots: { n },
      answer: String(n * n),
      wrong: (r) =>
        r.shuffle([(n + 1) ** 2, (n - 1) ** 2, 2 * n, n * n + n, n * n - n]).map(String),
    }
  })
}

function sequence(random: Random): Case {
  const step = random.between(2, 10)
  const start = random.between(1, 40)
  const falling = random.below(3) === 0
  const terms = Array.from({ length: 5 }, (_, i) => start + step * (falling ? 4 - i : i))
  const answer = terms[4]
  return {
    fact: `sequence:${terms[0]},${terms[1]}`,
    slots: { terms: terms.slice(0, 4).join(', '), first: terms[0], last: terms[3] },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

function equation(random: Random): Case {
  const x = random.between(1, 12)
  const a = random.between(1, 5)
  const b = random.between(1, 20)
  const left = `${a === 1 ? 'x' : `${a}x`} + ${b}`
  return {
    fact: `equation:${a},${b},${x}`,
    slots: { equation: `${left} = ${a * x + b}` },
    answer: String(x),
    wrong: (r) => nearNumbers(r, x),
  }
}

function remainder(random: Random): Case {
  const b = random.between(3, 10)
  const a = random.between(b + 1, 60)
  const others = Array.from({ length: b }, (_, i) => String(i))
  return {
    fact: `remainder:${a},${b}`,
    slots: { a, b },
    answer: String(a % b),
    wrong: (r) => [...r.shuffle(others), ...nearNumbers(r, b)],
  }
}

function percentage(random: Random): Case {
  const percent = random.pick([10, 20, 25, 30, 40, 50, 60, 75, 80, 90])
  const unit = percent % 10 === 0 ? 10 : 4
  const whole = unit * random.between(1, Math.floor(200 / unit))
  const answer = (percent * whole) / 100
  return {
    fact: `percentage:${percent},${whole}`,
    slots: { percent, whole },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

export const mathematics: Discipline<'mathematics'> = {
  name: 'mathematics',
  skills: [
    {
      name: 'addition',
      kind: 'rule',
      draw: addition,
      ask: {
        tuning: ['{a} + {b} = ?', 'Please add {a} to {b}.'],
        train: [
          'What is {a} + {b}?',
          'Add {a} and {b}.',
          '{a} plus {b} is what number?',
          'Find the sum of {a} and {b}.',
          'Compute {a} + {b}.',
        ],
        validation: ['What do you get when you add {b} to {a}?', 'Work out {a} plus {b}.'],
        test: [
          'How much is {a} plus {b}?',
          'Give the total of {a} and {b}.',
          'A box has {a} pens and we put in {b} more. How many pens are in the box?',
        ],
      },
      say: [
        '{a} + {b} = {answer}.',
        '{a} plus {b} equals {answer}.',
        'The sum of {a} and {b} is {answer}.',
        'Adding {b} to {a} gives {answer}.',
        'If you add {a} and {b}, you get {answer}.',
        'A total of {a} and {b} is {answer}.',
      ],
    },
    {
      name: 'subtraction',
      kind: 'rule',
      draw: subtraction,
      ask: {
        tuning: ['{a} - {b} = ?', 'Please take {b} from {a}.'],
        train: [
          'What is {a} - {b}?',
          'Subtract {b} from {a}.',
          '{a} minus {b} is what number?',
          'Find the difference of {a} and {b}.',
          'Compute {a} - {b}.',
        ],
        validation: ['What is left when you take {b} from {a}?', 'Work out {a} minus {b}.'],
        test: [
          'How much is {a} minus {b}?',
          'Give the difference between {a} and {b}.',
          'A box has {a} pens and we take out {b}. How many pens are left?',
        ],
      },
      say: [
        '{a} - {b} = {answer}.',
        '{a} minus {b} equals {answer}.',
        'The difference of {a} and {b} is {answer}.',
        'Taking {b} from {a} leaves {answer}.',
        'If you subtract {b} from {a}, you get {answer}.',
        '{a} is {b} more than {answer}.',
      ],
    },
    {
      name: 'times-table',
      kind: 'lookup',
      cases: timesTable(),
      ask: {
        tuning: ['{a} x {b} = ?', 'In the times table, what is {a} by {b}?'],
        train: [
          'What is {a} x {b}?',
          'Multiply {a} by {b}.',
          '{a} times {b} is what number?',
          'Find the product of {a} and {b}.',
          'Compute {a} x {b}.',
        ],
        validation: ['What do you get when you multiply {a} by {b}?', 'Work out {a} times {b}.'],
        test: [
          'How much is {a} times {b}?',
          'Give the product of {a} and {b}.',
          'There are {a} boxes with {b} pens each. How many pens are there?',
        ],
      },
      say: [
        '{a} x {b} = {answer}.',
        '{a} times {b} equals {answer}.',
        'The product of {a} and {b} is {answer}.',
        'Multiplying {a} by {b} gives {answer}.',
        'If you have {a} rows of {b}, you have {answer}.',
        '{answer} is {a} times {b}.',
      ],
    },
    {
      name: 'product',
      kind: 'rule',
      draw: product,
      ask: {
        tuning: ['Find {a} x {b} =', 'Please multiply the number {a} by {b}.'],
        train: [
          'Calculate {a} x {b}.',
          'What is {a} multiplied by {b}?',
          'Multiply the numbers {a} and {b}.',
          'What number is {b} times as big as {a}?',
        ],
        validation: [
          'Find the value of {a} x {b}.',
          'Take {a} exactly {b} times. What is the result?',
        ],
        test: [
          'Give the value of {a} x {b}.',
          'How many are {b} groups of {a}?',
          'A bus has {a} seats. How many seats do {b} buses have?',
        ],
      },
      say: [
        '{a} x {b} = {answer}.',
        '{b} times {a} is {answer}.',
        '{b} groups of {a} make {answer}.',
        '{a} multiplied by {b} equals {answer}.',
        'The value of {a} x {b} is {answer}.',
      ],
    },
    {
      name: 'division',
      kind: 'rule',
      draw: division,
      ask: {
        tuning: ['{a} / {b} = ?', 'Please divide the number {a} by {b}.'],
        train: [
          'What is {a} / {b}?',
          'Divide {a} by {b}.',
          '{a} divided by {b} is what number?',
          'Find the quotient of {a} and {b}.',
          'How often does {b} go into {a}?',
        ],
        validation: ['What do you get when you divide {a} by {b}?', 'Work out {a} divided by {b}.'],
        test: [
          'How much is {a} divided by {b}?',
          'Give the quotient of {a} and {b}.',
          '{b} friends share {a} pens. How many pens does each friend get?',
        ],
      },
      say: [
        '{a} / {b} = {answer}.',
        '{a} divided by {b} equals {answer}.',
        'The quotient of {a} and {b} is {answer}.',
        'Dividing {a} by {b} gives {answer}.',
        '{b} goes into {a} exactly {answer} times.',
      ],
    },
    {
      name: 'square',
      kind: 'lookup',
      cases: squares(),
      ask: {
        tuning: ['{n} to the power of 2 = ?', 'Please square the number {n}.'],
        train: [
          'What is {n} squared?',
          'What is the square of {n}?',
          'Square {n}.',
          'Compute {n} x {n}.',
          'Find the area of a square with side {n}.',
        ],
        validation: ['Work out {n} squared.', 'Which number is {n} times itself?'],
        test: [
          'Give the square of {n}.',
          'How much is {n} squared?',
          'A square garden has sides of {n} steps. What is its area?',
        ],
      },
      say: [
        'The square of {n} is {answer}.',
        '{n} squared equals {answer}.',
        '{n} x {n} = {answer}.',
        '{answer} is the square of {n}.',
        'A square with side {n} has area {answer}.',
        'If you multiply {n} by itself, you get {answer}.',
      ],
    },
    {
      name: 'sequence',
      kind: 'rule',
      draw: sequence,
      ask: {
        tuning: ['{terms}, ?', 'Please go on with one more number: {terms}.'],
        train: [
          'What number comes next: {terms}?',
          'Continue the sequence {terms}.',
          'Find the next term of {terms}.',
          '{terms}: what is the next number?',
        ],
        validation: ['Which term follows in {terms}?', 'Extend by one number: {terms}.'],
        test: [
          'Give the next number after {terms}.',
          'The numbers {terms} follow a rule. What is the fifth number?',
          'Which number goes on the list {terms}?',
        ],
      },
      say: [
        'The sequence {terms} goes on with {answer}.',
        'After {terms} comes {answer}.',
        'The next term of {terms} is {answer}.',
        '{terms}, {answer}.',
      ],
    },
    {
      name: 'equation',
      kind: 'rule',
      draw: equation,
      ask: {
        tuning: ['{equation}, x = ?', 'Please find the number x when {equation}.'],
        train: [
          'Solve {equation}.',
          'If {equation}, what is x?',
          'Find x: {equation}.',
          'What is the value of x in {equation}?',
        ],
        validation: ['Work out x from {equation}.', 'Which number is x when {equation}?'],
        test: [
          'Give x for the equation {equation}.',
          'The equation {equation} holds. What number is x?',
          'Which x makes {equation} true?',
        ],
      },
      say: [
        'If {equation}, then x = {answer}.',
        'The solution of {equation} is x = {answer}.',
        'In {equation}, x is {answer}.',
        'Solving {equation} gives x = {answer}.',
      ],
    },
    {
      name: 'remainder',
      kind: 'rule',
      draw: remainder,
      ask: {
        tuning: ['{a} mod {b} = ?', 'Please find the rest of {a} by {b}.'],
        train: [
          'What is the remainder when {a} is divided by {b}?',
          'Find the remainder of {a} divided by {b}.',
          'What is {a} modulo {b}?',
          'Divide {a} by {b}. What remains?',
        ],
        validation: [
          'Work out {a} modulo {b}.',
          'Which remainder does {a} leave when divided by {b}?',
        ],
        test: [
          'Give the remainder of {a} by {b}.',
          'How much is left over when {a} is divided by {b}?',
          '{a} pens go into boxes of {b}. How many pens are left over?',
        ],
      },
      say: [
        'The remainder of {a} divided by {b} is {answer}.',
        '{a} modulo {b} is {answer}.',
        '{a} divided by {b} leaves {answer}.',
        'When {a} is divided by {b}, the remainder is {answer}.',
      ],
    },
    {
      name: 'percentage',
      kind: 'rule',
      draw: percentage,
      ask: {
        tuning: ['{percent}% of {whole} = ?', 'Please find {percent} out of 100 for {whole}.'],
        train: [
          'What is {percent}% of {whole}?',
          'Find {percent}% of {whole}.',
          'Compute {percent} percent of {whole}.',
          'What number is {percent} percent of {whole}?',
        ],
        validation: [
          'Work out {percent}% of {whole}.',
          'Take {percent} percent of {whole}. What is the result?',
        ],
        test: [
          'Give {percent}% of {whole}.',
          'How much is {percent} percent of {whole}?',
          'Of {whole} pens, {percent}% are red. How many pens are red?',
        ],
      },
      say: [
        '{percent}% of {whole} is {answer}.',
        '{percent} percent of {whole} equals {answer}.',
        '{answer} is {percent}% of {whole}.',
        'If you take {percent}% of {whole}, you get {answer}.',
      ],
    },
  ],
}
