export * from './merge.js'
export * from './merge-model.js'
export { mergeRecipe, type MergeRecipeOptions } from './merge-recipe.js'
export { mergeAdapters, type MergeAdaptersOptions, sideBySideAdapter } from './merge-adapters.js'
export { mergeReport, type MergeReportOptions, type MergeReportRow } from './report.js'
export { parseRecipe, type Recipe } from './recipe.js'
export { modelDType, saveModel, type ModelDType, type SaveModelOptions } from '../models/save.js'
export { type FoundWeights, searchWeights, type WeightSearchOptions } from './lorahub.js'
export { type ParetoPoint, type ParetoSearchOptions, searchPareto } from './nsga2.js'
export { ensembleLogits, type GridSearchOptions, searchGrid } from './emorl.js'
export {
  type Composition,
  isComposition,
  parseComposition,
  writeComposition,
  type WriteCompositionOptions,
} from './composition-file.js'
export { exportAdapter, type ExportAdapterOptions } from './export-adapter.js'
export { plainAdapter, type PlainAdapterOptions } from './plain-adapter.js'
export { collectFisher, collectGram, type InformationOptions } from './information.js'
export { regMean } from './regmean.js'
export { WeightedAdapters } from './weighted-adapters.js'
