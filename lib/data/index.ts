export * from './corpus.js'
export { CorpusMemory } from './corpus-memory.js'
export * from './packed-batch.js'
export * from './records.js'
export {
  StepStream,
  type BatchOptions,
  type CorpusStep,
  type StepStreamOptions,
  type StepStreamState,
} from './step-stream.js'
export { readRecords } from './readers/index.js'
export { choicePrompt, promptAndCompletion } from './tokenize.js'
