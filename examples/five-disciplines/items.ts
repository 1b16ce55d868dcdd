/** Turns skills into records: questions with an answer, and questions with choices. */
import { Random } from './random.js'
import { type Case, fill, type LookupSkill, type Skill, type Templates } from './skill.js'
import { type Split, splitOfFact, splitTable } from './splits.js'

/** What a test item asks for: a known fact in new words, new numbers under a rule, two disciplines. */
export type Stratum = 'phrasing' | 'numbers' | 'cross'

export interface ItemCommon {
  discipline: string
  skill: string
  /** The cluster of equal wording: discipline/skill/use-index. */
  template: string
  /** The cluster of equal content. */
  fact: string
  /** Absent in training records. */
  stratum?: Stratum
  /** For cross-discipline items, the two that they need. */
  disciplines?: readonly string[]
}

export interface QuestionRecord extends ItemCommon {
  prompt: string
  completion: string
  /** The accuracy of guessing; absent in training records, 0 where the answer is open. */
  chance?: number
}

export interface ChoiceRecord extends ItemCommon {
  question: string
  choices: readonly string[]
  /** The index of the right choice. */
  answer: number
}

export type Use = keyof Templates

/** A case with the wording that asks it. */
export interface Item {
  case: Case
  prompt: string
  template: string
}

const lookupSplits = new WeakMap<LookupSkill, ReadonlyMap<string, Split>>()

/** Two skills that share their facts (iron and Fe, both ways) divide them alike: keys alone decide. */
function splitsOf(skill: LookupSkill): ReadonlyMap<string, Split> {
  const known = lookupSplits.get(skill)
  if (known !== undefined) return known
  const splits = splitTable(skill.cases.map(({ fact }) => fact))
  lookupSplits.set(skill, splits)
  return splits
}

/** The split of every fact that a table states, over all skills. */
export class FactSplits {
  private readonly tables = new Map<string, Split>()

  constructor(skills: readonly Skill[]) {
    for (const skill of skills) {
      if (skill.kind !== 'lookup') continue
      for (const [fact, split] of splitsOf(skill)) {
        const known = this.tables.get(fact)
        if (known !== undefined && known !== split)
          throw new Error(`the fact ${fact} is in two splits`)
        this.tables.set(fact, split)
      }
    }
  }

  of(fact: string): Split {
    return this.tables.get(fact) ?? splitOfFact(fact)
  }

  /** Whether a case may be asked in a split: its own fact lies there, and training builds on training facts. */
  allows(item: Case, split: Split): boolean {
    if (this.of(item.fact) !== split) return false
    return split !== 'train' || (item.uses ?? []).every((fact) => this.of(fact) === 'train')
  }
}

export const splitOfUse = (use: Use): Split => (use === 'tuning' ? 'train' : use)

/** Draws different items of one skill, without end for rules and until the table is used up otherwise. */
export class ItemSource {
  readonly prefix: string
  readonly skill: Skill
  readonly use: Use
  private readonly splits: FactSplits
  private readonly seen: Set<string>
  private readonly random: Random
  private readonly queue: Item[] = []
  private drawn = 0

  constructor(
    prefix: string,
    skill: Skill,
    use: Use,
    splits: FactSplits,
    seed: string | number,
    /** Prompts not to give again; shared between sources that must not overlap. */
    seen: Set<string> = new Set(),
  ) {
    this.prefix = prefix
    this.skill = skill
    this.use = use
    this.splits = splits
    this.seen = seen
    this.random = new Random(seed, prefix, skill.name, use)
    if (skill.kind === 'lookup') {
      const cases = skill.cases.filter((item) => splits.allows(item, splitOfUse(use)))
      const all = cases.flatMap((item) => skill.ask[use].map((_, index) => this.item(item, index)))
      this.queue.push(...this.random.shuffle(all))
    }
  }

  private item(item: Case, index: number): Item {
    return {
      case: item,
      prompt: fill(this.skill.ask[this.use][index], item.slots),
      template: `${this.prefix}/${this.skill.name}/${this.use}-${index}`,
    }
  }

  /** The next new item, or undefined when there is none. */
  next(): Item | undefined {
    if (this.skill.kind === 'lookup') {
      for (let item = this.queue.pop(); item !== undefined; item = this.queue.pop()) {
        if (!this.seen.has(item.prompt)) {
          this.seen.add(item.prompt)
          return item
        }
      }
      return undefined
    }
    const templates = this.skill.ask[this.use]
    for (let tries = 0; tries < 3000; tries++) {
      const drawn = this.skill.draw(this.random)
      if (!this.splits.allows(drawn, splitOfUse(this.use))) continue
      const item = this.item(drawn, (this.drawn + tries) % templates.length)
      if (this.seen.has(item.prompt)) continue
      this.seen.add(item.prompt)
      this.drawn++
      return item
    }
    return undefined
  }
}

/** Takes `wanted[i]` items from source i; what one cannot give, the others give in turn. */
export function takeItems(
  sources: readonly ItemSource[],
  wanted: readonly number[],
): [ItemSource, Item][] {
  const taken: [ItemSource, Item][] = []
  let missing = 0
  const dry = new Set<ItemSource>()
  sources.forEach((source, index) => {
    for (let n = 0; n < wanted[index]; n++) {
      const item = source.next()
      if (item === undefined) {
        missing += wanted[index] - n
        dry.add(source)
        break
      }
      taken.push([source, item])
    }
  })
  while (missing > 0 && dry.size < sources.length) {
    for (const source of sources) {
      if (missing === 0 || dry.has(source)) continue
      const item = source.next()
      if (item === undefined) dry.add(source)
      else {
        taken.push([source, item])
        missing--
      }
    }
  }
  return taken
}

/** Exactly `total`, as evenly as whole numbers allow. */
export function evenShares(total: number, parts: number): number[] {
  return Array.from(
    { length: parts },
    (_, i) => Math.floor(((i + 1) * total) / parts) - Math.floor((i * total) / parts),
  )
}

export const stratumOf = (skill: Skill): Stratum =>
  skill.kind === 'lookup' ? 'phrasing' : 'numbers'

/** Four choices (or the closed set), the right one at the given position. */
export function choicesOf(
  item: Case,
  position: number,
  random: Random,
): { choices: string[]; answer: number } | undefined {
  const options = item.options ?? item.wrong?.(random) ?? []
  const wrong = [...new Set(options)].filter((option) => option !== item.answer)
  const size = item.options === undefined ? 4 : Math.min(4, wrong.length + 1)
  if (wrong.length < size - 1) return undefined
  const choices = random.shuffle(wrong.slice(0, size - 1))
  const answer = position % size
  choices.splice(answer, 0, item.answer)
  return { choices, answer }
}
