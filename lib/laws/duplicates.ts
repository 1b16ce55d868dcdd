import { nearDuplicateCosine } from '../data/balance/duplicates.js'
import type { CorpusRecord } from '../data/index.js'
import { factsOf, textsOf } from '../data/traits.js'

/** Where a record is. */
export interface Place {
  readonly file: string
  readonly line: number
}

/**
 * Finds the records that say the same as one that it holds: equal but for case, spaces and punctuation (signs of calculation are none), or with a cosine of
 * character trigrams above 0.95 and equal facts and answer. Two questions of one template are then not the same. The choices
 * that are offered do not count: a question is the same question with others.
 */
export class DuplicateIndex {
  readonly #texts = new Map<string, Place>()
  readonly #blocks = new Map<string, { grams: Grams; place: Place }[]>()

  add(record: CorpusRecord, place: Place): void {
    const { text, block, grams } = signature(record)
    if (!this.#texts.has(text)) this.#texts.set(text, place)
    const held = this.#blocks.get(block)
    if (held) held.push({ grams, place })
    else this.#blocks.set(block, [{ grams, place }])
  }

  /** The first such record. */
  find(record: CorpusRecord): Place | null {
    const { text, block, grams } = signature(record)
    const same = this.#texts.get(text)
    if (same) return same
    const found = this.#blocks
      .get(block)
      ?.find((one) => cosine(one.grams, grams) > nearDuplicateCosine)
    return found?.place ?? null
  }
}

interface Grams {
  readonly counts: ReadonlyMap<string, number>
  readonly norm: number
}

function signature(record: CorpusRecord): { text: string; block: string; grams: Grams } {
  const { asked, answer } = textsOf(record)
  const block = `${plain(answer)}\n${factsOf(asked.normalize('NFKC')).join(' ')}`
  const text = ` ${plain(asked)} `
  const counts = new Map<string, number>()
  for (let i = 0; i + 3 <= text.length; i++) {
    const gram = text.slice(i, i + 3)
    counts.set(gram, (counts.get(gram) ?? 0) + 1)
  }
  let square = 0
  for (const count of counts.values()) square += count * count
  return { text: `${text}\n${plain(answer)}`, block, grams: { counts, norm: Math.sqrt(square) } }
}

function cosine(a: Grams, b: Grams): number {
  // Nothing was asked: the answers are equal already.
  if (a.norm === 0 || b.norm === 0) return Number(a.norm === b.norm)
  let sum = 0
  for (const [gram, count] of a.counts) sum += count * (b.counts.get(gram) ?? 0)
  return sum / (a.norm * b.norm)
}

const plain = (text: string) =>
  text
    .normalize('NFKC')
    .toLowerCase()
    .replace(/[^\p{L}\p{N}+*/^%×÷]+/gu, ' ')
    .replace(/ ?([+*/^%×÷]) ?/gu, '$1')
    .trim()
