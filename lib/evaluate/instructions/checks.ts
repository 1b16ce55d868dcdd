/**
 * IFEval's verifiable instructions (arXiv 2311.07911), with the conventions of lm-evaluation-harness: the same 25
 * names and arguments, the same counting. Keywords are taken as they are written; there they are regular expressions.
 * Sentences and capital words are counted without nltk: sentences by the Unicode rules, words by white space and
 * punctuation.
 */
import { isInLanguage, languageCodes } from './language.js'

/** The arguments of one instruction; what is null or missing is not there. */
export type InstructionArguments = Readonly<Record<string, unknown>>

/** Reads the arguments, and returns what tells of an answer whether it follows. Throws what is wrong with them. */
type Instruction = (given: Arguments) => (answer: string) => boolean

export const instructions: Readonly<Record<string, Instruction>> = {
  'keywords:existence': (given) => {
    const keywords = given.texts('keywords')
    return (answer) => keywords.every((keyword) => count(answer, literal(keyword)) > 0)
  },
  'keywords:frequency': (given) => {
    const keyword = literal(given.text('keyword').trim())
    return compared(given, 'frequency', 'relation', (answer) => count(answer, keyword))
  },
  'keywords:forbidden_words': (given) => {
    const words = given.texts('forbidden_words').map((word) => `${edge}${literal(word)}${edge}`)
    return (answer) => words.every((word) => count(answer, word) === 0)
  },
  'keywords:letter_frequency': (given) => {
    const letter = given.text('letter').toLowerCase()
    if (!/^[a-z]$/.test(letter)) throw new Error(`letter must be one from a to z, not '${letter}'`)
    return compared(
      given,
      'let_frequency',
      'let_relation',
      (answer) => answer.toLowerCase().split(letter).length - 1,
    )
  },
  'language:response_language': (given) => {
    const code = given.text('language')
    if (!languageCodes.includes(code))
      throw new Error(`language must be one of ${languageCodes.join(', ')}, not '${code}'`)
    return (answer) => isInLanguage(answer, code)
  },
  'length_constraints:number_sentences': (given) =>
    compared(given, 'num_sentences', 'relation', countSentences),
  'length_constraints:number_words': (given) =>
    compared(given, 'num_words', 'relation', (answer) => count(answer, `${wordCharacter}+`)),
  'length_constraints:number_paragraphs': (given) => {
    const wanted = given.number('num_paragraphs')
    return (answer) => {
      const parts = answer.split(/\s?\*\*\*\s?/)
      const filled = parts.filter((part) => part.trim() !== '')
      const inner = parts.slice(1, -1)
      return filled.length === wanted && inner.every((part) => part.trim() !== '')
    }
  },
  'length_constraints:nth_paragraph_first_word': (given) => {
    const wanted = given.number('num_paragraphs')
    const nth = given.number('nth_paragraph')
    const firstWord = given.text('first_word').toLowerCase()
    return (answer) => {
      const parts = answer.split('\n\n')
      const numParagraphs = parts.filter((part) => part.trim() !== '').length
      const paragraph = nth <= numParagraphs ? parts[nth - 1].trim() : ''
      if (paragraph === '' || numParagraphs !== wanted) return false
      const word = paragraph.split(/\s+/)[0].replace(/^'+/, '').replace(/^"+/, '')
      return word.split(/[.,?!'"]/)[0].toLowerCase() === firstWord
    }
  },
  'detectable_content:number_placeholders': (given) => {
    const wanted = given.number('num_placeholders')
    return (answer) => count(answer, '\\[[^\\n]*?\\]') >= wanted
  },
  'detectable_content:postscript': (given) => {
    const marker = given.text('postscript_marker').trim()
    const patterns: Readonly<Record<string, string>> = {
      'P.P.S': 'p\\.\\s?p\\.\\s?s',
      'P.S.': 'p\\.\\s?s\\.',
    }
    const pattern = Object.hasOwn(patterns, marker) ? patterns[marker] : literal(marker)
    return (answer) => count(answer, pattern) > 0
  },
  'detectable_format:number_bullet_lists': (given) => {
    const wanted = given.number('num_bullets')
    const stars = `${lineStart}\\s*\\*[^*][^\\n]*`
    const dashes = `${lineStart}\\s*-[^\\n]*`
    return (answer) => count(answer, stars) + count(answer, dashes) === wanted
  },
  'detectable_format:constrained_response': () => (answer) =>
    ['yes', 'no', 'maybe'].some((word) => answer.includes(`My answer is ${word}.`)),
  'detectable_format:number_highlighted_sections': (given) => {
    const wanted = given.number('num_highlights')
    return (answer) =>
      filledMatches(answer, /\*[^\n*]*\*/g, '*') + filledMatches(answer, /\*\*[^\n*]*\*\*/g, '*') >=
      wanted
  },
  'detectable_format:multiple_sections': (given) => {
    const splitter = literal(given.text('section_spliter').trim())
    const wanted = given.number('num_sections')
    return (answer) =>
      count(answer, `\\s?${splitter}\\s?\\p{Nd}+\\s?`, { ignoreCase: false }) >= wanted
  },
  'detectable_format:json_format': () => (answer) => {
    const text = answer
      .trim()
      .replace(/^```json/, '')
      .replace(/^```Json/, '')
      .replace(/^```JSON/, '')
      .replace(/^```/, '')
      .replace(/```$/, '')
    try {
      JSON.parse(text)
      return true
    } catch {
      return false
    }
  },
  'detectable_format:title': () => (answer) => filledMatches(answer, /<<[^\n]+>>/g, '<>') > 0,
  'combination:two_responses': () => (answer) => {
    const parts = answer.split('******').map((part) => part.trim())
    const [first, second, ...rest] = parts.filter((part) => part !== '')
    return (
      parts.slice(1, -1).every((part) => part !== '') &&
      second !== undefined &&
      rest.length === 0 &&
      first !== second
    )
  },
  'combination:repeat_prompt': (given) => {
    const prompt = given.text('prompt_to_repeat').trim().toLowerCase()
    return (answer) => answer.trim().toLowerCase().startsWith(prompt)
  },
  'startend:end_checker': (given) => {
    const phrase = given.text('end_phrase').trim().toLowerCase()
    return (answer) =>
      answer.trim().replace(/^"+/, '').replace(/"+$/, '').toLowerCase().endsWith(phrase)
  },
  'startend:quotation': () => (answer) => {
    const text = answer.trim()
    return text.length > 1 && text.startsWith('"') && text.endsWith('"')
  },
  'change_case:capital_word_frequency': (given) =>
    compared(
      given,
      'capital_frequency',
      'capital_relation',
      (answer) =>
        (answer.match(/[^\s\p{P}]+(?:['’\-.][^\s\p{P}]+)*/gu) ?? []).filter(isUpper).length,
    ),
  'change_case:english_capital': () => (answer) => isUpper(answer) && isInLanguage(answer, 'en'),
  'change_case:english_lowercase': () => (answer) =>
    /\p{Ll}/u.test(answer) && !/[\p{Lu}\p{Lt}]/u.test(answer) && isInLanguage(answer, 'en'),
  'punctuation:no_comma': () => (answer) => !answer.includes(','),
}

/** Typed access to what a record gives. */
export class Arguments {
  readonly #values: InstructionArguments

  constructor(values: InstructionArguments) {
    this.#values = values
  }

  text(key: string): string {
    const value = this.#get(key)
    if (typeof value !== 'string' || value === '') throw this.#wrong(key, 'a text', value)
    return value
  }

  texts(key: string): readonly string[] {
    const value = this.#get(key)
    if (
      !Array.isArray(value) ||
      value.length === 0 ||
      !value.every((one) => typeof one === 'string')
    )
      throw this.#wrong(key, 'a list of texts', value)
    return value
  }

  number(key: string): number {
    const value = this.#get(key)
    if (typeof value !== 'number' || !Number.isFinite(value) || value < 0)
      throw this.#wrong(key, 'a number from 0', value)
    return value
  }

  #get(key: string): unknown {
    return Object.hasOwn(this.#values, key) ? this.#values[key] : undefined
  }

  #wrong(key: string, allowed: string, value: unknown): Error {
    const shown = value === undefined || value === null ? 'missing' : JSON.stringify(value)
    return new Error(`${key} must be ${allowed}, not ${shown}`)
  }
}

// Python's \w and \b, which know all of Unicode.
const wordCharacter = '[\\p{L}\\p{M}\\p{N}_]'
const edge = `(?:(?<=${wordCharacter})(?!${wordCharacter})|(?<!${wordCharacter})(?=${wordCharacter}))`
const lineStart = '(?:^|(?<=\\n))'

function literal(text: string): string {
  return text.replace(/[\\^$.*+?()[\]{}|/-]/g, '\\$&')
}

function count(text: string, pattern: string, { ignoreCase = true } = {}): number {
  return [...text.matchAll(new RegExp(pattern, ignoreCase ? 'giu' : 'gu'))].length
}

function compared(
  given: Arguments,
  limitKey: string,
  relationKey: string,
  measure: (answer: string) => number,
): (answer: string) => boolean {
  const limit = given.number(limitKey)
  const relation = given.text(relationKey)
  if (relation === 'less than') return (answer) => measure(answer) < limit
  if (relation === 'at least') return (answer) => measure(answer) >= limit
  throw new Error(`${relationKey} must be 'less than' or 'at least', not '${relation}'`)
}

/** Matches that hold more than the marks around them. */
function filledMatches(text: string, pattern: RegExp, marks: string): number {
  const strip = new RegExp(`[${marks}]`, 'g')
  return [...text.matchAll(pattern)].filter(([match]) => match.replace(strip, '').trim() !== '')
    .length
}

function countSentences(text: string): number {
  const segmenter = new Intl.Segmenter('en', { granularity: 'sentence' })
  return [...segmenter.segment(text)].filter(({ segment }) => segment.trim() !== '').length
}

function isUpper(text: string): boolean {
  return /\p{Lu}/u.test(text) && !/[\p{Ll}\p{Lt}]/u.test(text)
}
