import type { Random } from './random.js'

export type DisciplineName = 'mathematics' | 'chemistry' | 'biology' | 'medicine' | 'geography'

/** One fact, ready to be asked. */
export interface Case {
  /** What the splits keep apart: one row of a table, or the numbers of one exercise. */
  fact: string
  /** Facts of tables that the answer builds on; a training case uses training facts only. */
  uses?: readonly string[]
  /** What its statements are about; pre-training documents gather the statements of one subject. */
  subject?: string
  /** Values for the slots `{name}` of the templates; `{answer}` is added for statements. */
  slots: Readonly<Record<string, string | number>>
  answer: string
  /** The closed set that the answer comes from (yes, no), where there is one. */
  options?: readonly string[]
  /** Wrong answers that look right, most tempting first. They may repeat or be right: both are sieved. */
  wrong?: (random: Random) => readonly string[]
}

/**
 * Templates of one use are asked in no other: `tuning` by the instruction-tuning set of the base
 * model, the rest by the split of their name. A template's cluster is its skill, use and index.
 */
export interface Templates {
  tuning: readonly string[]
  train: readonly string[]
  validation: readonly string[]
  test: readonly string[]
}

interface SkillCommon {
  /** Short name, unique within its discipline. */
  name: string
  ask: Templates
  /** Declarative wordings for the pre-training text. */
  say: readonly string[]
  /** Heading of a card, for a skill whose statements do not end in the answer. */
  front?: string
}

/** A table: its facts are all stated in the pre-training text, and the test asks in new words. */
export interface LookupSkill extends SkillCommon {
  kind: 'lookup'
  cases: readonly Case[]
}

/** A rule: the test asks about numbers or entities that no training text combines. */
export interface RuleSkill extends SkillCommon {
  kind: 'rule'
  draw: (random: Random) => Case
}

export type Skill = LookupSkill | RuleSkill

export interface Discipline<Name extends string = string> {
  name: Name
  skills: readonly Skill[]
}

/** Fills the slots of a template and starts with a capital letter. */
export function fill(template: string, slots: Readonly<Record<string, string | number>>): string {
  const text = template.replace(/\{(\w+)\}/g, (_, slot: string) => {
    const value = slots[slot]
    if (value === undefined)
      throw new Error(`the template '${template}' has no value for {${slot}}`)
    return String(value)
  })
  return text.charAt(0).toUpperCase() + text.slice(1)
}

/** Whole numbers near a value, never negative, in the value's own unit. */
export function nearNumbers(random: Random, value: number, unit = ''): string[] {
  const steps =
    value < 10
      ? [1, 2, 3]
      : value < 100
        ? [1, 2, 10, 5]
        : value < 1000
          ? [1, 10, 100, 20]
          : [100, 10, 1000]
  const found = steps
    .flatMap((step) => [value + step, value - step])
    .filter((number) => number >= 0)
  return random.shuffle(found).map((number) => `${number}${unit}`)
}
