import { hash32 } from './random.js'

/**
 * Facts are divided once and for all: the division depends on no seed, so a corpus made with another
 * seed, or more pre-training text, never trains on what the committed test set asks.
 */
export type Split = 'train' | 'validation' | 'test'

/** For facts without end (two numbers to add): 70% train, 10% validation, 20% test, by hash. */
export function splitOfFact(fact: string): Split {
  const place = hash32(`split\u0000${fact}`) % 100
  return place < 70 ? 'train' : place < 80 ? 'validation' : 'test'
}

/** For a table: the facts in hash order, the first 60% train, then 15% validation, 25% test. */
export function splitTable(facts: Iterable<string>): Map<string, Split> {
  const ordered = [...new Set(facts)]
    .map((fact) => ({ fact, place: hash32(`split\u0000${fact}`) }))
    .sort((x, y) => x.place - y.place || (x.fact < y.fact ? -1 : 1))
  const train = Math.round(ordered.length * 0.6)
  const validation = train + Math.round(ordered.length * 0.15)
  return new Map(
    ordered.map(({ fact }, index) => [
      fact,
      index < train ? 'train' : index < validation ? 'validation' : 'test',
    ]),
  )
}
