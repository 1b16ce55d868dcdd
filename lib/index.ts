export * from './errors.js'
export { Device, backends, openDevice } from './device.js'
export type { Backend, DeviceInfo, DeviceOptions, Recording } from './device.js'
export { Model, type ModelOptions } from './model.js'
export { lora } from './adapters/declaration.js'
export { dora, hydraLora, loraMoe, mtlLora, olora, pissa } from './adapters/kinds.js'
export type { CompositionGate, LoraMoeOptions, MtlLoraOptions } from './adapters/kinds.js'
export type { AdapterKind, LoraDeclaration, LoraOptions } from './adapters/declaration.js'
export type { Adapter, AdapterModule } from './adapters/adapter.js'
export { train, type TrainOptions } from './train/train.js'
export { EmbeddingMemory } from './data/balance/embedding.js'
export { trainSideBySide, type TrainSideBySideOptions } from './train/train-side-by-side.js'
export { describeAdapter } from './adapters/describe.js'
export type { AdapterDescription, ModuleDescription } from './adapters/describe.js'
export { saveAdapter } from './adapters/peft.js'
export { runTraining } from './train/run.js'
export type { RunOptions, RunPlan, RunResult, RunStepReport } from './train/run.js'
export { planMemory, requireMemory } from './train/memory-plan.js'
export type { MemoryPlan, MemoryUse } from './train/memory-plan.js'
export { parseTrainConfig } from './train/options.js'
export type { TrainConfig, TrainConfigInput } from './train/options.js'
export type { StepReport } from './train/step-report.js'
export type { RouterReport, RoutingReport } from './train/routing.js'
export { evaluate } from './evaluate/evaluate.js'
export type { EvaluateOptions, EvaluationResult, RecordScore } from './evaluate/evaluate.js'
export { evaluateTask, parseTask } from './evaluate/tasks/index.js'
export type {
  Figure,
  ItemScore,
  Task,
  TaskInput,
  TaskOptions,
  TaskResult,
} from './evaluate/tasks/index.js'
export type { GenerateOptions, GeneratedText } from './generate/generate.js'
export {
  collectFisher,
  collectGram,
  ensembleLogits,
  exportAdapter,
  mergeAdapters,
  mergeModel,
  mergeRecipe,
  mergeReport,
  parseComposition,
  parseRecipe,
  plainAdapter,
  regMean,
  searchGrid,
  searchPareto,
  searchWeights,
  sideBySideAdapter,
  WeightedAdapters,
  writeComposition,
} from './merge/index.js'
export type {
  Composition,
  ExportAdapterOptions,
  GridSearchOptions,
  InformationOptions,
  MergeAdaptersOptions,
  MergeRecipeOptions,
  MergeReportOptions,
  MergeReportRow,
  ParetoPoint,
  ParetoSearchOptions,
  PlainAdapterOptions,
  Recipe,
  WeightSearchOptions,
  WriteCompositionOptions,
} from './merge/index.js'
export { runStudy, type StudyOptions, type StudyResults } from './laws/study.js'
export { parseRecipeConfig, parseStudyConfig } from './laws/study-config.js'
export type { StudyConfig, StudyConfigInput } from './laws/study-config.js'
export { runRecipe, type RecipeName, type RecipeOptions, type RecipeResult } from './laws/recipe.js'
export { balance, parseBalanceRecipe, planBalance } from './laws/balance.js'
export type { BalancePlan, BalanceRow } from './laws/balance.js'
export { orderByTransfer, type TransferMatrix } from './train/task-order.js'
export { doctor, type DeviceReport, type DoctorReport } from './doctor.js'
export { Tokenizer } from './text/index.js'
export type { ChatMessage } from './text/index.js'
