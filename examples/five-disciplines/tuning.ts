/**
 * Instruction-tuning records in chat form for the base model: everyday questions, instructions of every
 * family, and a share of discipline questions about training facts in words that no split uses.
 */
import { disciplines, factSplits } from './corpus.js'
import { general } from './general.js'
import { families } from './instruction-families.js'
import { InstructionSource } from './instructions.js'
import { ItemSource, type Use } from './items.js'
import { Random } from './random.js'
import type { Discipline } from './skill.js'

export interface ChatRecord {
  messages: { role: 'user' | 'assistant'; content: string }[]
}

export interface InstructionTuningOptions {
  seed: number
  /** Records. */
  count?: number
  shares?: Shares
}

/** Percent of the turns. */
export interface Shares {
  everyday: number
  instructions: number
  disciplines: number
}

interface Exchange {
  prompt: string
  completion: string
}

/** Items without end: used-up tables start again. */
class Questions {
  private readonly sources: ItemSource[] = []
  private readonly seed: number
  private readonly from: readonly Discipline[]
  private readonly uses: readonly Use[]
  private round = 0

  constructor(seed: number, from: readonly Discipline[], uses: readonly Use[]) {
    this.seed = seed
    this.from = from
    this.uses = uses
  }

  private refill(): void {
    const seed = `${this.seed}-tuning-${this.round++}`
    for (const discipline of this.from) {
      for (const skill of discipline.skills) {
        for (const use of this.uses)
          this.sources.push(new ItemSource(discipline.name, skill, use, factSplits, seed))
      }
    }
  }

  next(random: Random): Exchange {
    for (;;) {
      if (this.sources.length === 0) this.refill()
      const source = random.pick(this.sources)
      const item = source.next()
      if (item !== undefined) return { prompt: item.prompt, completion: item.case.answer }
      this.sources.splice(this.sources.indexOf(source), 1)
    }
  }
}

/** Few discipline questions: how they are answered is what an adapter is to teach. */
const defaultShares: Shares = { everyday: 40, instructions: 50, disciplines: 10 }

export function instructionTuningRecords({
  seed,
  count = 40_000,
  shares = defaultShares,
}: InstructionTuningOptions): ChatRecord[] {
  const random = new Random(seed, 'tuning')
  const everyday = new Questions(seed, [general], ['tuning', 'train'])
  const disciplined = new Questions(seed, disciplines, ['tuning'])
  const instructionSources = (['tuning', 'train'] as const).map(
    (use) => new InstructionSource(general, disciplines, factSplits, use, `${seed}-tuning`, true),
  )
  const contents = disciplines.map(({ name }) => name)

  const exchange = (): Exchange => {
    const place = random.below(100)
    if (place < shares.everyday) return everyday.next(random)
    if (place >= shares.everyday + shares.instructions) return disciplined.next(random)
    const family = random.pick(families)
    const fit = contents.filter(
      (name) => family.kind === 'task' || family.unfit?.includes(name) !== true,
    )
    const source = random.pick(instructionSources)
    return source.next(family, random.below(3) === 0 ? random.pick(fit) : 'general')
  }

  return Array.from({ length: count }, () => {
    // One conversation in ten has a second turn.
    const turns = random.below(10) === 0 ? 2 : 1
    const messages = Array.from({ length: turns }, exchange).flatMap(({ prompt, completion }) => [
      { role: 'user' as const, content: prompt },
      { role: 'assistant' as const, content: completion },
    ])
    return { messages }
  })
}
