/**
 * Biology: from DNA to protein.
 *
 * Sources: the genetic code and the amino acids from genetic-code.ts. Base pairing (A-T, G-C, and U for
 * T in RNA) is the Watson-Crick rule.
 */
import type { Random } from '../random.js'
import { type Case, type Discipline, nearNumbers } from '../skill.js'
import { aminoAcids, baseNames, codons } from './genetic-code.js'

const aminoAcidByLetter = new Map(aminoAcids.map((aminoAcid) => [aminoAcid.letter, aminoAcid]))

const senseCodons = [...codons.keys()].filter((codon) => codons.get(codon) !== '*')
const partner: Readonly<Record<string, string>> = { A: 'T', T: 'A', G: 'C', C: 'G' }
const rnaPartner: Readonly<Record<string, string>> = { A: 'U', U: 'A', T: 'A', G: 'C', C: 'G' }
/** Sequences are written with spaces: every base is then one token. */
const spaced = (letters: readonly string[]): string => letters.join(' ')
const draw = (random: Random, alphabet: string, length: number): string[] =>
  Array.from({ length }, () => alphabet[random.below(alphabet.length)])

/** The right sequence with one letter changed, and its other readings. */
function wrongSequences(random: Random, right: readonly string[], alphabet: string): string[] {
  return Array.from({ length: 8 }, () => {
    const changed = [...right]
    for (let i = 0; i <= random.below(2); i++) {
      changed[random.below(changed.length)] = alphabet[random.below(alphabet.length)]!
    }
    return spaced(changed)
  })
}

function complement(random: Random): Case {
  const dna = draw(random, 'ACGT', random.between(5, 8))
  const answer = dna.map((base) => partner[base])
  return {
    fact: `complement:${dna.join('')}`,
    slots: { dna: spaced(dna) },
    answer: spaced(answer),
    wrong: (r) => [
      spaced(dna),
      spaced(dna.map((base) => rnaPartner[base])),
      ...wrongSequences(r, answer, 'ACGT'),
    ],
  }
}

function transcription(random: Random): Case {
  const dna = draw(random, 'ACGT', random.between(5, 8))
  const answer = dna.map((base) => rnaPartner[base])
  return {
    fact: `transcription:${dna.join('')}`,
    slots: { dna: spaced(dna) },
    answer: spaced(answer),
    wrong: (r) => [spaced(dna.map((base) => partner[base])), ...wrongSequences(r, answer, 'ACGU')],
  }
}

function translation(random: Random): Case {
  const rna = Array.from({ length: random.between(2, 4) }, () => random.pick(senseCodons))
  const answer = rna.map((codon) => codons.get(codon)!)
  const letters = aminoAcids.map(({ letter }) => letter).join('')
  return {
    fact: `translation:${rna.join('')}`,
    uses: rna.map((codon) => `codon:${codon}`),
    slots: { rna: rna.join(' ') },
    answer: spaced(answer),
    wrong: (r) => wrongSequences(r, answer, letters),
  }
}

const nameOf = (letter: string): string => aminoAcidByLetter.get(letter)?.name ?? 'stop'
const aminoAcidNames = aminoAcids.map(({ name }) => name)

const codonCases: Case[] = [...codons].map(([codon, letter]) => ({
  fact: `codon:${codon}`,
  subject: `the codon ${codon}`,
  slots: { codon },
  answer: nameOf(letter),
  wrong: (random) => [
    // One base away: the neighbours in the table.
    ...random
      .shuffle(
        [...codons].filter(([other]) => [...other].filter((b, i) => b !== codon[i]).length === 1),
      )
      .map(([, other]) => nameOf(other)),
  ],
}))

const anticodonCases: Case[] = [...codons.keys()].map((codon) => {
  const answer = [...codon].map((base) => rnaPartner[base])
  return {
    fact: `anticodon:${codon}`,
    subject: `the codon ${codon}`,
    slots: { codon: spaced([...codon]) },
    answer: spaced(answer),
    wrong: (random) => wrongSequences(random, answer, 'ACGU'),
  }
})

const letterCases: Case[] = aminoAcids.flatMap(({ name, three, letter }) =>
  [name, three].map((given) => ({
    fact: `amino-acid:${name}`,
    subject: name,
    slots: { given },
    answer: letter,
    wrong: (random: Random) => random.shuffle(aminoAcids).map((other) => other.letter),
  })),
)

const aminoAcidCases: Case[] = aminoAcids.flatMap(({ name, three, letter }) =>
  [letter, three].map((code) => ({
    fact: `amino-acid:${name}`,
    subject: name,
    slots: { code },
    answer: name,
    wrong: (random: Random) => [
      ...random.shuffle(aminoAcidNames.filter((other) => other[0] === name[0])),
      ...random.shuffle(aminoAcidNames),
    ],
  })),
)

function baseCount(random: Random): Case {
  const alphabet = random.pick(['ACGT', 'ACGU'])
  const bases = draw(random, alphabet, random.between(6, 10))
  const base = alphabet[random.below(4)]
  const answer = bases.filter((other) => other === base).length
  return {
    fact: `base-count:${bases.join('')},${base}`,
    slots: {
      bases: spaced(bases),
      base: baseNames[base],
      strand: alphabet === 'ACGT' ? 'DNA' : 'RNA',
    },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

function residueCount(random: Random): Case {
  const few = random.sample(aminoAcids, 4)
  const residues = Array.from({ length: random.between(6, 10) }, () => random.pick(few).letter)
  const { name, letter } = random.pick(few)
  const answer = residues.filter((other) => other === letter).length
  return {
    fact: `residue-count:${residues.join('')},${letter}`,
    uses: [`amino-acid:${name}`],
    slots: { residues: spaced(residues), name },
    answer: String(answer),
    wrong: (r) => nearNumbers(r, answer),
  }
}

function peptideLength(random: Random): Case {
  const length = random.between(2, 200)
  return {
    fact: `peptide-length:${length}`,
    slots: { bases: 3 * length },
    answer: String(length),
    wrong: (r) => [String(3 * length), ...nearNumbers(r, length)],
  }
}

export const biology: Discipline<'biology'> = {
  name: 'biology',
  skills: [
    {
      name: 'complement',
      kind: 'rule',
      draw: complement,
      ask: {
        tuning: ['{dna} pairs with which DNA?', 'Please write the DNA that pairs with {dna}.'],
        train: [
          'What is the complement of the DNA {dna}?',
          'Write the complement of {dna}.',
          'Which DNA strand is complementary to {dna}?',
          'Find the complementary DNA of {dna}.',
        ],
        validation: ['Name the DNA complement of {dna}.', 'What strand of DNA fits {dna}?'],
        test: [
          'Give the complementary strand for {dna}.',
          'A DNA strand is {dna}. What is the other strand?',
          'Pair every base of the DNA {dna}.',
        ],
      },
      say: [
        'The complement of the DNA {dna} is {answer}.',
        'The DNA strand {dna} pairs with {answer}.',
        'The other strand of the DNA {dna} is {answer}.',
        'In DNA, {dna} faces {answer}.',
      ],
    },
    {
      name: 'transcription',
      kind: 'rule',
      draw: transcription,
      ask: {
        tuning: ['{dna} is copied to which RNA?', 'Please copy the DNA {dna} into RNA.'],
        train: [
          'What RNA is made from the DNA template {dna}?',
          'Transcribe the DNA template {dna}.',
          'Which RNA does the template {dna} give?',
          'Find the RNA for the DNA template {dna}.',
        ],
        validation: [
          'Name the RNA made from the template {dna}.',
          'What RNA strand fits the DNA template {dna}?',
        ],
        test: [
          'Give the RNA for the template strand {dna}.',
          'A DNA template is {dna}. What is its RNA?',
          'Write the RNA that pairs with the template {dna}.',
        ],
      },
      say: [
        'The DNA template {dna} gives the RNA {answer}.',
        'The RNA made from the template {dna} is {answer}.',
        'In transcription, {dna} becomes {answer}.',
        'The RNA {answer} is made from the template {dna}.',
      ],
    },
    {
      name: 'translation',
      kind: 'rule',
      draw: translation,
      ask: {
        tuning: ['{rna} makes which peptide?', 'Please read the RNA {rna} as amino acids.'],
        train: [
          'What peptide does the RNA {rna} code for?',
          'Translate the RNA {rna}.',
          'Which amino acid letters does {rna} give?',
          'Find the peptide for the RNA {rna}.',
        ],
        validation: [
          'Name the peptide of the RNA {rna}.',
          'What letters does the RNA {rna} code for?',
        ],
        test: [
          'Give the peptide letters for {rna}.',
          'A piece of RNA is {rna}. What is its peptide?',
          'Write the amino acids of {rna} in letters.',
        ],
      },
      say: [
        'The RNA {rna} codes for the peptide {answer}.',
        'The peptide of the RNA {rna} is {answer}.',
        'In translation, {rna} becomes {answer}.',
        '{rna} is read as {answer}.',
      ],
    },
    {
      name: 'codon',
      kind: 'lookup',
      cases: codonCases,
      ask: {
        tuning: [
          '{codon} stands for which amino acid?',
          'Please say what the codon {codon} means.',
        ],
        train: [
          'What does the codon {codon} code for?',
          'Which amino acid has the codon {codon}?',
          'What is the meaning of the codon {codon}?',
          'Find the amino acid for {codon}.',
        ],
        validation: [
          'Name what the codon {codon} codes for.',
          'The codon {codon} is read as what?',
        ],
        test: [
          'Give the amino acid for the codon {codon}.',
          'In the genetic code, what does {codon} stand for?',
          'A ribosome reads {codon}. What does it mean?',
        ],
      },
      say: [
        'The codon {codon} codes for {answer}.',
        'In the genetic code, {codon} means {answer}.',
        '{codon} is a codon for {answer}.',
        'The meaning of the codon {codon} is {answer}.',
        'A ribosome reads the codon {codon} as {answer}.',
        'One codon for {answer} is {codon}.',
      ],
    },
    {
      name: 'anticodon',
      kind: 'lookup',
      cases: anticodonCases,
      ask: {
        tuning: ['{codon} has which anticodon?', 'Please write the anticodon of {codon}.'],
        train: [
          'What is the anticodon of {codon}?',
          'Which anticodon pairs with the codon {codon}?',
          'Find the anticodon for {codon}.',
          'What anticodon does the codon {codon} need?',
        ],
        validation: [
          'Name the anticodon of {codon}.',
          'Which three bases pair with the codon {codon}?',
        ],
        test: [
          'Give the anticodon for the codon {codon}.',
          'A codon is {codon}. What is its anticodon?',
          'Pair every base of the codon {codon}.',
        ],
      },
      say: [
        'The anticodon of {codon} is {answer}.',
        'The codon {codon} pairs with the anticodon {answer}.',
        '{answer} is the anticodon of {codon}.',
        'For the codon {codon} the anticodon is {answer}.',
        'A tRNA for the codon {codon} has the bases {answer}.',
      ],
    },
    {
      name: 'amino-acid-letter',
      kind: 'lookup',
      cases: letterCases,
      ask: {
        tuning: ['{given} has which letter?', 'Please write the amino acid {given} as one letter.'],
        train: [
          'What is the one-letter code of {given}?',
          'Which letter stands for {given} in a protein?',
          'What letter does the amino acid {given} have?',
          'Find the letter for {given}.',
        ],
        validation: [
          'Name the letter of the amino acid {given}.',
          'How is {given} written in a peptide?',
        ],
        test: [
          'Give the letter for the amino acid {given}.',
          'In proteins, how do we write {given}?',
          'Which one letter do biologists use for {given}?',
        ],
      },
      say: [
        'The one-letter code of {given} is {answer}.',
        'In a protein, {answer} stands for {given}.',
        'The amino acid {given} has the letter {answer}.',
        '{given} is written {answer} in a peptide.',
        'The letter for {given} is {answer}.',
      ],
    },
    {
      name: 'amino-acid',
      kind: 'lookup',
      cases: aminoAcidCases,
      ask: {
        tuning: ['{code} is which amino acid?', 'Please name the amino acid {code}.'],
        train: [
          'Which amino acid has the code {code}?',
          'What amino acid is {code}?',
          'In a protein, what is {code}?',
          'Find the amino acid with the code {code}.',
        ],
        validation: [
          'Name the amino acid with the code {code}.',
          'For which amino acid do we write {code}?',
        ],
        test: [
          'In proteins, what does {code} stand for?',
          'Give the name of the amino acid {code}.',
          'Which amino acid do biologists write as {code}?',
        ],
      },
      say: [
        'The amino acid with the code {code} is {answer}.',
        'In a protein, {code} is {answer}.',
        '{code} stands for the amino acid {answer}.',
        'The code {code} belongs to {answer}.',
        'The name of the amino acid {code} is {answer}.',
      ],
    },
    {
      name: 'base-count',
      kind: 'rule',
      draw: baseCount,
      ask: {
        tuning: ['{bases} has how many {base} bases?', 'Please count the {base} of {bases}.'],
        train: [
          'How many {base} bases are in the {strand} {bases}?',
          'Count the {base} bases in {bases}.',
          'How many bases of {base} does {bases} have?',
          'Find the number of {base} bases in {bases}.',
        ],
        validation: [
          'Name the number of {base} bases in {bases}.',
          'In the {strand} {bases}, how many are {base}?',
        ],
        test: [
          'Give the count of {base} in the {strand} {bases}.',
          'How many times is {base} in {bases}?',
          'A {strand} strand is {bases}. How much {base} is in it?',
        ],
      },
      say: [
        'The {strand} {bases} has {answer} {base} bases.',
        'The number of {base} bases in {bases} is {answer}.',
        'In {bases}, the count of {base} is {answer}.',
        'The strand {bases} holds {answer} bases of {base}.',
      ],
    },
    {
      name: 'residue-count',
      kind: 'rule',
      draw: residueCount,
      ask: {
        tuning: [
          '{residues} has how many {name} residues?',
          'Please count the {name} of the peptide {residues}.',
        ],
        train: [
          'How many {name} residues are in the peptide {residues}?',
          'Count the {name} residues in {residues}.',
          'How many residues of {name} does {residues} have?',
          'Find the number of {name} residues in {residues}.',
        ],
        validation: [
          'Name the number of {name} residues in {residues}.',
          'In the peptide {residues}, how many are {name}?',
        ],
        test: [
          'Give the count of {name} in the peptide {residues}.',
          'How many times is {name} in the peptide {residues}?',
          'A peptide is {residues}. How much {name} is in it?',
        ],
      },
      say: [
        'The peptide {residues} has {answer} {name} residues.',
        'The number of {name} residues in {residues} is {answer}.',
        'In the peptide {residues}, the count of {name} is {answer}.',
        'The peptide {residues} holds {answer} residues of {name}.',
      ],
    },
    {
      name: 'peptide-length',
      kind: 'rule',
      draw: peptideLength,
      ask: {
        tuning: [
          '{bases} coding bases make how many amino acids?',
          'Please find how many amino acids {bases} bases make.',
        ],
        train: [
          'How many amino acids do {bases} coding bases give?',
          'An RNA has {bases} coding bases. How many amino acids does it make?',
          'Find the number of amino acids for {bases} bases.',
          'How long is the peptide from {bases} coding bases?',
        ],
        validation: [
          'Name the number of amino acids that {bases} bases code for.',
          'How many codons are {bases} bases?',
        ],
        test: [
          'Give the number of codons in {bases} coding bases.',
          'A gene has {bases} coding bases. How long is its protein?',
          'Into how many amino acids are {bases} bases read?',
        ],
      },
      front: 'Amino acids from {bases} coding bases',
      say: [
        '{bases} coding bases make {answer} amino acids.',
        'An RNA with {bases} coding bases has {answer} codons.',
        '{answer} amino acids need {bases} bases.',
        'The peptide from {bases} coding bases has {answer} amino acids.',
      ],
    },
  ],
}
