/**
 * Text for pre-training, without end: declarative statements of every fact that a table holds, worked
 * examples of the rules on training numbers only, and plain everyday language. No question of any split
 * is in it. A second form of it reviews the facts: half of its statements are cards.
 */
import { disciplines, factSplits } from './corpus.js'
import { mathematics } from './disciplines/mathematics.js'
import { general } from './general.js'
import { Random } from './random.js'
import { type Case, fill, type LookupSkill, type RuleSkill, type Skill } from './skill.js'
import { adjectives, kinds, names, nouns, places, verbs, withArticle } from './words.js'

export interface PretrainingOptions {
  seed: number
  /** Stop once this many tokens were given. Without it the text has no end. */
  tokens?: number
  /** Counts the tokens of a document; by default an estimate from its characters. */
  countTokens?: (text: string) => number
  form?: Form
}

/**
 * learn: statements, and documents of cards. review: in every document of facts one statement in two is a card. It is
 * mixed among the chats of the tuning, where a fact that no chat asks about would be forgotten.
 */
export type Form = 'learn' | 'review'

/** Measured with the committed tokenizer over three million characters. */
export const charactersPerToken = 2.99

interface Statement {
  text: string
  fact: string
}

const allSkills: readonly Skill[] = [
  ...disciplines.flatMap(({ skills }) => [...skills]),
  ...general.skills,
]
const lookups = allSkills.filter((skill): skill is LookupSkill => skill.kind === 'lookup')
const rules = allSkills.filter((skill): skill is RuleSkill => skill.kind === 'rule')
/** What has to be practised: rules, twice as often those of arithmetic, on which other disciplines build. */
const practised: readonly Skill[] = [...rules, ...mathematics.skills]

/** The cases of one subject (an element, a country), with the skill that words them. */
const subjects = new Map<string, [LookupSkill, Case][]>()
for (const skill of lookups) {
  for (const item of skill.cases) {
    if (item.subject === undefined) continue
    subjects.set(item.subject, [...(subjects.get(item.subject) ?? []), [skill, item]])
  }
}
const subjectNames = [...subjects.keys()]
const allCases = lookups.flatMap((skill) => skill.cases.map((item) => [skill, item] as const))

function state(skill: Skill, item: Case, random: Random): Statement {
  return {
    text: fill(random.pick(skill.say), { ...item.slots, answer: item.answer }),
    fact: item.fact,
  }
}

/** The ending of a statement that a card turns into a new line. */
const answerLast = / \{answer\}\.$/

/**
 * A statement with the answer on a line of its own, without the space before it. Tokens hold that
 * space, so that a word would otherwise be unknown where an answer of a chat begins.
 */
function card(skill: Skill, item: Case, random: Random): Statement {
  const fronts = skill.say.filter((template) => answerLast.test(template))
  if (fronts.length === 0) return state(skill, item, random)
  const front = fill(random.pick(fronts).replace(answerLast, ':'), item.slots)
  return { text: `${front}\n${item.answer}`, fact: item.fact }
}

/** A statement or a card, as often, and a card also of the skills that have a front of their own. */
function stateOrCard(skill: Skill, item: Case, random: Random): Statement {
  if (random.below(2) === 0) return state(skill, item, random)
  if (skill.front === undefined || random.below(2) === 0) return card(skill, item, random)
  return { text: `${fill(skill.front, item.slots)}:\n${item.answer}`, fact: item.fact }
}

type Wording = typeof state

/** A rule's example on training numbers: the numbers of validation and test stay unseen. */
function trainingCase(skill: RuleSkill, random: Random): Case {
  for (;;) {
    const item = skill.draw(random)
    if (factSplits.of(item.fact) === 'train') return item
  }
}

const example = (skill: Skill, random: Random, word: Wording): Statement =>
  word(
    skill,
    skill.kind === 'rule' ? trainingCase(skill, random) : random.pick(skill.cases),
    random,
  )

/** What is known of two or three subjects, each fact in one or two wordings. */
function portrait(random: Random, word: Wording): Statement[] {
  return random.sample(subjectNames, 3).flatMap((subject) => {
    const cases = random.sample(subjects.get(subject)!, 8)
    return random.shuffle(cases).map(([skill, item]) => word(skill, item, random))
  })
}

const mixedFacts = (random: Random, word: Wording): Statement[] =>
  Array.from({ length: 14 }, () => word(...random.pick(allCases), random))

function cards(random: Random): Statement[] {
  return Array.from({ length: 12 }, () => {
    if (random.below(4) > 0) return card(...random.pick(allCases), random)
    const rule = random.pick(rules)
    return card(rule, trainingCase(rule, random), random)
  })
}

function drill(random: Random, word: Wording): Statement[] {
  const chosen = Array.from({ length: random.pick([1, 1, 2, 4]) }, () => random.pick(practised))
  return Array.from({ length: 12 }, () => example(random.pick(chosen), random, word))
}

/** Short scenes about people, things and places. */
function story(random: Random): Statement[] {
  const [who, friend] = random.sample(names, 2) as [string, string]
  const [thing, other] = random.sample(nouns, 2) as [string, string]
  const [look, otherLook] = random.sample(adjectives, 2) as [string, string]
  const place = random.pick(places)
  const kind = random.pick(Object.keys(kinds))
  const members = random.sample(kinds[kind], 3)
  const patterns = [
    `${who} has ${withArticle(`${look} ${thing}`)}.`,
    `The ${look} ${thing} is ${place}.`,
    `${friend} sees the ${thing} and ${withArticle(`${otherLook} ${other}`)}.`,
    `"Where is the ${thing}?" asks ${friend}. "It is ${place}," says ${who}.`,
    `${who} and ${friend} are friends.`,
    `The ${otherLook} ${other} ${random.pick(verbs)} ${random.pick(places)}.`,
    `${who} gives the ${thing} to ${friend}.`,
    `${friend} likes the ${other}, but ${who} likes the ${thing}.`,
    `Now the ${thing} is not ${place}. It is ${random.pick(places)}.`,
    `${members[0]}, ${members[1]} and ${members[2]}: each is a ${kind}.`,
    `${withArticle(members[0])} is a ${kind}, and so is ${withArticle(members[1])}.`,
    `I have ${withArticle(thing)} and ${withArticle(other)}.`,
    `There is no ${thing} here, only ${withArticle(other)}.`,
    `${who} is ${random.pick(['happy', 'sad', 'tired', 'hungry', 'late', 'early'])} today.`,
    `They walk home and eat ${random.pick(['bread', 'soup', 'cake', 'cheese', 'honey'])}.`,
  ]
  return random
    .sample(patterns, 9)
    .map((text) => ({ text: text.charAt(0).toUpperCase() + text.slice(1), fact: '' }))
}

/** Words in capitals, quotes, brackets, lists and JSON, so that forms are known before instructions ask for them. */
function forms(random: Random): Statement[] {
  return Array.from({ length: 8 }, () => {
    const kind = random.pick(Object.keys(kinds))
    const words = random.sample(kinds[kind], random.between(2, 4))
    const word = random.pick([...nouns, ...Object.values(kinds).flat()])
    const text = random.pick([
      `In upper case, ${word} is ${word.toUpperCase()}.`,
      `${word.toUpperCase()} is ${word} in lower case.`,
      `In quotes: "${word}".`,
      `In square brackets: [${word}].`,
      `As JSON: {"answer": "${word}"}`,
      `As bullets:\n${words.map((each) => `- ${each}`).join('\n')}`,
      `With commas: ${words.join(', ')}.`,
      `One on each line:\n${words.join('\n')}`,
      `Said twice: ${word} ${word}.`,
      `Said three times: ${word} ${word} ${word}.`,
      `With an exclamation mark: ${word}!`,
    ])
    return { text, fact: '' }
  })
}

const makers: readonly (readonly [number, (random: Random, word: Wording) => Statement[]])[] = [
  [18, portrait],
  [10, mixedFacts],
  [14, cards],
  [46, drill],
  [7, story],
  [5, forms],
]
const totalWeight = makers.reduce((sum, [weight]) => sum + weight, 0)

/** Document number `index` of a seed, with the facts it states. */
export function pretrainingDocument(
  seed: number,
  index: number,
  form: Form = 'learn',
): { text: string; facts: string[] } {
  // The names of the streams are part of what the committed models were made of.
  const random = new Random(seed, form === 'learn' ? 'pretraining' : 'pretraining-2', index)
  let place = random.below(totalWeight)
  const [, make] = makers.find(([weight]) => (place -= weight) < 0)!
  const statements = make(random, form === 'learn' ? state : stateOrCard)
  const glue =
    statements.some(({ text }) => text.includes('\n')) || random.below(3) === 0 ? '\n' : ' '
  return {
    text: statements.map(({ text }) => text).join(glue),
    facts: statements.map(({ fact }) => fact).filter((fact) => fact !== ''),
  }
}

/** Documents in the order of their numbers: the first ones of a longer run are those of a shorter one. */
export function* pretrainingDocuments({
  seed,
  tokens = Infinity,
  countTokens,
  form = 'learn',
}: PretrainingOptions): Generator<string> {
  const count = countTokens ?? ((text: string) => text.length / charactersPerToken)
  let given = 0
  for (let index = 0; given < tokens; index++) {
    const { text } = pretrainingDocument(seed, index, form)
    given += count(text) + 1
    yield text
  }
}
