import type { CorpusGroup } from '../../../lib/data/corpus.js'
import { mix } from '../../../lib/data/order.js'
import { TokenStore } from '../../../lib/data/token-store.js'
import { SampleTraits } from '../../../lib/data/traits.js'

/** A corpus made without files: words are their own tokens. */
export interface SyntheticCorpus {
  readonly groups: readonly CorpusGroup[]
  readonly disciplineNames: readonly string[]
  readonly numSamples: number
}

export interface SyntheticRecord {
  readonly prompt: string
  readonly completion: string
}

export async function syntheticCorpus(
  disciplines: Readonly<Record<string, Iterable<SyntheticRecord>>>,
): Promise<SyntheticCorpus> {
  const disciplineNames = Object.keys(disciplines)
  const groups: CorpusGroup[] = []
  let numSamples = 0
  for (const [discipline, name] of disciplineNames.entries()) {
    const store = new TokenStore()
    const traits = new SampleTraits()
    const lines: number[] = []
    for (const { prompt, completion } of disciplines[name]) {
      const words = prompt.split(' ').map(tokenOf)
      const answer = completion.split(' ').map(tokenOf)
      const inputIds = Int32Array.from([...words, ...answer])
      const labelMask = new Uint8Array(inputIds.length).fill(1, words.length)
      await store.add({ inputIds, labelMask })
      traits.add({ kind: 'completion', prompt, completion }, labelMask)
      lines.push(lines.length + 1)
      numSamples++
    }
    const source = { discipline: name, path: `${name}.jsonl`, weight: 1 }
    groups.push({ source, discipline, store, lines, traits })
  }
  return { groups, disciplineNames, numSamples }
}

const openings = ['What is', 'Please give', 'Tell me', 'Do you know', 'Name']

/**
 * Questions of so many skills, skill k as often as 1 / (k + 1)^skew says; each has its own words, an entity and a number.
 */
export function* questions(
  name: string,
  count: number,
  { skills = 10, skew = 1, seed = 1 } = {},
): Generator<SyntheticRecord> {
  const shares = Array.from({ length: skills }, (_, k) => (k + 1) ** -skew)
  const total = shares.reduce((sum, share) => sum + share, 0)
  for (let i = 0; i < count; i++) {
    let left = (mix(mix(seed, i), 1) / 2 ** 32) * total
    let skill = 0
    while (skill < skills - 1 && left >= shares[skill]) left -= shares[skill++]
    const words = Array.from({ length: 6 }, (_, w) => `${name}${skill}w${w}`.toLowerCase())
    const opening = openings[mix(mix(seed, i), 2) % openings.length]
    const entity = `E${mix(mix(seed, i), 3) % 5000}`
    const number = mix(mix(seed, i), 4) % 100_000
    yield {
      prompt: `${opening} ${words.join(' ')} of ${entity} at ${number} mg ?`,
      completion: `${number % 977} g`,
    }
  }
}

function tokenOf(word: string): number {
  let hash = 7
  for (let i = 0; i < word.length; i++) hash = mix(hash, word.charCodeAt(i))
  return hash % 4096
}
