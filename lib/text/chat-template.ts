import { Environment, Interpreter, Template } from '@huggingface/jinja'
import { FormatError } from '../errors.js'
import { markGeneration, readMarks } from './generation-marks.js'
import type { Rendering, TemplateInput } from './rendering.js'

export interface TemplateVariables {
  /** bos_token, eos_token, … as tokenizer_config.json names them. */
  specialTokens: Readonly<Record<string, string>>
  /** What `strftime_now` says the time is, so that a corpus renders alike on every day. */
  date: string
}

// The library's declarations do not resolve under NodeNext (their imports have no extension):
// this is what we use of them.
interface RuntimeValue {
  value: unknown
}
interface Statement {
  type: string
}
interface ForStatement extends Statement {
  iterable: Statement & { lhs: Statement }
}
interface RuntimeInterpreter {
  run(program: unknown): RuntimeValue
  evaluate(statement: Statement | undefined, environment: unknown): RuntimeValue
}
interface RuntimeEnvironment {
  set(name: string, value: unknown): void
}
const LibraryInterpreter = Interpreter as unknown as new (
  environment: RuntimeEnvironment,
) => RuntimeInterpreter
const LibraryEnvironment = Environment as unknown as new () => RuntimeEnvironment

/**
 * What one rendering may cost. A template is a program from the model's folder: these limits make
 * a runaway one the same error on every machine, long before the worker's memory or time is used
 * up. A conversation of a million characters stays far below them.
 */
const limits = {
  /** Expressions and statements evaluated, and rounds of loops: seconds at most. */
  steps: 400_000,
  /** Numbers that one `range` gives. */
  range: 100_000,
  /** Size of one value: characters of strings, elements of lists, all levels together. */
  valueSize: 2 ** 24,
  /** Characters of all strings that come up. */
  totalSize: 2 ** 28,
} as const

/** A chat template, rendered with the variables that transformers gives it. */
export class ChatTemplate {
  readonly #source: string
  readonly #program: unknown
  #markedProgram: unknown
  readonly #variables: TemplateVariables

  /** @throws FormatError if the template does not parse. */
  constructor(template: string, variables: TemplateVariables) {
    this.#source = template
    this.#program = parse(template)
    this.#variables = variables
  }

  /** Renders one conversation; a template that refuses it, or passes a limit, is an `error`. */
  render(input: TemplateInput): Rendering {
    try {
      if (!input.marked) return { text: this.#run(this.#program, input) }
      this.#markedProgram ??= parse(markGeneration(this.#source))
      return readMarks(this.#run(this.#markedProgram, input))
    } catch (error) {
      return { error: error instanceof Error ? error.message : String(error) }
    }
  }

  #run(program: unknown, { messages, addGenerationPrompt, variables }: TemplateInput): string {
    const environment = new LibraryEnvironment()
    const globals = {
      false: false,
      true: true,
      none: null,
      False: false,
      True: true,
      None: null,
      range,
      raise_exception: (message: unknown) => {
        throw new Error(String(message))
      },
      strftime_now: (format: unknown) => formatDate(new Date(this.#variables.date), String(format)),
      messages,
      tools: null,
      documents: null,
      add_generation_prompt: addGenerationPrompt,
      ...this.#variables.specialTokens,
      ...variables,
    }
    for (const [name, value] of Object.entries(globals)) environment.set(name, value)
    const { value } = new BoundedInterpreter(environment).run(program)
    return value as string
  }
}

function parse(template: string): unknown {
  try {
    return new Template(template).parsed as unknown
  } catch (cause) {
    throw new FormatError(`The chat template does not parse: ${(cause as Error).message}.`, {
      cause,
    })
  }
}

class BoundedInterpreter extends LibraryInterpreter {
  #steps = 0
  #totalSize = 0
  readonly #sizes = new WeakMap<object, number>()
  /** Expressions that loops run over. A loop costs by its rounds even if its body is empty. */
  readonly #iterables = new WeakSet<object>()

  override evaluate(statement: Statement | undefined, environment: unknown): RuntimeValue {
    this.#step(1)
    if (statement?.type === 'For') {
      const { iterable } = statement as ForStatement
      this.#iterables.add(iterable.type === 'SelectExpression' ? iterable.lhs : iterable)
    }
    const result = super.evaluate(statement, environment)
    const { value } = result
    if (this.#sizeOf(value, 0) > limits.valueSize)
      throw new Error(
        `the template builds a value of more than ${String(limits.valueSize)} characters and elements`,
      )
    if (typeof value === 'string') this.#totalSize += value.length
    if (this.#totalSize > limits.totalSize)
      throw new Error(`the template goes through more than ${String(limits.totalSize)} characters`)
    if (statement && this.#iterables.has(statement)) {
      if (Array.isArray(value)) this.#step(value.length)
      else if (value instanceof Map) this.#step(value.size)
    }
    return result
  }

  #step(count: number): void {
    this.#steps += count
    if (this.#steps > limits.steps)
      throw new Error(`the template takes more than ${String(limits.steps)} steps`)
  }

  // Lists and mappings never change once made, so their size is counted once. Namespaces do
  // change; what is assigned to them has been counted.
  #sizeOf(value: unknown, depth: number): number {
    if (typeof value === 'string') return value.length
    if (typeof value !== 'object' || value === null) return 0
    const known = this.#sizes.get(value)
    if (known !== undefined) return known
    if (depth > 200) throw new Error('the template nests values more than 200 deep')
    this.#sizes.set(value, 0)
    let size = 1
    if (Array.isArray(value))
      for (const item of value as RuntimeValue[]) size += 1 + this.#sizeOf(item.value, depth + 1)
    else if (value instanceof Map)
      for (const [key, item] of value as Map<string, RuntimeValue>)
        size += key.length + this.#sizeOf(item.value, depth + 1)
    this.#sizes.set(value, size)
    return size
  }
}

function range(start: number, stop?: number, step = 1): number[] {
  if (stop === undefined) [start, stop] = [0, start]
  if (![start, stop, step].every(Number.isSafeInteger) || step === 0)
    throw new Error('range() takes integers, and a step other than 0')
  const length = Math.max(0, Math.ceil((stop - start) / step))
  if (length > limits.range)
    throw new Error(
      `range() of ${String(length)} numbers; at most ${String(limits.range)} are allowed`,
    )
  return Array.from({ length }, (_, index) => start + index * step)
}

const months =
  'January February March April May June July August September October November December'.split(' ')
const weekdays = 'Sunday Monday Tuesday Wednesday Thursday Friday Saturday'.split(' ')

/** strftime in English and UTC, for the directives that chat templates use. */
function formatDate(date: Date, format: string): string {
  const two = (value: number): string => String(value).padStart(2, '0')
  const directives: Record<string, string> = {
    Y: String(date.getUTCFullYear()),
    y: two(date.getUTCFullYear() % 100),
    m: two(date.getUTCMonth() + 1),
    d: two(date.getUTCDate()),
    B: months[date.getUTCMonth()],
    b: months[date.getUTCMonth()].slice(0, 3),
    A: weekdays[date.getUTCDay()],
    a: weekdays[date.getUTCDay()].slice(0, 3),
    H: two(date.getUTCHours()),
    M: two(date.getUTCMinutes()),
    S: two(date.getUTCSeconds()),
    '%': '%',
  }
  return format.replace(/%(.)/g, (directive, key: string) => directives[key] ?? directive)
}
