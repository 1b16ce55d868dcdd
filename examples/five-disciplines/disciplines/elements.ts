/**
 * Elements and compounds.
 *
 * Sources: names, symbols, atomic numbers and atomic masses from the package chemical-elements (MIT);
 * masses and atom counts of formulas from mf-parser (MIT). Groups follow from the atomic number and
 * those of the noble gases. Compound names and formulas follow IUPAC's rules: binary compositional
 * names (Nomenclature of Inorganic Chemistry, 2005, IR-5) and unbranched parent hydrides with one
 * suffix or prefix (Nomenclature of Organic Chemistry, 2013, P-21, P-22, P-31); charges of ions of the
 * main groups follow from the group. Organic formulas are checked against openchemlib (BSD-3) in the
 * tests.
 */
import { elements as elementTable } from 'chemical-elements'
import { MF } from 'mf-parser'

export interface Element {
  name: string
  symbol: string
  number: number
  /** The rounded atomic mass, or undefined where rounding would hang on the last digits. */
  mass: number | undefined
  group: number
}

export interface Compound {
  name: string
  formula: string
  /** The rounded molar mass in g/mol. */
  mass: number
  ionic: boolean
  /** For organic compounds, the structure from which the tests recompute the formula. */
  smiles?: string
}

/** Rounds unless the value lies within 0.02 of a half: published masses differ by less than that. */
export function safeRound(value: number): number | undefined {
  return Math.abs(value - Math.floor(value) - 0.5) < 0.02 ? undefined : Math.round(value)
}

const nobleGases = [2, 10, 18, 36, 54, 86]

/** The group, 1 to 18, of an element outside the f-block. */
export function groupOf(number: number): number | undefined {
  if (number === 1) return 1
  if (number === 2) return 18
  const index = nobleGases.findIndex((gas) => number <= gas)
  if (index < 1) return undefined
  const place = number - nobleGases[index - 1]
  const length = nobleGases[index] - nobleGases[index - 1]
  if (place <= 2) return place
  if (length === 8) return place + 10
  if (length === 18) return place
  // The sixth period: fifteen places (57 to 71) belong to the f-block and group 3, which is disputed.
  return place <= 17 ? undefined : place - 14
}

export const elements: readonly Element[] = elementTable.flatMap((element) => {
  const group = groupOf(element.number)
  if (group === undefined || element.number > 86 || element.mass === null) return []
  const name = element.name.toLowerCase()
  const mass = safeRound(element.mass)
  return [{ name, symbol: element.symbol, number: element.number, mass, group }]
})

const elementBySymbol = new Map(elements.map((element) => [element.symbol, element]))

export interface Ion {
  name: string
  symbol: string
  charge: number
}

/** Charges of main-group ions: groups 1, 2 and aluminium lose, groups 15 to 17 gain electrons. */
const cationSymbols = ['Li', 'Na', 'K', 'Rb', 'Cs', 'Be', 'Mg', 'Ca', 'Sr', 'Ba', 'Al']
const anionRoots: Readonly<Record<string, string>> = {
  F: 'fluoride',
  Cl: 'chloride',
  Br: 'bromide',
  I: 'iodide',
  O: 'oxide',
  S: 'sulfide',
  Se: 'selenide',
  Te: 'telluride',
  N: 'nitride',
  P: 'phosphide',
}

export const cations: readonly Ion[] = cationSymbols.map((symbol) => {
  const element = elementBySymbol.get(symbol)!
  return {
    name: element.name,
    symbol,
    charge: element.group > 2 ? element.group - 10 : element.group,
  }
})

export const anions: readonly Ion[] = Object.entries(anionRoots).map(([symbol, name]) => ({
  name,
  symbol,
  charge: 18 - elementBySymbol.get(symbol)!.group,
}))

const gcd = (a: number, b: number): number => (b === 0 ? a : gcd(b, a % b))
const count = (n: number): string => (n === 1 ? '' : String(n))

/** The neutral formula of two ions. */
export function ionicFormula(cation: Ion, anion: Ion): string {
  const common = gcd(cation.charge, anion.charge)
  return `${cation.symbol}${count(anion.charge / common)}${anion.symbol}${count(cation.charge / common)}`
}

const prefixes = ['', 'mono', 'di', 'tri', 'tetra', 'penta', 'hexa']

/** "carbon", C, 1, "oxide", O, 2 gives carbon dioxide, CO2. */
function covalent(
  first: string,
  firstCount: number,
  second: string,
  secondCount: number,
): [string, string] {
  const element = elementBySymbol.get(first)!
  const root = anionRoots[second]
  const prefix = prefixes[secondCount]
  // The vowel is elided before oxide: monoxide, pentoxide.
  const tail = second === 'O' && /[ao]$/.test(prefix) ? prefix.slice(0, -1) + root : prefix + root
  return [
    `${firstCount === 1 ? '' : prefixes[firstCount]}${element.name} ${tail}`,
    `${first}${count(firstCount)}${second}${count(secondCount)}`,
  ]
}

const covalentParts: readonly [string, number, string, number][] = [
  ['C', 1, 'O', 1],
  ['C', 1, 'O', 2],
  ['N', 1, 'O', 1],
  ['N', 1, 'O', 2],
  ['N', 2, 'O', 3],
  ['N', 2, 'O', 4],
  ['N', 2, 'O', 5],
  ['S', 1, 'O', 2],
  ['S', 1, 'O', 3],
  ['Si', 1, 'O', 2],
  ['P', 1, 'Cl', 3],
  ['P', 1, 'Cl', 5],
  ['B', 1, 'F', 3],
  ['B', 1, 'Cl', 3],
  ['B', 1, 'Br', 3],
  ['S', 1, 'F', 4],
  ['S', 1, 'F', 6],
  ['C', 1, 'S', 2],
  ['Si', 1, 'Cl', 4],
  ['Si', 1, 'F', 4],
  ['N', 1, 'F', 3],
  ['N', 1, 'Cl', 3],
  ['P', 1, 'F', 3],
  ['P', 1, 'F', 5],
  ['P', 1, 'Br', 3],
  ['Se', 1, 'O', 2],
]

const stems = ['', 'meth', 'eth', 'prop', 'but', 'pent', 'hex', 'hept', 'oct', 'non', 'dec']

/** Atoms in Hill's order: carbon, hydrogen, then the alphabet. */
function hill(atoms: Readonly<Record<string, number>>): string {
  return Object.entries(atoms)
    .filter(([, n]) => n > 0)
    .map(([symbol, n]) => symbol + count(n))
    .join('')
}

function organic(): [string, string, string][] {
  const found: [string, string, string][] = []
  for (let n = 1; n <= 10; n++) {
    const stem = stems[n]
    const chain = 'C'.repeat(n)
    found.push([`${stem}ane`, hill({ C: n, H: 2 * n + 2 }), chain])
    found.push([`${stem}anoic acid`, hill({ C: n, H: 2 * n, O: 2 }), `${'C'.repeat(n - 1)}C(=O)O`])
    found.push([`${stem}anal`, hill({ C: n, H: 2 * n, O: 1 }), `${'C'.repeat(n - 1)}C=O`])
    if (n >= 3) found.push([`cyclo${stem}ane`, hill({ C: n, H: 2 * n }), `C1${'C'.repeat(n - 1)}1`])
    if (n <= 2) {
      found.push([`${stem}anol`, hill({ C: n, H: 2 * n + 2, O: 1 }), `${chain}O`])
      found.push([`${stem}anamine`, hill({ C: n, H: 2 * n + 3, N: 1 }), `${chain}N`])
      for (const [halogen, name] of [
        ['F', 'fluoro'],
        ['Cl', 'chloro'],
        ['Br', 'bromo'],
        ['I', 'iodo'],
      ]) {
        const formula = hill({ C: n, H: 2 * n + 1 }) + halogen
        found.push([`${name}${stem}ane`, formula, `${chain}${halogen}`])
      }
    }
    if (n === 2 || n === 3) {
      found.push([`${stem}ene`, hill({ C: n, H: 2 * n }), `${'C'.repeat(n - 1)}=C`])
      found.push([`${stem}yne`, hill({ C: n, H: 2 * n - 2 }), `${'C'.repeat(n - 1)}#C`])
    }
  }
  return found
}

function compound(name: string, formula: string, ionic: boolean, smiles?: string): Compound[] {
  const mass = safeRound(new MF(formula).getInfo().mass)
  if (mass === undefined) return []
  return [{ name, formula, mass, ionic, ...(smiles === undefined ? {} : { smiles }) }]
}

/** Molecular compounds, water and ammonia under IUPAC's retained names. */
export const molecules: readonly Compound[] = [
  ...compound('water', 'H2O', false),
  ...compound('ammonia', 'NH3', false),
  ...covalentParts.flatMap((parts) => compound(...covalent(...parts), false)),
  ...organic().flatMap(([name, formula, smiles]) => compound(name, formula, false, smiles)),
]

export const salts: readonly Compound[] = cations.flatMap((cation) =>
  anions
    .slice(0, 6)
    .flatMap((anion) =>
      compound(`${cation.name} ${anion.name}`, ionicFormula(cation, anion), true),
    ),
)
