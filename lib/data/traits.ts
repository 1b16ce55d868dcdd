import type { CorpusRecord } from './records.js'

/** What duplicates are recognised by, and what a sample counts: one entry a sample, in the order of its store. */
export class SampleTraits {
  #content = new Float64Array(1024)
  #facts = new Float64Array(1024)
  #trainedTokens = new Uint32Array(1024)
  #size = 0

  get size(): number {
    return this.#size
  }

  /** A 53-bit hash of the text: equal where all but white space is equal. */
  content(index: number): number {
    return this.#content[index]
  }

  /** A 53-bit hash of the numbers, the entities and the answer. */
  facts(index: number): number {
    return this.#facts[index]
  }

  trainedTokens(index: number): number {
    return this.#trainedTokens[index]
  }

  add(record: CorpusRecord, labelMask: Uint8Array): void {
    if (this.#size === this.#content.length) this.#grow()
    const { asked: question, choices, answer } = textsOf(record)
    const asked = [question, ...choices].join('\n')
    this.#content[this.#size] = hash(`${collapsed(asked)}\0${collapsed(answer)}`)
    this.#facts[this.#size] = hash(`${factsOf(asked).join(' ')}\0${collapsed(answer)}`)
    this.#trainedTokens[this.#size++] = labelMask.reduce((sum, one) => sum + one, 0)
  }

  #grow(): void {
    const length = 2 * this.#size
    const grown = <T extends Float64Array | Uint32Array>(from: T, to: T): T => {
      to.set(from)
      return to
    }
    this.#content = grown(this.#content, new Float64Array(length))
    this.#facts = grown(this.#facts, new Float64Array(length))
    this.#trainedTokens = grown(this.#trainedTokens, new Uint32Array(length))
  }
}

export interface RecordTexts {
  readonly asked: string
  readonly choices: readonly string[]
  readonly answer: string
}

/** What a record asks, and what it answers; a text only says something. */
export function textsOf(record: CorpusRecord): RecordTexts {
  const choices: readonly string[] = []
  switch (record.kind) {
    case 'text':
      return { asked: record.text, choices, answer: '' }
    case 'completion':
      return { asked: record.prompt, choices, answer: record.completion }
    case 'choice':
      return {
        asked: record.question,
        choices: record.choices,
        answer: record.choices[record.answer],
      }
    case 'chat': {
      const contents = record.messages.map(({ content }) =>
        typeof content === 'string' ? content : JSON.stringify(content ?? ''),
      )
      return { asked: contents.slice(0, -1).join('\n'), choices, answer: contents.at(-1) ?? '' }
    }
  }
}

function collapsed(text: string): string {
  return text.trim().replace(/\s+/gu, ' ')
}

const wordOrSign =
  /(?<![\p{L}\p{N}])-(?=\p{N})|[\p{L}\p{N}]+(?:[.,:'’/-][\p{L}\p{N}]+)*|[\p{Sm}*/^%]/gu

// Capitals at the beginning of a sentence say nothing for these.
const openers = new Set(
  (
    'a an the this that these those what which who whom whose when where why how is are was were do does did can could ' +
    'will would should shall may might must has have had if in on at of for from to with by as and or but not no yes it ' +
    'its he she they we you i give find write name tell state say list compute calculate convert determine explain ' +
    'describe choose select please let suppose consider true false question answer'
  ).split(' '),
)

/**
 * What two wordings of one question have in common and two questions of one template have not, in order: numbers with
 * the word after each, which may be its unit, signs of calculation, and words with a capital or a digit.
 */
export function factsOf(text: string): string[] {
  const facts: string[] = []
  let afterNumber = false
  let end = 0
  for (const { 0: word, index } of text.matchAll(wordOrSign)) {
    const opens =
      index === 0 || /[.!?:\n]\s*["'(]*$/u.test(text.slice(Math.max(end, index - 8), index))
    const isNumber = /^\p{N}/u.test(word)
    const isName = /\p{Lu}/u.test(word) && !(opens && openers.has(word.toLowerCase()))
    const isSign = !/[\p{L}\p{N}]/u.test(word)
    if (isNumber || isName || isSign || afterNumber || /\p{N}/u.test(word)) facts.push(word)
    afterNumber = isNumber
    end = index + word.length
  }
  return facts
}

/** 53 bits of two 32-bit multiplicative hashes over UTF-16 code units, each with MurmurHash3's finaliser. */
function hash(text: string): number {
  let a = 0x9e3779b9
  let b = 0x243f6a88
  for (let i = 0; i < text.length; i++) {
    const unit = text.charCodeAt(i)
    a = Math.imul(a ^ unit, 0x85ebca6b)
    a ^= a >>> 15
    b = Math.imul(b ^ unit, 0xc2b2ae35)
    b ^= b >>> 13
  }
  return (finish(a ^ text.length) & 0x1fffff) * 2 ** 32 + (finish(b) >>> 0)
}

function finish(hash: number): number {
  let h = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b)
  h = Math.imul(h ^ (h >>> 13), 0xc2b2ae35)
  return h ^ (h >>> 16)
}
