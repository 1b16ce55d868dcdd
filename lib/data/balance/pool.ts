import { ArgumentError } from '../../errors.js'
import type { CorpusGroup } from '../corpus.js'
import type { StoredSample } from '../token-store.js'

/** What a plan needs of a corpus. */
export interface PooledCorpus {
  readonly groups: readonly CorpusGroup[]
  readonly disciplineNames: readonly string[]
}

/** All samples of one discipline, numbered through its files. */
export class Pool {
  readonly name: string
  readonly size: number
  readonly #corpus: PooledCorpus
  readonly #groups: readonly number[]
  /** Number of the first sample of each file, and the size. */
  readonly #begins: readonly number[]

  private constructor(corpus: PooledCorpus, name: string, groups: readonly number[]) {
    this.name = name
    this.#corpus = corpus
    this.#groups = groups
    const begins = [0]
    for (const group of groups) begins.push(begins.at(-1)! + corpus.groups[group].store.size)
    this.#begins = begins
    this.size = begins.at(-1)!
  }

  /** One for each discipline of a corpus, in its order. */
  static all(corpus: PooledCorpus): Pool[] {
    return corpus.disciplineNames.map((name, discipline) => {
      const groups = corpus.groups.flatMap((group, i) =>
        group.discipline === discipline ? [i] : [],
      )
      return new Pool(corpus, name, groups)
    })
  }

  /** The file and the number in it of a sample. */
  locate(item: number): { group: number; index: number } {
    let file = 0
    let beyond = this.#groups.length
    while (beyond - file > 1) {
      const middle = (file + beyond) >> 1
      if (this.#begins[middle] <= item) file = middle
      else beyond = middle
    }
    return { group: this.#groups[file], index: item - this.#begins[file] }
  }

  content(item: number): number {
    const { group, index } = this.locate(item)
    return this.#traits(group).content(index)
  }

  facts(item: number): number {
    const { group, index } = this.locate(item)
    return this.#traits(group).facts(index)
  }

  trainedTokens(item: number): number {
    const { group, index } = this.locate(item)
    return this.#traits(group).trainedTokens(index)
  }

  /** In tokens. */
  length(item: number): number {
    const { group, index } = this.locate(item)
    return this.#corpus.groups[group].store.length(index)
  }

  async read(item: number): Promise<StoredSample> {
    const { group, index } = this.locate(item)
    return await this.#corpus.groups[group].store.read(index)
  }

  #traits(group: number) {
    const { traits } = this.#corpus.groups[group]
    if (!traits) throw new ArgumentError('the corpus was opened without traits: true')
    return traits
  }
}
