import { join } from 'node:path'
import type { EmbeddingMemory } from '../data/balance/embedding.js'
import { type DiversitySurvey, drawableTokens, surveyDiversity } from '../data/balance/plan.js'
import { Corpus } from '../data/index.js'
import { nodeFileSystem } from '../file-system.js'
import { readJsonFile } from '../json-file.js'
import type { Model } from '../model.js'
import { embedderOf, mostBatchTokens } from '../train/mixing.js'
import { hashOf } from './procedure.js'
import { writeWhole } from './run-record.js'
import type { StudyConfig } from './study-config.js'
import type { StudyData } from './study-data.js'

/** What the caps of the first law allow of a study's training data. */
export interface CorpusSurvey extends DiversitySurvey {
  /** Most tokens of a step that is to have batchTokens: a longer sample is a step. */
  readonly stepTokens: number
}

export interface SurveyOptions {
  readonly modelFingerprint: string
  readonly memory: EmbeddingMemory
  readonly signal?: AbortSignal
  readonly onMessage?: (message: string) => void
}

const surveyName = 'survey.json'
const fileCap = 64 << 20

/** Embeds the training data of all disciplines, unless the study's folder has what was found before. */
export async function surveyCorpus(
  config: StudyConfig,
  model: Model,
  data: StudyData,
  { modelFingerprint, memory, signal, onMessage }: SurveyOptions,
): Promise<CorpusSurvey> {
  const sources = data.disciplines.map(({ name, path }) => ({ discipline: name, path, weight: 1 }))
  await using corpus = await Corpus.open(sources, {
    tokenizer: model.tokenizer,
    maxLength: model.config.maxPositions,
    onTooLong: 'skip',
    onBadRecord: 'skip',
    chatTemplate: config.data.chatTemplate,
    labels: 'all',
    traits: true,
    signal,
  })
  const { embedding, dtype, batchTokens } = config
  const of = hashOf({ modelFingerprint, corpus: corpus.fingerprint, embedding, dtype, batchTokens })
  const path = join(config.output, surveyName)
  if (await nodeFileSystem.inspect(path)) {
    const saved = (await readJsonFile(path, fileCap)) as { of: string; survey: CorpusSurvey } | null
    if (saved?.of === of) return saved.survey
  }
  onMessage?.(`measuring the diversity of ${corpus.numSamples} items`)
  const embedder = memory.around(embedderOf(embedding, model.decoder))
  const survey = {
    ...(await surveyDiversity(corpus, embedder, { signal })),
    stepTokens: mostBatchTokens(batchTokens, corpus),
  }
  await writeWhole(path, `${JSON.stringify({ of, survey })}\n`)
  return survey
}

/** Steps of a run that caps of at most so many passes allow. */
export function drawableSteps(survey: CorpusSurvey, maxEpochs: number): number {
  return Math.floor(drawableTokens(survey, maxEpochs) / survey.stepTokens)
}
