/**
 * The genetic code and the amino acids.
 *
 * Sources: translation table 1 of the National Center for Biotechnology Information ("The Genetic
 * Codes", gc.prt: bases in the order T, C, A, G); names, three-letter and one-letter codes of the amino
 * acids from the package chemical-groups (MIT, part of mf-parser), which follow IUPAC-IUB 1983.
 */
import { groups } from 'chemical-groups'

export const geneticCode = 'FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG'
const tableOrder = 'UCAG'

export interface AminoAcid {
  name: string
  three: string
  letter: string
}

/** The twenty amino acids of the code, in the order of their letters. */
export const aminoAcids: readonly AminoAcid[] = [...new Set(geneticCode.replace(/\*/g, ''))]
  .sort()
  .map((letter) => {
    const group = groups.find(({ kind, oneLetter }) => kind === 'aa' && oneLetter === letter)
    if (!group?.name) throw new Error(`chemical-groups has no amino acid with the letter ${letter}`)
    return {
      name: group.name.replace(/ diradical$/, '').toLowerCase(),
      three: group.symbol,
      letter,
    }
  })

/** RNA codon to one-letter amino acid, `*` for stop. */
export const codons: ReadonlyMap<string, string> = new Map(
  [...geneticCode].map((letter, index) => [
    tableOrder[index >> 4] + tableOrder[(index >> 2) & 3] + tableOrder[index & 3],
    letter,
  ]),
)

/** Bases of DNA and RNA by letter. */
export const baseNames: Readonly<Record<string, string>> = {
  A: 'adenine',
  C: 'cytosine',
  G: 'guanine',
  T: 'thymine',
  U: 'uracil',
}
