/** Chemistry. Sources: see elements.ts; numbers of atoms and moles are computed exactly. */
import { hash32, type Random } from '../random.js'
import { type Case, type Discipline, nearNumbers } from '../skill.js'
import { anions, cations, elements, ionicFormula, molecules, salts } from './elements.js'

/** Elements whose names or symbols look alike are the tempting wrong answers. */
function similar(random: Random, own: string, all: readonly string[]): string[] {
  const others = random.shuffle(all.filter((other) => other !== own))
  return [...others.filter((other) => other[0] === own[0]).slice(0, 2), ...others]
}

const names = elements.map((element) => element.name)
const symbols = elements.map((element) => element.symbol)
const compounds = [...molecules, ...salts.filter(({ name }) => hash32(name) % 2 === 0)]
const formulas = molecules.map((molecule) => molecule.formula)

const symbolCases: Case[] = elements.map(({ name, symbol }) => ({
  fact: `symbol:${name}`,
  subject: name,
  slots: { name },
  answer: symbol,
  wrong: (random) => similar(random, symbol, symbols),
}))

const elementCases: Case[] = elements.map(({ name, symbol }) => ({
  fact: `symbol:${name}`,
  subject: name,
  slots: { symbol },
  answer: name,
  wrong: (random) => similar(random, name, names),
}))

const numberCases: Case[] = elements.map(({ name, number }) => ({
  fact: `atomic-number:${name}`,
  subject: name,
  slots: { name },
  answer: String(number),
  wrong: (random) => nearNumbers(random, number),
}))

const byNumberCases: Case[] = elements.map(({ name, number }, index) => ({
  fact: `atomic-number:${name}`,
  subject: name,
  slots: { number },
  answer: name,
  wrong: (random) => [
    ...random.shuffle(names.slice(Math.max(0, index - 3), index + 4)),
    ...random.shuffle(names),
  ],
}))

const groupCases: Case[] = elements.map(({ name, group }) => ({
  fact: `group:${name}`,
  subject: name,
  slots: { name },
  answer: String(group),
  wrong: (random) =>
    nearNumbers(random, group).filter((answer) => Number(answer) >= 1 && Number(answer) <= 18),
}))

const formulaCases: Case[] = molecules.map(({ name, formula }) => ({
  fact: `formula:${name}`,
  subject: name,
  slots: { name },
  answer: formula,
  wrong: (random) => similar(random, formula, formulas),
}))

const massCases: Case[] = compounds.map(({ name, formula, mass }) => ({
  fact: `molar-mass:${name}`,
  subject: name,
  slots: { name, formula },
  answer: `${mass} g/mol`,
  wrong: (random) => nearNumbers(random, mass, ' g/mol'),
}))

/** Products that a small model can learn to compute. */
const lightCompounds = compounds.filter(({ mass }) => mass <= 100)

function massOfMoles(random: Random): Case {
  const { name, formula, mass } = random.pick(lightCompounds)
  const moles = random.between(2, 6)
  return {
    fact: `mass-of-moles:${name},${moles}`,
    uses: [`molar-mass:${name}`],
    slots: { name, formula, mass, moles },
    answer: `${mass * moles} g`,
    wrong: (r) => [`${mass * (moles + 1)} g`, `${mass} g`, ...nearNumbers(r, mass * moles, ' g')],
  }
}

function atomCount(random: Random): Case {
  const carbon = random.between(1, 12)
  const atoms: [string, string, number][] = [
    ['carbon', 'C', carbon],
    ['hydrogen', 'H', random.between(1, 2 * carbon + 2)],
  ]
  if (random.below(2) === 0) atoms.push(['nitrogen', 'N', random.between(1, 4)])
  if (random.below(3) > 0) atoms.push(['oxygen', 'O', random.between(1, 7)])
  const formula = atoms.map(([, symbol, n]) => symbol + (n === 1 ? '' : String(n))).join('')
  const [element, , answer] = random.pick(atoms)
  return {
    fact: `atom-count:${formula},${element}`,
    slots: { formula, element },
    answer: String(answer),
    wrong: (r) => [...r.shuffle(atoms.map(([, , n]) => String(n))), ...nearNumbers(r, answer)],
  }
}

function ionicCompound(random: Random): Case {
  const cation = random.pick(cations)
  const anion = random.pick(anions)
  const answer = ionicFormula(cation, anion)
  const wrong = [1, 2, 3].flatMap((a) =>
    [1, 2, 3].map(
      (b) =>
        `${cation.symbol}${a === 1 ? '' : String(a)}${anion.symbol}${b === 1 ? '' : String(b)}`,
    ),
  )
  return {
    fact: `ionic-formula:${cation.name},${anion.name}`,
    slots: { name: `${cation.name} ${anion.name}`, cation: cation.name, anion: anion.name },
    answer,
    wrong: (r) => r.shuffle(wrong),
  }
}

export const chemistry: Discipline<'chemistry'> = {
  name: 'chemistry',
  skills: [
    {
      name: 'symbol',
      kind: 'lookup',
      cases: symbolCases,
      ask: {
        tuning: ['{name} has which chemical symbol?', 'Please write the symbol of {name}.'],
        train: [
          'What is the symbol of {name}?',
          'What is the chemical symbol for {name}?',
          'Which symbol does {name} have?',
          'Write {name} as a symbol.',
        ],
        validation: ['Name the symbol of {name}.', 'How is {name} written in short?'],
        test: [
          'Give the symbol for {name}.',
          'How do chemists write {name}?',
          'In chemistry, which letters stand for {name}?',
        ],
      },
      say: [
        'The symbol of {name} is {answer}.',
        '{answer} is the symbol of {name}.',
        '{name} has the symbol {answer}.',
        'The chemical symbol for {name} is {answer}.',
        'In chemistry, {answer} stands for {name}.',
        'Chemists write {name} as {answer}.',
      ],
    },
    {
      name: 'element',
      kind: 'lookup',
      cases: elementCases,
      ask: {
        tuning: ['{symbol} is which element?', 'Please name the element {symbol}.'],
        train: [
          'Which element has the symbol {symbol}?',
          'What element is {symbol}?',
          'What is the element with the symbol {symbol}?',
          'In chemistry, what is {symbol}?',
        ],
        validation: [
          'Name the element with symbol {symbol}.',
          'For which element do we write {symbol}?',
        ],
        test: [
          'In chemistry, what does {symbol} stand for?',
          'Give the name of the element {symbol}.',
          'Which element do chemists write as {symbol}?',
        ],
      },
      say: [
        'The element with the symbol {symbol} is {answer}.',
        '{symbol} is {answer}.',
        'In chemistry, {symbol} means {answer}.',
        'The symbol {symbol} belongs to {answer}.',
        'The name of the element {symbol} is {answer}.',
      ],
    },
    {
      name: 'atomic-number',
      kind: 'lookup',
      cases: numberCases,
      ask: {
        tuning: ['{name} has which atomic number?', 'Please state the atomic number of {name}.'],
        train: [
          'What is the atomic number of {name}?',
          'What atomic number does {name} have?',
          'How many protons does an atom of {name} have?',
          'Find the atomic number of {name}.',
        ],
        validation: ['Name the atomic number of {name}.', 'How many protons are in a {name} atom?'],
        test: [
          'Give the atomic number for {name}.',
          'Which number does {name} have in the table of elements?',
          'An atom of {name} holds how many protons?',
        ],
      },
      say: [
        'The atomic number of {name} is {answer}.',
        '{name} has the atomic number {answer}.',
        '{name} is element number {answer}.',
        'An atom of {name} has {answer} protons.',
        'In the table of elements, {name} has number {answer}.',
        'With {answer} protons, an atom is {name}.',
      ],
    },
    {
      name: 'element-by-number',
      kind: 'lookup',
      cases: byNumberCases,
      ask: {
        tuning: ['Element {number} is called what?', 'Please name element {number}.'],
        train: [
          'Which element has the atomic number {number}?',
          'What element has {number} protons?',
          'What is element number {number}?',
          'Find the element with atomic number {number}.',
        ],
        validation: [
          'Name the element with atomic number {number}.',
          'An atom has {number} protons. What is it?',
        ],
        test: [
          'Give the element with number {number}.',
          'Which element is number {number} in the table of elements?',
          'Which atoms hold {number} protons?',
        ],
      },
      say: [
        'Element number {number} is {answer}.',
        'The element with the atomic number {number} is {answer}.',
        'The atom with {number} protons is {answer}.',
        'Number {number} in the table of elements is {answer}.',
      ],
    },
    {
      name: 'group',
      kind: 'lookup',
      cases: groupCases,
      ask: {
        tuning: ['{name} belongs to which group?', 'Please state the group of {name}.'],
        train: [
          'What is the group of {name}?',
          'In which group is {name}?',
          'Which group does {name} belong to?',
          'Find the group of {name}.',
        ],
        validation: ['Name the group of {name}.', 'To which group does {name} belong?'],
        test: [
          'Give the group for {name}.',
          'In the table of elements, which group holds {name}?',
          'Which group is {name} part of?',
        ],
      },
      say: [
        '{name} is in group {answer}.',
        'The group of {name} is {answer}.',
        '{name} belongs to group {answer}.',
        'Group {answer} holds {name}.',
        'In the table of elements, {name} is part of group {answer}.',
      ],
    },
    {
      name: 'formula',
      kind: 'lookup',
      cases: formulaCases,
      ask: {
        tuning: ['{name} has which formula?', 'Please write the formula of {name}.'],
        train: [
          'What is the formula of {name}?',
          'What is the chemical formula for {name}?',
          'Which formula does {name} have?',
          'Write {name} as a formula.',
        ],
        validation: ['Name the formula of {name}.', 'How is {name} written as a formula?'],
        test: [
          'Give the formula for {name}.',
          'How do chemists write one molecule of {name}?',
          'In chemistry, which formula stands for {name}?',
        ],
      },
      say: [
        'The formula of {name} is {answer}.',
        '{answer} is the formula of {name}.',
        '{name} has the formula {answer}.',
        'The chemical formula for {name} is {answer}.',
        'Chemists write {name} as {answer}.',
        'One molecule of {name} is {answer}.',
      ],
    },
    {
      name: 'molar-mass',
      kind: 'lookup',
      cases: massCases,
      ask: {
        tuning: ['{name} has which molar mass?', 'Please state the molar mass of {name}.'],
        train: [
          'What is the molar mass of {name}?',
          'What molar mass does {name} have?',
          'Find the molar mass of {name}.',
          'What is the mass of one mole of {name}, in g/mol?',
        ],
        validation: ['Name the molar mass of {name}.', 'Which molar mass has {name}, in g/mol?'],
        test: [
          'Give the molar mass for {name}.',
          'How many g/mol does {name} have?',
          'In chemistry, what is the molar mass of the compound {name}?',
        ],
      },
      say: [
        'The molar mass of {name} is {answer}.',
        '{name} has a molar mass of {answer}.',
        '{name}, with formula {formula}, has the molar mass {answer}.',
        'The mass of one mole of {name} is given as {answer}.',
        'With {answer} we know the molar mass of {name}.',
      ],
    },
    {
      name: 'mass-of-moles',
      kind: 'rule',
      draw: massOfMoles,
      ask: {
        tuning: [
          '{moles} mol of {name} ({mass} g/mol) have what mass?',
          'Please find the mass of {moles} mol {name}, at {mass} g/mol.',
        ],
        train: [
          'The molar mass of {name} is {mass} g/mol. What is the mass of {moles} mol?',
          'What is the mass of {moles} mol of {name} at {mass} g/mol?',
          'How many grams are {moles} mol of {name}? One mole has {mass} g.',
          'One mole of {name} has {mass} g. Find the mass of {moles} mol.',
        ],
        validation: [
          'At {mass} g/mol, how heavy are {moles} mol of {name}?',
          'Work out the grams in {moles} mol of {name} with {mass} g/mol.',
        ],
        test: [
          'Give the mass of {moles} mol {name} when one mole has {mass} g.',
          '{name} has {mass} g/mol. How much do {moles} mol weigh?',
          'A bottle holds {moles} mol of {name} with {mass} g/mol. How many grams is that?',
        ],
      },
      say: [
        '{moles} mol of {name} have a mass of {answer}.',
        'The mass of {moles} mol of {name} is {answer}.',
        '{answer} of {name} are {moles} mol.',
        'With {mass} g/mol, {moles} mol of {name} weigh {answer}.',
      ],
    },
    {
      name: 'atom-count',
      kind: 'rule',
      draw: atomCount,
      ask: {
        tuning: [
          '{formula} has how many {element} atoms?',
          'Please count the {element} atoms of {formula}.',
        ],
        train: [
          'How many {element} atoms are in {formula}?',
          'Count the {element} atoms in {formula}.',
          'How many atoms of {element} does {formula} have?',
          'Find the number of {element} atoms in {formula}.',
        ],
        validation: [
          'Name the number of {element} atoms in {formula}.',
          'In {formula}, how many atoms are {element}?',
        ],
        test: [
          'Give the count of {element} in {formula}.',
          'How many times is {element} in the molecule {formula}?',
          'One molecule is {formula}. How much {element} is in it?',
        ],
      },
      say: [
        '{formula} has {answer} {element} atoms.',
        'The number of {element} atoms in {formula} is {answer}.',
        'In {formula}, the count of {element} is {answer}.',
        'A molecule of {formula} holds {answer} atoms of {element}.',
      ],
    },
    {
      name: 'ionic-formula',
      kind: 'rule',
      draw: ionicCompound,
      ask: {
        tuning: ['{name} is which salt formula?', 'Please write the salt {name}.'],
        train: [
          'What is the formula of the salt {name}?',
          'Write the formula of the ionic compound {name}.',
          'Which formula has the salt of {cation} and {anion}?',
          'Find the formula of the salt {name}.',
        ],
        validation: [
          'Name the formula of the salt {name}.',
          'How is the ionic compound {name} written?',
        ],
        test: [
          'Give the formula for the salt {name}.',
          'How do chemists write the salt {name}?',
          'The ions of {cation} and {anion} form which compound?',
        ],
      },
      say: [
        'The formula of the salt {name} is {answer}.',
        'The salt {name} is written {answer}.',
        '{cation} and {anion} form {answer}.',
        '{answer} is {name}.',
      ],
    },
  ],
}
