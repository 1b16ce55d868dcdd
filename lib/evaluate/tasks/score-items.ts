import type { RE2JS } from 're2js'
import { generate } from '../../generate/generate.js'
import type { Model } from '../../model.js'
import { encodeContinuations } from '../../text/continuation.js'
import { type InstructionArguments, instructionCheck } from '../instructions/index.js'
import { type SequenceScore, scoreSequences } from '../score.js'
import { choicesOf, inRecord, type Question, targetOf } from './questions.js'
import type { ChoiceTask, GenerationTask, InstructionTask, LikelihoodTask, Task } from './task.js'
import { UnusableRecord, valueAt } from './template.js'

/** What is kept of an item. */
export interface ItemScore {
  readonly line: number
  readonly group: string | null
  /** By figure; several truth values count each for one. */
  readonly scores: Readonly<Record<string, number | boolean | readonly boolean[]>>
  /** Of a likelihood task, in nats. */
  readonly logLikelihood?: number
  readonly tokens?: number
  /** What was generated. */
  readonly answer?: string
  /** Log-likelihood of each choice. */
  readonly choices?: readonly number[]
}

export interface ScoringOptions {
  /** Of the data, for what is wrong with a record. */
  readonly file: string
  /** Contexts are turns of a user, rendered by the model's template. */
  readonly chatTemplate: boolean
  readonly signal?: AbortSignal
}

/** The scores of some questions, in their order. @throws DataError for a record that lacks something */
export async function scoreItems(
  model: Model,
  task: Task,
  questions: readonly Question[],
  options: ScoringOptions,
): Promise<ItemScore[]> {
  const contexts = await renderContexts(model, questions, options)
  switch (task.kind) {
    case 'choice':
      return await scoreChoices(model, task, questions, contexts, options)
    case 'likelihood':
      return await scoreTargets(model, task, questions, contexts, options)
    case 'generation':
      return await scoreAnswers(model, task, questions, contexts, options)
    case 'instructions':
      return await scoreInstructions(model, task, questions, contexts, options)
  }
}

async function renderContexts(
  model: Model,
  questions: readonly Question[],
  { file, chatTemplate }: ScoringOptions,
): Promise<string[]> {
  const contexts = questions.map(({ context }) => context)
  if (!chatTemplate) return contexts
  const rendered = await model.tokenizer.renderChats(
    contexts.map((content) => ({
      messages: [{ role: 'user', content }],
      addGenerationPrompt: true,
    })),
  )
  return rendered.map(({ text, error }, i) =>
    inRecord(file, questions[i].line, () => {
      if (error !== undefined)
        throw new UnusableRecord(`the chat template refused the record: ${error}`)
      return text
    }),
  )
}

/** A rendered context ends where the answer begins. */
const delimiterOf = (task: ChoiceTask | LikelihoodTask, { chatTemplate }: ScoringOptions) =>
  chatTemplate ? '' : task.delimiter

async function scoreChoices(
  model: Model,
  task: ChoiceTask,
  questions: readonly Question[],
  contexts: readonly string[],
  options: ScoringOptions,
): Promise<ItemScore[]> {
  const delimiter = delimiterOf(task, options)
  const asked = questions.map(({ line, fields }) =>
    inRecord(options.file, line, () => choicesOf(task, fields)),
  )
  const pairs = asked.flatMap(({ choices }, i) =>
    choices.map((choice) => ({ context: contexts[i], continuation: delimiter + choice })),
  )
  const scores = await scoreContinuations(model, pairs, options)
  let next = 0
  return questions.map(({ line, group }, i) => {
    const { choices, answer } = asked[i]
    const sums = choices.map(() => scores[next++].logLikelihood)
    // As Python counts characters: code points, without the delimiter.
    const byCharacter = sums.map((sum, j) => sum / [...choices[j]].length)
    return {
      line,
      group,
      scores: {
        accuracy: indexOfLargest(sums) === answer,
        accuracyNormalized: indexOfLargest(byCharacter) === answer,
      },
      choices: sums,
    }
  })
}

async function scoreTargets(
  model: Model,
  task: LikelihoodTask,
  questions: readonly Question[],
  contexts: readonly string[],
  options: ScoringOptions,
): Promise<ItemScore[]> {
  const delimiter = delimiterOf(task, options)
  const pairs = questions.map(({ line, fields }, i) => ({
    context: contexts[i],
    continuation: delimiter + inRecord(options.file, line, () => targetOf(task, fields)),
  }))
  const scores = await scoreContinuations(model, pairs, options)
  return questions.map(({ line, group }, i) => {
    const { logLikelihood, tokens, greedy } = scores[i]
    return { line, group, scores: { greedy }, logLikelihood, tokens }
  })
}

async function scoreContinuations(
  model: Model,
  pairs: readonly { context: string; continuation: string }[],
  { signal }: ScoringOptions,
): Promise<SequenceScore[]> {
  const sequences = await encodeContinuations(model.tokenizer, pairs, {
    maxLength: model.config.maxPositions,
    signal,
  })
  const scores: SequenceScore[] = []
  for await (const score of scoreSequences(model.decoder, model.adapter, sequences, { signal }))
    scores.push(score)
  return scores
}

async function scoreAnswers(
  model: Model,
  task: GenerationTask,
  questions: readonly Question[],
  contexts: readonly string[],
  options: ScoringOptions,
): Promise<ItemScore[]> {
  const targets = questions.map(({ line, fields }) =>
    inRecord(options.file, line, () => comparable(task, targetOf(task, fields))),
  )
  const answers = await answer(model, contexts, task, options)
  return questions.map(({ line, group }, i) => {
    const matches = (text: string) => comparable(task, text) === targets[i]
    const scores =
      task.extract === undefined
        ? { exactMatch: matches(answers[i]) }
        : Object.fromEntries(
            task.extract.map(({ name, pattern, take }) => [
              `exactMatch.${name}`,
              matches(extracted(answers[i], pattern, take)),
            ]),
          )
    return { line, group, scores, answer: answers[i] }
  })
}

async function scoreInstructions(
  model: Model,
  task: InstructionTask,
  questions: readonly Question[],
  contexts: readonly string[],
  options: ScoringOptions,
): Promise<ItemScore[]> {
  const checks = questions.map(({ line, fields }) =>
    inRecord(options.file, line, () => {
      const ids = valueAt(fields, 'instruction_id_list')
      const given = valueAt(fields, 'kwargs')
      if (!Array.isArray(ids) || !Array.isArray(given) || ids.length === 0)
        throw new UnusableRecord('instruction_id_list and kwargs must be lists')
      try {
        return instructionCheck(
          ids.map(String),
          given.map((one) => (one ?? {}) as InstructionArguments),
        )
      } catch (error) {
        throw new UnusableRecord((error as Error).message)
      }
    }),
  )
  const answers = await answer(model, contexts, { ...task, stop: [] }, options)
  return questions.map(({ line, group }, i) => {
    const { strict, loose } = checks[i](answers[i])
    return {
      line,
      group,
      scores: {
        promptStrict: strict.every(Boolean),
        instructionStrict: strict,
        promptLoose: loose.every(Boolean),
        instructionLoose: loose,
      },
      answer: answers[i],
    }
  })
}

/** Greedy answers; too long a context loses its beginning. */
async function answer(
  model: Model,
  contexts: readonly string[],
  { maxTokens, stop }: { maxTokens: number; stop: readonly string[] },
  { signal }: ScoringOptions,
): Promise<string[]> {
  const { tokenizer, config } = model
  const room = Math.min(maxTokens, config.maxPositions - 1)
  const encoded = await tokenizer.encode(contexts, { addSpecialTokens: false, signal })
  const begin = tokenizer.bosTokenId ?? tokenizer.eosTokenId
  const prompts = encoded.map((tokens) => {
    if (tokens.length === 0 && begin !== undefined) return Int32Array.of(begin)
    return tokens.subarray(Math.max(0, tokens.length - (config.maxPositions - room)))
  })
  const answers = contexts.map(() => '')
  for await (const { index, text } of generate(model.decoder, model.adapter, tokenizer, prompts, {
    maxTokens: room,
    temperature: 0,
    stop,
    signal,
  }))
    answers[index] += text
  return answers
}

function comparable({ ignore, ignoreCase }: GenerationTask, text: string): string {
  let compared = text
  for (const pattern of ignore) compared = pattern.matcher(compared).replaceAll('')
  return ignoreCase ? compared.toLowerCase() : compared
}

/** Of the match its first group that holds something; what matches nothing equals no target. */
function extracted(text: string, pattern: RE2JS, take: 'first' | 'last'): string {
  const matcher = pattern.matcher(text)
  let found = '[invalid]'
  while (matcher.find()) {
    const groups = Array.from({ length: matcher.groupCount() }, (_, i) => matcher.group(i + 1))
    found = groups.length === 0 ? matcher.group()! : (groups.find(Boolean) ?? '[invalid]')
    if (take === 'first') break
  }
  return found.trim()
}

function indexOfLargest(values: readonly number[]): number {
  return values.indexOf(Math.max(...values))
}
