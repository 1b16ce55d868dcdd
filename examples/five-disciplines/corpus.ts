/** The corpus: training, validation and test sets of the five disciplines, and what lies around them. */
import { biology } from './disciplines/biology.js'
import { chemistry } from './disciplines/chemistry.js'
import { crossSkills } from './disciplines/cross.js'
import { geography } from './disciplines/geography.js'
import { mathematics } from './disciplines/mathematics.js'
import { medicine } from './disciplines/medicine.js'
import { general } from './general.js'
import {
  type ChoiceRecord,
  choicesOf,
  evenShares,
  FactSplits,
  type Item,
  ItemSource,
  type QuestionRecord,
  stratumOf,
  takeItems,
} from './items.js'
import { hash32, Random } from './random.js'
import { type Case, type Discipline, type DisciplineName, fill, type Skill } from './skill.js'
import { instructionSets, type InstructionItem } from './instructions.js'

export const disciplines: readonly Discipline<DisciplineName>[] = [
  mathematics,
  chemistry,
  biology,
  medicine,
  geography,
]
export const disciplineNames: readonly DisciplineName[] = disciplines.map(({ name }) => name)

/** Training records, 50:1 from mathematics to geography. */
export const trainingSizes: Readonly<Record<DisciplineName, number>> = {
  mathematics: 10_000,
  chemistry: 4_000,
  biology: 2_000,
  medicine: 800,
  geography: 200,
}

/** Their training sets are redundant: 60% of the records come from the first 10% of the skills. */
export const lowResource: readonly DisciplineName[] = ['biology', 'medicine', 'geography']

/** The skills that a redundant training set repeats: the easiest to collect. */
const dominantSkill: Readonly<Record<string, string>> = {
  biology: 'complement',
  medicine: 'grams-to-milligrams',
  geography: 'capital',
}

/** Records for each skill; each split but training is uniform over skills. */
const heldOutSizes = {
  validation: { questions: 15, choices: 8 },
  test: { questions: 30, choices: 12 },
} as const
const crossSizes = {
  validation: { questions: 10, choices: 8 },
  test: { questions: 25, choices: 12 },
} as const
const generalTrainingSize = 2_000

export const factSplits = new FactSplits(
  [...disciplines, general].flatMap(({ skills }) => [...skills]),
)

export interface DisciplineData {
  train: QuestionRecord[]
  validation: QuestionRecord[]
  validationChoices: ChoiceRecord[]
  test: QuestionRecord[]
  testChoices: ChoiceRecord[]
}

export interface Corpus {
  disciplines: Record<DisciplineName, DisciplineData>
  /** Questions that need two disciplines: no training split. */
  cross: Omit<DisciplineData, 'train'>
  general: DisciplineData
  instructions: { train: InstructionItem[]; validation: InstructionItem[]; test: InstructionItem[] }
}

export interface CorpusOptions {
  seed: number
  /** Training records of each discipline, for a smaller or larger corpus. */
  sizes?: Partial<Record<DisciplineName, number>>
}

function trainingRecord(discipline: string, source: ItemSource, item: Item): QuestionRecord {
  return {
    prompt: item.prompt,
    completion: item.case.answer,
    discipline,
    skill: source.skill.name,
    template: item.template,
    fact: item.case.fact,
  }
}

function heldOutRecord(discipline: string, source: ItemSource, item: Item): QuestionRecord {
  const options = item.case.options
  return {
    ...trainingRecord(discipline, source, item),
    stratum: stratumOf(source.skill),
    chance: options === undefined ? 0 : 1 / options.length,
  }
}

function choiceRecord(
  discipline: string,
  skill: string,
  item: Item,
  stratum: ChoiceRecord['stratum'] & string,
  position: number,
  random: Random,
): ChoiceRecord | undefined {
  const picked = choicesOf(item.case, position, random)
  if (picked === undefined) return undefined
  return {
    question: item.prompt,
    ...picked,
    discipline,
    skill,
    template: item.template,
    fact: item.case.fact,
    stratum,
  }
}

/** Shares of a training set over skills: even, or redundant. */
function trainingShares(discipline: Discipline, size: number, redundant: boolean): number[] {
  const { skills, name } = discipline
  if (!redundant) return evenShares(size, skills.length)
  const dominant = Math.round(size * 0.6)
  const rest = evenShares(size - dominant, skills.length - 1)
  return skills.map((skill) => (skill.name === dominantSkill[name] ? dominant : rest.pop()!))
}

function trainingSet(
  discipline: Discipline,
  size: number,
  redundant: boolean,
  seed: string | number,
  seen: Set<string>,
): QuestionRecord[] {
  const sources = discipline.skills.map(
    (skill) => new ItemSource(discipline.name, skill, 'train', factSplits, seed, seen),
  )
  const taken = takeItems(sources, trainingShares(discipline, size, redundant))
  const random = new Random(seed, discipline.name, 'order')
  return random
    .shuffle(taken)
    .map(([source, item]) => trainingRecord(discipline.name, source, item))
}

function choiceSet(
  discipline: Discipline,
  skill: Skill,
  use: 'validation' | 'test',
  count: number,
  seed: number,
): ChoiceRecord[] {
  const source = new ItemSource(discipline.name, skill, use, factSplits, `${seed}-choices`)
  const random = new Random(seed, discipline.name, skill.name, use, 'choices')
  const records: ChoiceRecord[] = []
  // Whole rounds of four keep the positions balanced where a table runs out.
  for (
    let item = source.next();
    item !== undefined && records.length < count;
    item = source.next()
  ) {
    const record = choiceRecord(
      discipline.name,
      skill.name,
      item,
      stratumOf(skill),
      records.length,
      random,
    )
    if (record !== undefined) records.push(record)
  }
  return records.slice(0, records.length - (records.length % 4))
}

function heldOut(
  discipline: Discipline,
  use: 'validation' | 'test',
  seed: number,
): [QuestionRecord[], ChoiceRecord[]] {
  const { questions, choices } = heldOutSizes[use]
  const seen = new Set<string>()
  const asked = discipline.skills.flatMap((skill) => {
    const source = new ItemSource(discipline.name, skill, use, factSplits, seed, seen)
    return takeItems([source], [questions]).map(([, item]) =>
      heldOutRecord(discipline.name, source, item),
    )
  })
  return [
    asked,
    discipline.skills.flatMap((skill) => choiceSet(discipline, skill, use, choices, seed)),
  ]
}

function disciplineData(
  discipline: Discipline,
  size: number,
  redundant: boolean,
  seed: number,
): DisciplineData {
  const [validation, validationChoices] = heldOut(discipline, 'validation', seed)
  const [test, testChoices] = heldOut(discipline, 'test', seed)
  const train = trainingSet(discipline, size, redundant, seed, new Set())
  return { train, validation, validationChoices, test, testChoices }
}

/** Cross-discipline facts are in validation or test, never in training. */
const crossSplit = (fact: string): 'validation' | 'test' =>
  hash32(`cross\u0000${fact}`) % 3 === 0 ? 'validation' : 'test'

function crossSet(use: 'validation' | 'test', seed: number): [QuestionRecord[], ChoiceRecord[]] {
  const asked: QuestionRecord[] = []
  const chosen: ChoiceRecord[] = []
  for (const skill of crossSkills) {
    const random = new Random(seed, 'cross', skill.name, use)
    const seen = new Set<string>()
    const next = (): Item | undefined => {
      for (let tries = 0; tries < 3000; tries++) {
        const drawn: Case = skill.draw(random)
        if (crossSplit(drawn.fact) !== use) continue
        const index = random.below(skill.ask[use].length)
        const prompt = fill(skill.ask[use][index], drawn.slots)
        if (seen.has(prompt)) continue
        seen.add(prompt)
        return { case: drawn, prompt, template: `cross/${skill.name}/${use}-${index}` }
      }
      return undefined
    }
    const { questions, choices } = crossSizes[use]
    for (let n = 0, item = next(); n < questions && item !== undefined; n++, item = next()) {
      asked.push({
        prompt: item.prompt,
        completion: item.case.answer,
        discipline: 'cross',
        disciplines: skill.disciplines,
        skill: skill.name,
        template: item.template,
        fact: item.case.fact,
        stratum: 'cross',
        chance: 0,
      })
    }
    seen.clear()
    const found: ChoiceRecord[] = []
    for (let item = next(); found.length < choices && item !== undefined; item = next()) {
      const record = choiceRecord('cross', skill.name, item, 'cross', found.length, random)
      if (record !== undefined) found.push({ ...record, disciplines: skill.disciplines })
    }
    chosen.push(...found.slice(0, found.length - (found.length % 4)))
  }
  return [asked, chosen]
}

/**
 * The whole corpus. The same seed gives the same records; which facts and templates belong to which
 * split depends on no seed.
 */
export function generateCorpus({ seed, sizes = {} }: CorpusOptions): Corpus {
  const data = Object.fromEntries(
    disciplines.map((discipline) => [
      discipline.name,
      disciplineData(
        discipline,
        sizes[discipline.name] ?? trainingSizes[discipline.name],
        lowResource.includes(discipline.name),
        seed,
      ),
    ]),
  ) as Record<DisciplineName, DisciplineData>
  const [validation, validationChoices] = crossSet('validation', seed)
  const [test, testChoices] = crossSet('test', seed)
  return {
    disciplines: data,
    cross: { validation, validationChoices, test, testChoices },
    general: disciplineData(general, generalTrainingSize, false, seed),
    instructions: instructionSets(general, disciplines, factSplits, seed),
  }
}

/**
 * Fresh training records of one discipline, none of them in its training set, uniform over skills: what
 * could have been collected instead of repeating. As many as the largest discipline has by default.
 */
export function reserve(
  name: DisciplineName,
  count: number = Math.max(...Object.values(trainingSizes)),
  seed = 1,
): QuestionRecord[] {
  const discipline = disciplines.find((candidate) => candidate.name === name)
  if (discipline === undefined) {
    throw new RangeError(
      `the discipline is '${name}', expected one of ${disciplineNames.join(', ')}`,
    )
  }
  const seen = new Set<string>()
  trainingSet(discipline, trainingSizes[name], lowResource.includes(name), seed, seen)
  return trainingSet(discipline, count, false, `${seed}-reserve`, seen)
}
