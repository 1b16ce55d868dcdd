/**
 * Medicine: units, doses and laboratory results. An exercise for language models, not medical advice.
 *
 * Sources: reference intervals from reference-intervals.ts. Units are the metric system's, everything
 * else is computed exactly. No drug is named: doses are arithmetic.
 */
import type { Random } from '../random.js'
import { type Case, type Discipline, nearNumbers } from '../skill.js'
import { referenceIntervals } from './reference-intervals.js'

/** A decimal without needless zeros: 250 thousandths are 0.25. */
const thousandths = (n: number): string => String(n / 1000)

function gramsToMilligrams(random: Random): Case {
  const milligrams = 5 * random.between(1, random.pick([200, 1999]))
  return {
    fact: `grams-milligrams:${milligrams}`,
    slots: { grams: thousandths(milligrams) },
    answer: `${milligrams} mg`,
    wrong: (r) => [
      ...r.shuffle([10 * milligrams, milligrams / 10, 100 * milligrams]).map((n) => `${n} mg`),
      `${milligrams} g`,
    ],
  }
}

function microgramsToMilligrams(random: Random): Case {
  const micrograms = 5 * random.between(1, random.pick([200, 999]))
  return {
    fact: `micrograms-milligrams:${micrograms}`,
    slots: { micrograms },
    answer: `${thousandths(micrograms)} mg`,
    wrong: (r) => [
      ...r
        .shuffle([micrograms * 10, micrograms / 10, micrograms * 100])
        .map((n) => `${thousandths(n)} mg`),
      `${micrograms} mg`,
    ],
  }
}

function doseByWeight(random: Random): Case {
  const kilograms = random.between(4, 40)
  const dose = random.pick([2, 3, 4, 5, 10, 20])
  return {
    fact: `dose-by-weight:${kilograms},${dose}`,
    slots: { kilograms, dose },
    answer: `${kilograms * dose} mg`,
    wrong: (r) => [
      `${kilograms + dose} mg`,
      ...nearNumbers(r, kilograms * dose, ' mg'),
      `${kilograms * dose} g`,
    ],
  }
}

function tablets(random: Random): Case {
  const strength = random.pick([5, 10, 15, 20, 25, 30, 40, 50, 100, 150, 200, 250, 400, 500])
  const number = random.between(2, 9)
  return {
    fact: `tablets:${strength},${number}`,
    slots: { strength, dose: strength * number },
    answer: `${number} tablets`,
    wrong: (r) => nearNumbers(r, number, ' tablets').filter((answer) => !/^[01] /.test(answer)),
  }
}

function dailyDose(random: Random): Case {
  const dose = 5 * random.between(1, 40)
  const times = random.pick([2, 3, 4, 5, 6])
  return {
    fact: `daily-dose:${dose},${times}`,
    slots: { dose, times },
    answer: `${dose * times} mg`,
    wrong: (r) => [
      ...r.shuffle([dose * (times + 1), dose * (times - 1), dose + times]).map((n) => `${n} mg`),
      `${dose * times} g`,
    ],
  }
}

function volume(random: Random): Case {
  const strength = random.pick([2, 4, 5, 10, 20, 25, 40, 50])
  const millilitres = random.between(2, 20)
  return {
    fact: `volume:${strength},${millilitres}`,
    slots: { strength, dose: strength * millilitres },
    answer: `${millilitres} mL`,
    wrong: (r) => [`${strength} mL`, ...nearNumbers(r, millilitres, ' mL')],
  }
}

function infusionRate(random: Random): Case {
  const rate = 5 * random.between(2, 20)
  const hours = random.between(2, 10)
  return {
    fact: `infusion-rate:${rate},${hours}`,
    slots: { hours, millilitres: rate * hours },
    answer: `${rate} mL/h`,
    wrong: (r) => [
      ...r.shuffle([rate + 5, rate - 5, rate + 10, rate * 2]).map((n) => `${n} mL/h`),
      `${rate} mL`,
    ],
  }
}

function doses(random: Random): Case {
  const hours = random.pick([2, 3, 4, 6, 8, 12])
  const days = random.between(2, 14)
  const answer = (24 / hours) * days
  return {
    fact: `doses:${hours},${days}`,
    slots: { hours, days },
    answer: `${answer} doses`,
    wrong: (r) => [
      ...r.shuffle([24 / hours, hours * days, days]).map((n) => `${n} doses`),
      ...nearNumbers(r, answer, ' doses'),
    ],
  }
}

const limitCases: Case[] = referenceIntervals.flatMap(({ name, unit, low, high, digits }) =>
  (
    [
      ['lower', low, high],
      ['upper', high, low],
    ] as const
  ).map(([bound, value, other]) => ({
    fact: `reference-interval:${name}`,
    subject: `${name} in the blood`,
    slots: { name, bound, extreme: bound === 'lower' ? 'lowest' : 'highest' },
    answer: `${value.toFixed(digits)} ${unit}`,
    wrong: (random: Random) => {
      const step = (high - low) / 4
      return [
        other,
        ...random.shuffle([
          value + step,
          value + 2 * step,
          Math.abs(value - step),
          value + 3 * step,
        ]),
      ].map((n) => `${n.toFixed(digits)} ${unit}`)
    },
  })),
)

const verdicts = ['low', 'normal', 'high'] as const

function resultClass(random: Random): Case {
  const { name, unit, low, high, digits } = random.pick(referenceIntervals)
  const answer = random.pick(verdicts)
  const scale = 10 ** digits
  const [lowest, highest] = [Math.round(low * scale), Math.round(high * scale)]
  const width = highest - lowest
  const value =
    answer === 'normal'
      ? random.between(lowest, highest)
      : answer === 'high'
        ? highest + random.between(1, width)
        : Math.max(0, lowest - random.between(1, Math.min(width, lowest)))
  return {
    fact: `result-class:${name},${value}`,
    uses: [`reference-interval:${name}`],
    slots: { name, value: `${(value / scale).toFixed(digits)} ${unit}` },
    answer,
    options: verdicts,
  }
}

export const medicine: Discipline<'medicine'> = {
  name: 'medicine',
  skills: [
    {
      name: 'grams-to-milligrams',
      kind: 'rule',
      draw: gramsToMilligrams,
      ask: {
        tuning: ['{grams} g = ? mg', 'Please change {grams} g to mg.'],
        train: [
          'How many mg are {grams} g?',
          'Convert {grams} g to mg.',
          'What is {grams} g in milligrams?',
          'Write {grams} grams in mg.',
        ],
        validation: ['Express {grams} g in mg.', 'A dose is {grams} g. How many milligrams is it?'],
        test: [
          'Give {grams} g in mg.',
          'How much is {grams} g in milligrams?',
          'A powder has {grams} grams. What is that in mg?',
        ],
      },
      say: [
        '{grams} g are {answer}.',
        '{grams} g equal {answer}.',
        '{grams} grams are the same as {answer}.',
        '{answer} make {grams} g.',
      ],
    },
    {
      name: 'micrograms-to-milligrams',
      kind: 'rule',
      draw: microgramsToMilligrams,
      ask: {
        tuning: ['{micrograms} mcg = ? mg', 'Please change {micrograms} mcg to mg.'],
        train: [
          'How many mg are {micrograms} mcg?',
          'Convert {micrograms} mcg to mg.',
          'What is {micrograms} mcg in milligrams?',
          'Write {micrograms} micrograms in mg.',
        ],
        validation: [
          'Express {micrograms} mcg in mg.',
          'A dose is {micrograms} mcg. How many milligrams is it?',
        ],
        test: [
          'Give {micrograms} mcg in mg.',
          'How much is {micrograms} mcg in milligrams?',
          'A pill has {micrograms} micrograms. What is that in mg?',
        ],
      },
      say: [
        '{micrograms} mcg are {answer}.',
        '{micrograms} mcg equal {answer}.',
        '{micrograms} micrograms are the same as {answer}.',
        '{answer} make {micrograms} mcg.',
      ],
    },
    {
      name: 'dose-by-weight',
      kind: 'rule',
      draw: doseByWeight,
      ask: {
        tuning: [
          '{dose} mg/kg for {kilograms} kg = ?',
          'Please find the dose for {kilograms} kg at {dose} mg per kg.',
        ],
        train: [
          'A patient weighs {kilograms} kg. The dose is {dose} mg per kg. How much is needed?',
          'What is the dose for {kilograms} kg at {dose} mg per kg?',
          'The dose is {dose} mg/kg. What does a patient of {kilograms} kg get?',
          'Find the dose for a patient of {kilograms} kg at {dose} mg/kg.',
        ],
        validation: [
          'At {dose} mg/kg, what dose does a patient of {kilograms} kg need?',
          'Work out the dose of {dose} mg per kg for {kilograms} kg.',
        ],
        test: [
          'Give the dose for {kilograms} kg when each kg needs {dose} mg.',
          'A child of {kilograms} kg gets {dose} mg per kg. What is the dose?',
          'How much is {dose} mg/kg for a weight of {kilograms} kg?',
        ],
      },
      say: [
        'At {dose} mg per kg, a patient of {kilograms} kg gets {answer}.',
        'The dose of {dose} mg/kg for {kilograms} kg is {answer}.',
        'A patient of {kilograms} kg needs {answer} at {dose} mg/kg.',
        '{answer} is the dose for {kilograms} kg at {dose} mg per kg.',
      ],
    },
    {
      name: 'tablets',
      kind: 'rule',
      draw: tablets,
      ask: {
        tuning: [
          '{dose} mg from tablets of {strength} mg = ?',
          'Please find the tablets of {strength} mg for {dose} mg.',
        ],
        train: [
          'The dose is {dose} mg. One tablet has {strength} mg. How many tablets are needed?',
          'How many tablets of {strength} mg make {dose} mg?',
          'A patient needs {dose} mg from tablets of {strength} mg. How many is that?',
          'Find the number of {strength} mg tablets for {dose} mg.',
        ],
        validation: [
          'With tablets of {strength} mg, how many give {dose} mg?',
          'Work out the tablets of {strength} mg in a dose of {dose} mg.',
        ],
        test: [
          'Give the number of tablets for {dose} mg when each has {strength} mg.',
          'A nurse gives {dose} mg in tablets of {strength} mg. How many tablets is that?',
          'A dose of {dose} mg is how many tablets of {strength} mg?',
        ],
      },
      say: [
        'A dose of {dose} mg is {answer} of {strength} mg.',
        '{answer} of {strength} mg make {dose} mg.',
        'For {dose} mg, take {answer} of {strength} mg.',
        'With {strength} mg in each, {dose} mg are {answer}.',
      ],
    },
    {
      name: 'daily-dose',
      kind: 'rule',
      draw: dailyDose,
      ask: {
        tuning: [
          '{dose} mg, {times} times a day = ?',
          'Please find the daily dose of {times} times {dose} mg.',
        ],
        train: [
          'A patient takes {dose} mg {times} times a day. What is the daily dose?',
          'What is the daily dose of {dose} mg taken {times} times a day?',
          'How much is {dose} mg {times} times a day, in one day?',
          'Find the daily dose for {times} doses of {dose} mg.',
        ],
        validation: [
          'With {dose} mg {times} times a day, how much is it per day?',
          'Work out the daily dose of {times} doses of {dose} mg.',
        ],
        test: [
          'Give the amount per day for {dose} mg {times} times a day.',
          'A nurse gives {times} doses of {dose} mg each day. How much is that a day?',
          'A day has {times} doses of {dose} mg. What is the total dose?',
        ],
      },
      say: [
        '{dose} mg {times} times a day is a daily dose of {answer}.',
        'The daily dose of {times} doses of {dose} mg is {answer}.',
        'A patient who takes {dose} mg {times} times a day takes {answer} a day.',
        '{times} doses of {dose} mg make {answer}.',
      ],
    },
    {
      name: 'volume',
      kind: 'rule',
      draw: volume,
      ask: {
        tuning: [
          '{dose} mg at {strength} mg/mL = ?',
          'Please find the volume of {dose} mg at {strength} mg per mL.',
        ],
        train: [
          'The dose is {dose} mg. The syrup has {strength} mg per mL. What volume is needed?',
          'How many mL of {strength} mg/mL make {dose} mg?',
          'What volume holds {dose} mg at {strength} mg/mL?',
          'Find the volume for {dose} mg at {strength} mg per mL.',
        ],
        validation: [
          'With {strength} mg/mL, which volume gives {dose} mg?',
          'Work out the volume of {dose} mg in a syrup of {strength} mg/mL.',
        ],
        test: [
          'Give the volume for {dose} mg when each mL has {strength} mg.',
          'A nurse draws {dose} mg from {strength} mg/mL. What is the volume?',
          'A syrup of {strength} mg/mL must give {dose} mg. How much is needed?',
        ],
      },
      say: [
        '{dose} mg at {strength} mg/mL are {answer}.',
        'The volume of {dose} mg at {strength} mg per mL is {answer}.',
        '{answer} of {strength} mg/mL hold {dose} mg.',
        'For {dose} mg of a syrup with {strength} mg/mL, take {answer}.',
      ],
    },
    {
      name: 'infusion-rate',
      kind: 'rule',
      draw: infusionRate,
      ask: {
        tuning: [
          '{millilitres} mL in {hours} h = ?',
          'Please find the rate of {millilitres} mL in {hours} h.',
        ],
        train: [
          'An infusion of {millilitres} mL runs over {hours} hours. What is the rate?',
          'What is the rate for {millilitres} mL over {hours} hours?',
          'Find the infusion rate of {millilitres} mL in {hours} hours.',
          'How many mL per hour are {millilitres} mL over {hours} h?',
        ],
        validation: [
          'At which rate do {millilitres} mL run in {hours} hours?',
          'Work out the rate of {millilitres} mL over {hours} hours.',
        ],
        test: [
          'Give the rate for an infusion of {millilitres} mL in {hours} hours.',
          'A bag of {millilitres} mL lasts {hours} hours. What is the rate?',
          'A nurse gives {millilitres} mL over {hours} hours. How fast does it run?',
        ],
      },
      say: [
        '{millilitres} mL over {hours} hours run at {answer}.',
        'The rate of {millilitres} mL in {hours} hours is {answer}.',
        'At {answer}, {millilitres} mL last {hours} hours.',
        'An infusion of {millilitres} mL over {hours} h has a rate of {answer}.',
      ],
    },
    {
      name: 'doses',
      kind: 'rule',
      draw: doses,
      ask: {
        tuning: [
          'Every {hours} h for {days} days = ?',
          'Please count the doses for {days} days at one every {hours} h.',
        ],
        train: [
          'A patient takes one dose every {hours} hours for {days} days. How many doses is that?',
          'How many doses are needed for {days} days at one every {hours} hours?',
          'One dose every {hours} hours: how many in {days} days?',
          'Find the number of doses in {days} days, one every {hours} hours.',
        ],
        validation: [
          'With a dose every {hours} hours, how many doses do {days} days need?',
          'Work out the doses of {days} days, every {hours} hours.',
        ],
        test: [
          'Give the number of doses for {days} days with one each {hours} hours.',
          'A nurse gives a dose every {hours} hours for {days} days. How many doses is that?',
          'A treatment of {days} days has a dose every {hours} hours. How many doses is it?',
        ],
      },
      say: [
        'One dose every {hours} hours for {days} days makes {answer}.',
        'In {days} days, a dose every {hours} hours is {answer}.',
        '{days} days with a dose every {hours} hours need {answer}.',
        'A patient who takes a dose every {hours} hours for {days} days takes {answer}.',
      ],
    },
    {
      name: 'reference-limit',
      kind: 'lookup',
      cases: limitCases,
      ask: {
        tuning: ['{name} has which {bound} limit?', 'Please state the {bound} limit of {name}.'],
        train: [
          'What is the {bound} normal limit of {name}?',
          'What is the {bound} limit for {name}?',
          'Find the {bound} limit of normal {name}.',
          'What is the {extreme} normal value of {name}?',
        ],
        validation: [
          'Name the {bound} limit of {name}.',
          'Which value of {name} is the {extreme} that is normal?',
        ],
        test: [
          'Give the {bound} limit of the range for {name}.',
          'In the blood, what is the {bound} limit of {name}?',
          'Which {name} result is the {extreme} in the normal range?',
        ],
      },
      say: [
        'The {bound} limit of {name} is {answer}.',
        'The {bound} normal limit for {name} is {answer}.',
        'For {name}, the {extreme} normal value is {answer}.',
        'The {extreme} normal {name} in the blood is {answer}.',
        'Normal {name} has the {bound} limit {answer}.',
        'The {name} range has {answer} as its {bound} limit.',
      ],
    },
    {
      name: 'result-class',
      kind: 'rule',
      draw: resultClass,
      ask: {
        tuning: [
          '{name} {value}: low, normal or high?',
          'Please judge {name} at {value}: low, normal or high.',
        ],
        train: [
          'Is {name} at {value} low, normal or high?',
          'A patient has {name} at {value}. Is it low, normal or high?',
          'The {name} is {value}. Low, normal or high?',
          'What is the {name} result {value}: low, normal or high?',
        ],
        validation: [
          'With {value} of {name}, is the result low, normal or high?',
          'Say low, normal or high for {name} at {value}.',
        ],
        test: [
          'Low, normal or high: {name} at {value}?',
          'A blood test shows {name} at {value}. Is that low, normal or high?',
          'Tell if {name} of {value} is low, normal or high.',
        ],
      },
      say: [
        '{name} at {value} is {answer}.',
        'With {name} at {value}, the result is {answer}.',
        'The {name} of the patient is {value}, which is {answer}.',
        '{value} is a {answer} {name}.',
      ],
    },
  ],
}
