import { DataError } from '../errors.js'
import { evaluate } from '../evaluate/evaluate.js'
import { checkInstruction, type InstructionRecord } from '../evaluate/constraints.js'
import type { Model } from '../model.js'
import { correctForChance, mean } from './statistics/index.js'
import type { StudyConfig } from './study-config.js'
import type { ItemSet } from './study-data.js'

/** What a model did on the items of a set. */
export interface SetScores {
  /** A digit an item, in order: 1 right, 0 wrong. */
  readonly right: string
  /** Of the right answers: natural, summed over items and tokens; null if that is not finite, as JSON has it. */
  readonly logLikelihood: number | null
  readonly tokens: number
}

const longestAnswer = 48
const promptsAtOnce = 64

/** Scores every item of a set: choices by likelihood, other answers if every token was the likeliest, instructions by rule. */
export async function scoreSet(
  model: Model,
  set: ItemSet,
  { metric, data: { chatTemplate } }: Pick<StudyConfig, 'metric' | 'data'>,
  signal?: AbortSignal,
): Promise<SetScores> {
  const right: boolean[] = []
  const records: Readonly<Record<string, unknown>>[] = []
  let [logLikelihood, tokens] = [0, 0]
  const scoring = evaluate(model, {
    data: set.path,
    chatTemplate,
    signal,
    onRecord: (score) => {
      const correct = metric === 'accuracy' ? score.correct : score.correctNormalized
      right.push(correct ?? score.greedy)
      records.push(score.fields)
      logLikelihood += score.logLikelihood
      tokens += score.tokens
    },
  })
  await scoring.catch((cause: unknown) => {
    if (!(cause instanceof DataError)) throw cause
    throw new DataError(`${set.path}: ${cause.message}`, { cause, details: cause.details })
  })
  const checked = set.isChecked ? await obey(model, records, chatTemplate, signal) : right
  return {
    right: checked.map(Number).join(''),
    logLikelihood: Number.isFinite(logLikelihood) ? logLikelihood : null,
    tokens,
  }
}

/** Whether the model's own answers obey the records' constraints. */
async function obey(
  model: Model,
  records: readonly Readonly<Record<string, unknown>>[],
  chatTemplate: boolean,
  signal?: AbortSignal,
): Promise<boolean[]> {
  const answers = records.map(() => '')
  for (let begin = 0; begin < records.length; begin += promptsAtOnce) {
    signal?.throwIfAborted()
    const prompts = records.slice(begin, begin + promptsAtOnce).map(({ prompt }) => String(prompt))
    const options = { chatTemplate, maxTokens: longestAnswer, temperature: 0 }
    for await (const { index, text } of model.generateBatch(prompts, options))
      answers[begin + index] += text
  }
  return records.map((record, i) =>
    checkInstruction(record as unknown as InstructionRecord, answers[i]),
  )
}

/** Each item's score: 1 right, 0 as good as a guess. */
export function itemScores({ right }: SetScores, { chances }: ItemSet): number[] {
  return chances.map((chance, i) => correctForChance(Number(right[i]), chance))
}

/** Log-likelihood of the right answers per token; null if it is not finite. */
export function logLikelihoodOf({ logLikelihood, tokens }: SetScores): number | null {
  return logLikelihood === null ? null : logLikelihood / tokens
}

/** Chance-corrected accuracy of a set. */
export function accuracyOf(scores: SetScores, set: ItemSet): number {
  return mean(itemScores(scores, set))
}
