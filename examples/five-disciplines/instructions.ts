/**
 * Instructions whose obedience a program can check: a question with a demand on the form of the answer,
 * or a small task. Training (alignment) records hold everyday content only and lack the families in
 * `heldOutFamilies`; validation and test also put demands on discipline questions.
 */
import { type Draft, families, type Family, heldOutFamilies } from './instruction-families.js'
import type { Constraint } from './instructions-check.js'
import { type FactSplits, type Item, ItemSource, splitOfUse, type Use } from './items.js'
import { Random } from './random.js'
import { type Discipline, fill } from './skill.js'

export interface InstructionItem {
  prompt: string
  completion: string
  discipline: 'instructions'
  /** The family. */
  skill: string
  template: string
  fact: string
  /** What the content is about: general, or a discipline. */
  content: string
  /** The right answer to the question inside, where there is one; the constraints do not ask for it. */
  expected?: string
  constraints: readonly Constraint[]
}

/** Short closed answers suit demands on form. */
const generalContent = ['calendar', 'opposite', 'color', 'plural', 'kind']
const disciplineContent: Readonly<Record<string, readonly string[]>> = {
  mathematics: ['addition', 'times-table', 'square'],
  chemistry: ['symbol', 'element', 'formula'],
  biology: ['codon', 'amino-acid', 'amino-acid-letter'],
  medicine: ['tablets', 'daily-dose', 'result-class'],
  geography: ['capital', 'country', 'continent'],
}

/** Draws instructions of any family over any content, each prompt once. */
export class InstructionSource {
  private readonly random: Random
  private readonly seen = new Set<string>()
  private readonly sources = new Map<string, ItemSource[]>()
  private readonly general: Discipline
  private readonly disciplines: readonly Discipline[]
  private readonly splits: FactSplits
  private readonly use: Use
  private readonly seed: string | number
  private readonly repeats: boolean
  private rounds = 0

  constructor(
    general: Discipline,
    disciplines: readonly Discipline[],
    splits: FactSplits,
    use: Use,
    seed: string | number,
    /** Whether a prompt may come again with the same answer. */
    repeats = false,
  ) {
    this.general = general
    this.disciplines = disciplines
    this.splits = splits
    this.use = use
    this.seed = seed
    this.repeats = repeats
    this.random = new Random(seed, 'instructions', use)
  }

  /** Sources run dry; a new round, with another order, asks the same questions under other demands. */
  private content(name: string): Item {
    const skills = name === 'general' ? generalContent : disciplineContent[name]
    const discipline =
      name === 'general'
        ? this.general
        : this.disciplines.find((candidate) => candidate.name === name)!
    for (;;) {
      let sources = this.sources.get(name)
      if (sources === undefined || sources.length === 0) {
        sources = discipline.skills
          .filter((skill) => skills.includes(skill.name))
          .map(
            (skill) =>
              new ItemSource(name, skill, this.use, this.splits, `${this.seed}-${this.rounds++}`),
          )
        this.sources.set(name, sources)
      }
      const source = this.random.pick(sources)
      const item = source.next()
      if (item !== undefined) return item
      sources.splice(sources.indexOf(source), 1)
    }
  }

  next(family: Family, content: string): InstructionItem {
    const templates = family.ask[this.use]
    for (let tries = 0; tries < 2000; tries++) {
      const index = this.random.below(templates.length)
      const template = `instructions/${family.name}/${this.use}-${index}`
      let draft: Draft | undefined
      let expected: string | undefined
      if (family.kind === 'task') {
        draft = family.draw(this.random)
        if (!this.allows(`${family.name}:${draft.fact}`)) continue
      } else {
        const item = this.content(content)
        const formed = family.form(item.case.answer, this.random)
        if (formed === undefined) continue
        expected = item.case.answer
        draft = {
          ...formed,
          slots: { ...formed.slots, question: item.prompt },
          fact: item.case.fact,
        }
      }
      const prompt = fill(templates[index], draft.slots)
      // Lists are few: the same request may come back in training with other words in the answer.
      const key =
        this.use === 'train' || this.use === 'tuning'
          ? `${prompt}\u0000${draft.completion}`
          : prompt
      if (!this.repeats && this.seen.has(key)) continue
      this.seen.add(key)
      return {
        prompt,
        completion: draft.completion,
        discipline: 'instructions',
        skill: family.name,
        template,
        fact: `${family.name}:${draft.fact}`,
        content: family.kind === 'task' ? 'general' : content,
        ...(expected === undefined ? {} : { expected }),
        constraints: draft.constraints,
      }
    }
    throw new Error(`the family ${family.name} has no more instructions for ${this.use}`)
  }

  /** Lists have too few different requests to keep their content apart: only their wording is. */
  private allows(fact: string): boolean {
    if (/^(bullets|comma-list|lines):/.test(fact)) return true
    return this.splits.of(fact) === splitOfUse(this.use)
  }
}

/** Alignment (training), validation and test sets. */
export function instructionSets(
  general: Discipline,
  disciplines: readonly Discipline[],
  splits: FactSplits,
  seed: number,
): { train: InstructionItem[]; validation: InstructionItem[]; test: InstructionItem[] } {
  const known = families.filter(({ name }) => !heldOutFamilies.includes(name))
  const contents = disciplines.map(({ name }) => name)
  const draw = (
    use: Use,
    from: readonly Family[],
    count: number,
    share: number,
  ): InstructionItem[] => {
    const source = new InstructionSource(general, disciplines, splits, use, seed)
    const random = new Random(seed, 'instructions', use, 'order')
    const items = from.flatMap((family) => {
      // Lists have 24 requests, words are few, and there are one or two wordings.
      const fit = contents.filter(
        (name) => family.kind === 'task' || family.unfit?.includes(name) !== true,
      )
      const some =
        family.kind === 'task' && use !== 'train'
          ? Math.min(count, use === 'test' ? 20 : 12)
          : count
      return Array.from({ length: some }, (_, index) =>
        source.next(
          family,
          index % share === 0 ? 'general' : fit[Math.floor(index / share) % fit.length],
        ),
      )
    })
    return random.shuffle(items)
  }
  return {
    train: draw('train', known, 170, 1),
    validation: draw('validation', known, 18, 2),
    test: draw('test', families, 30, 2),
  }
}
