/**
 * Questions that need two disciplines at once. They are in no training split and in no pre-training
 * text; each builds on facts and rules that the disciplines teach one by one.
 */
import type { Random } from '../random.js'
import { type Case, type DisciplineName, nearNumbers, type Templates } from '../skill.js'
import { aminoAcids } from './genetic-code.js'
import { elements, salts } from './elements.js'
import { zoneFacts, zoneName } from './places.js'

export interface CrossSkill {
  name: string
  disciplines: readonly [DisciplineName, DisciplineName]
  draw: (random: Random) => Case
  ask: Pick<Templates, 'validation' | 'test'>
}

const clock = (hour: number): string => `${String(((hour % 24) + 24) % 24).padStart(2, '0')}:00`

function atomicNumberSum(random: Random): Case {
  const [a, b] = random.sample(elements, 2)
  const [first, second] = [a.name, b.name].sort()
  const answer = a.number + b.number
  return {
    fact: `atomic-number-sum:${first},${second}`,
    slots: { a: a.name, b: b.name },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

/** Salts of the body's own metals; no medical use is meant. */
const bodySalts = salts.filter(({ name }) =>
  /^(lithium|sodium|potassium|magnesium|calcium) (chloride|bromide|iodide)$/.test(name),
)

function doseFromMoles(random: Random): Case {
  const { name, mass } = random.pick(bodySalts)
  const millimoles = random.between(2, 9)
  const answer = mass * millimoles
  return {
    fact: `dose-from-moles:${name},${millimoles}`,
    slots: { name, millimoles },
    answer: `${answer} mg`,
    wrong: (r) => [`${mass} mg`, ...nearNumbers(r, answer, ' mg'), `${answer} g`],
  }
}

function arrivalTime(random: Random): Case {
  const [from, to] = random.sample(zoneFacts, 2)
  const hour = random.below(24)
  const hours = random.between(2, 12)
  const answer = clock(hour + hours + to.offset - from.offset)
  return {
    fact: `arrival-time:${from.capital},${to.capital},${hour},${hours}`,
    slots: { from: from.capital, to: to.capital, time: clock(hour), hours },
    answer,
    wrong: (r) => [
      clock(hour + hours),
      clock(hour + hours - to.offset + from.offset),
      ...r
        .shuffle([1, -1, 2, -2, 3])
        .map((step) => clock(hour + hours + to.offset - from.offset + step)),
    ],
  }
}

function nextDoseAbroad(random: Random): Case {
  const { capital, offset } = random.pick(zoneFacts)
  const hour = random.below(24)
  const hours = random.pick([4, 6, 8, 12])
  const right = hour + hours + offset
  return {
    fact: `next-dose:${capital},${hour},${hours}`,
    slots: { capital, time: clock(hour), hours, zone: zoneName(offset) },
    answer: clock(right),
    wrong: (r) => [
      clock(hour + hours),
      clock(hour + offset),
      ...r.shuffle([1, -1, 2, -2]).map((step) => clock(right + step)),
    ],
  }
}

function basesOfProteins(random: Random): Case {
  const chains = random.between(2, 6)
  const length = random.between(5, 60)
  const answer = 3 * chains * length
  return {
    fact: `bases-of-proteins:${chains},${length}`,
    slots: { chains, length },
    answer: String(answer),
    wrong: (r) => [String(chains * length), ...nearNumbers(r, answer)],
  }
}

const elementBySymbol = new Map(elements.map((element) => [element.symbol, element.name]))
const sharedLetters = aminoAcids.filter(({ letter }) => elementBySymbol.has(letter))
const singleLetterElements = elements.filter(({ symbol }) => symbol.length === 1)

function elementOfAminoAcid(random: Random): Case {
  const { name, letter } = random.pick(sharedLetters)
  return {
    fact: `element-of-amino-acid:${name}`,
    slots: { name },
    answer: elementBySymbol.get(letter)!,
    wrong: (r) => r.shuffle(singleLetterElements).map((element) => element.name),
  }
}

export const crossSkills: readonly CrossSkill[] = [
  {
    name: 'atomic-number-sum',
    disciplines: ['mathematics', 'chemistry'],
    draw: atomicNumberSum,
    ask: {
      validation: ['What is the sum of the atomic numbers of {a} and {b}?'],
      test: [
        'Add the atomic number of {a} and the atomic number of {b}.',
        'How many protons do an atom of {a} and an atom of {b} have together?',
      ],
    },
  },
  {
    name: 'dose-from-moles',
    disciplines: ['chemistry', 'medicine'],
    draw: doseFromMoles,
    ask: {
      validation: ['What is the dose in mg of {millimoles} mmol of {name}?'],
      test: [
        'A patient needs {millimoles} mmol of {name}. How many mg is that?',
        'Find the dose in mg for {millimoles} mmol of {name}.',
      ],
    },
  },
  {
    name: 'arrival-time',
    disciplines: ['mathematics', 'geography'],
    draw: arrivalTime,
    ask: {
      validation: [
        'A plane leaves {from} at {time} and flies {hours} hours to {to}. What is the local time then?',
      ],
      test: [
        'A flight from {from} to {to} starts at {time} and takes {hours} hours. At what local time does it land?',
        'It is {time} in {from}. What time is it in {to} after {hours} hours?',
      ],
    },
  },
  {
    name: 'next-dose-abroad',
    disciplines: ['medicine', 'geography'],
    draw: nextDoseAbroad,
    ask: {
      validation: [
        'A patient takes a dose at {time} UTC, then one every {hours} hours. At what time in {capital} is the next dose?',
      ],
      test: [
        'A dose is given at {time} UTC. The next is {hours} hours later. What time is it then in {capital}?',
        'A patient in {capital} takes a dose every {hours} hours. The last was at {time} UTC. At what local time is the next?',
      ],
    },
  },
  {
    name: 'bases-of-proteins',
    disciplines: ['biology', 'mathematics'],
    draw: basesOfProteins,
    ask: {
      validation: ['How many coding bases make {chains} peptides of {length} amino acids?'],
      test: [
        'A protein has {chains} chains of {length} amino acids. How many bases code for it?',
        'Find the number of bases for {chains} peptides with {length} amino acids each.',
      ],
    },
  },
  {
    name: 'element-of-amino-acid',
    disciplines: ['chemistry', 'biology'],
    draw: elementOfAminoAcid,
    ask: {
      validation: ['Which element has the letter of the amino acid {name} as its symbol?'],
      test: [
        'The letter of {name} in a protein is the symbol of which element?',
        'Take the one-letter code of {name}. Which element has this symbol?',
        'Name the element whose symbol is the letter for {name}.',
      ],
    },
  },
]
