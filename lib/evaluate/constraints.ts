/**
 * Decides whether a text obeys the constraints that an instruction record carries. No model, no
 * judgement: every constraint is a property of the text. Surrounding white space is ignored.
 */
export type Constraint =
  /** Every letter is a capital (or none is), and there is at least one letter. */
  | { kind: 'upper-case' }
  | { kind: 'lower-case' }
  /** Every word starts with a capital followed by small letters. */
  | { kind: 'title-case' }
  /** One JSON object whose only key is `key`; its value is a string, a number or a boolean. */
  | { kind: 'json'; key: string }
  /** Words are separated by white space. */
  | { kind: 'word-count'; count: number }
  | { kind: 'starts-with'; text: string }
  | { kind: 'ends-with'; text: string }
  /** The same words `count` times, and nothing else. */
  | { kind: 'repeat'; count: number }
  /** Exactly `count` lines, each starting with "- " and more. */
  | { kind: 'bullets'; count: number }
  /** Exactly `count` lines with something on each. */
  | { kind: 'line-count'; count: number }
  /** Exactly `count` parts between commas, none empty. */
  | { kind: 'comma-list'; count: number }
  /** Enclosed in `open` and `close`, with something between. */
  | { kind: 'wrapped'; open: string; close: string }
  /** Holds the text as a whole word; case matters unless told otherwise. */
  | { kind: 'contains'; text: string; ignoreCase?: boolean }
  /** Nowhere holds the text, in any case. */
  | { kind: 'excludes'; text: string }

export interface InstructionRecord {
  constraints: readonly Constraint[]
}

const words = (text: string): string[] => text.split(/\s+/).filter((word) => word !== '')
const isLetterOrDigit = (character: string | undefined): boolean =>
  character !== undefined && /[\p{L}\p{N}]/u.test(character)

function containsWord(text: string, word: string): boolean {
  if (word === '') return false
  for (let at = text.indexOf(word); at !== -1; at = text.indexOf(word, at + 1)) {
    const before = isLetterOrDigit(word[0]) && isLetterOrDigit(text[at - 1])
    const after = isLetterOrDigit(word.at(-1)) && isLetterOrDigit(text[at + word.length])
    if (!before && !after) return true
  }
  return false
}

function isJsonWithKey(text: string, key: string): boolean {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    return false
  }
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false
  const entries = Object.entries(value)
  return (
    entries.length === 1 &&
    entries[0][0] === key &&
    ['string', 'number', 'boolean'].includes(typeof entries[0][1])
  )
}

function isRepeated(text: string, count: number): boolean {
  const all = words(text)
  if (all.length === 0 || all.length % count !== 0) return false
  const unit = all.length / count
  return all.every((word, index) => word === all[index % unit])
}

export function checkConstraint(constraint: Constraint, text: string): boolean {
  const answer = text.trim()
  if (answer === '') return false
  switch (constraint.kind) {
    case 'upper-case':
      return /\p{L}/u.test(answer) && answer === answer.toUpperCase()
    case 'lower-case':
      return /\p{L}/u.test(answer) && answer === answer.toLowerCase()
    case 'title-case':
      return words(answer).every((word) => /^\p{Lu}[^\p{Lu}]*$/u.test(word))
    case 'json':
      return isJsonWithKey(answer, constraint.key)
    case 'word-count':
      return words(answer).length === constraint.count
    case 'starts-with':
      return answer.startsWith(constraint.text)
    case 'ends-with':
      return answer.endsWith(constraint.text)
    case 'repeat':
      return isRepeated(answer, constraint.count)
    case 'bullets': {
      const lines = answer.split('\n')
      return lines.length === constraint.count && lines.every((line) => /^- \S/.test(line))
    }
    case 'line-count': {
      const lines = answer.split('\n')
      return lines.length === constraint.count && lines.every((line) => line.trim() !== '')
    }
    case 'comma-list': {
      const parts = answer.split(',')
      return parts.length === constraint.count && parts.every((part) => part.trim() !== '')
    }
    case 'wrapped':
      return (
        answer.length > constraint.open.length + constraint.close.length &&
        answer.startsWith(constraint.open) &&
        answer.endsWith(constraint.close)
      )
    case 'contains':
      return constraint.ignoreCase === true
        ? containsWord(answer.toLowerCase(), constraint.text.toLowerCase())
        : containsWord(answer, constraint.text)
    case 'excludes':
      return !answer.toLowerCase().includes(constraint.text.toLowerCase())
  }
}

/** Whether the text obeys every constraint of the record. An empty text obeys none. */
export function checkInstruction(record: InstructionRecord, text: string): boolean {
  return (
    record.constraints.length > 0 &&
    record.constraints.every((constraint) => checkConstraint(constraint, text))
  )
}
